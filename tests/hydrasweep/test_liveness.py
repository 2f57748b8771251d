"""Who lives: processes of this machine are looked up, those of others known by their signs."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from hydrasweep import liveness
from hydrasweep.liveness import BEAT, N_MISSED, OWNER, SECONDS, SLACK, beating, identity, is_dead
from hydrasweep.storage import close_storages
from hydrasweep.stratum import RETRY_OF
from hydrasweep.studies import MAX_RETRIES, Studies

SPACE = {"x": FloatDistribution(0.0, 1.0)}
# The clock of another machine, and its time zone, may be anything.
ELSEWHERE = {"host": "elsewhere", "pid": "1", "process_started": "1e12", SECONDS: 1.0}


class Clock:
    """Stands for the time module's monotonic clock."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    return clock


@pytest.fixture
def studies(tmp_path: Path) -> Any:
    sampler = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 1})
    url = f"sqlite:///{tmp_path}/s.db"
    storage = OmegaConf.create({"_target_": "hydrasweep.storage.database", "url": url})
    yield Studies.open("s", storage, [""], ["maximize"], sampler, None)
    close_storages()


Take = Callable[[], Trial]


@pytest.fixture
def taken_elsewhere(studies: Studies) -> Take:
    """Takes a trial in the name of a process of another machine."""

    def take() -> Trial:
        studies.fill(1)
        taken = studies.take(SPACE)
        assert taken is not None
        taken[1].set_user_attr(OWNER, ELSEWHERE)
        return taken[1]

    return take


# Processes of this machine


def test_process_lives_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        other.wait()
    assert not is_dead(identity())
    assert is_dead({**identity(), "pid": str(other.pid)})
    assert not is_dead({**identity(), "pid": str(other.pid), "host": "another-machine"})
    assert not is_dead({**identity(), "pid": str(other.pid), "pid_namespace": "of a container"})
    assert not is_dead({**identity(), "pid": str(other.pid), "boot": "of one with the same name"})


def test_process_that_nobody_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert is_dead({**identity(), "pid": str(other.pid)})


def test_reused_pid_is_another_process() -> None:
    own = identity()
    time.sleep(2 * SLACK)  # the other begins later than this process by more than is rounded
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert is_dead({**own, "pid": str(other.pid)})
        other.communicate(b"\n")


@pytest.mark.parametrize("seconds", [-86400, -10, 10, 86400])
def test_setting_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    before = identity()
    # Linux derives the time at which the machine began from its clock, at each look.
    began = psutil._psplatform.boot_time
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: began() + seconds)
    assert not is_dead(before)
    assert identity() == before


def test_own_machines_worker_is_looked_up_and_needs_no_signs(
    studies: Studies, clock: Clock
) -> None:
    studies.fill(1)
    studies.take(SPACE)
    studies.settle()
    clock.now += 1e6
    assert studies.settle() == []
    assert studies.settle(elsewhere=True) == []


# Processes of other machines


def test_silent_worker_of_another_machine_is_lost_and_its_trial_tried_again(
    studies: Studies, taken_elsewhere: Take, clock: Clock
) -> None:
    lost = taken_elsewhere()
    assert studies.settle() == []
    clock.now += N_MISSED
    assert studies.settle() == []
    clock.now += 0.1
    assert studies.settle(elsewhere=True) == ["000"]
    first, again = studies.strata[0].study.trials
    assert first.state == TrialState.FAIL
    assert (again.state, again.user_attrs[RETRY_OF]) == (TrialState.WAITING, first.number)
    taken = studies.take(SPACE)
    assert taken is not None
    assert taken[1].params == lost.params


def test_worker_that_gives_signs_is_left_alone(
    studies: Studies, taken_elsewhere: Take, clock: Clock
) -> None:
    trial = taken_elsewhere()
    for n in range(5):
        trial.set_user_attr(BEAT, n)
        assert studies.settle() == []
        clock.now += N_MISSED
    trial.report(0.5, 1)  # which is a sign as well
    assert studies.settle() == []
    clock.now += N_MISSED
    assert studies.settle() == []


def test_trial_that_is_lost_each_time_fails_and_counts(
    studies: Studies, taken_elsewhere: Take, clock: Clock
) -> None:
    for _ in range(MAX_RETRIES + 1):
        taken_elsewhere()
        studies.settle()
        clock.now += 100
        studies.settle()
    assert [trial.state for _, trial in studies.trials()] == [TrialState.FAIL]


def test_trial_that_no_worker_owns_is_lost(studies: Studies) -> None:
    studies.fill(1)
    studies.strata[0].study.ask()
    assert studies.settle() == ["000"]


def test_signs_are_given_while_a_trial_runs_and_no_longer(studies: Studies) -> None:
    studies.fill(1)
    taken = studies.take(SPACE)
    assert taken is not None
    stratum, trial = taken

    def n_beats() -> Any:
        (frozen,) = stratum.study.get_trials()
        return frozen.user_attrs.get(BEAT, 0)

    with beating(trial, 0.01):
        until = time.monotonic() + 10
        while n_beats() < 3 and time.monotonic() < until:
            time.sleep(0.01)
    n = n_beats()
    assert n >= 3
    time.sleep(0.05)
    assert n_beats() == n


def test_worker_whose_trial_others_requeued_can_still_end_it(studies: Studies) -> None:
    studies.fill(1)
    taken = studies.take(SPACE)
    assert taken is not None
    stratum, trial = taken
    studies.requeue(stratum, trial.number, "it was silent", counts=False)
    with beating(trial, 0.001):
        time.sleep(0.05)
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(0.5, 1)
