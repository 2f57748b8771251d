"""Workers of other machines: known to live by their signs, and to be lost without them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from hydrasweep.search import heartbeat
from hydrasweep.search.heartbeat import BEAT, N_MISSED, OWNER, SECONDS, beating
from hydrasweep.search.queue import DROPPED, MAX_RETRIES, Queue

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
    monkeypatch.setattr(heartbeat, "time", clock)
    return clock


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    sampler = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 1})
    return Queue.open("s", f"sqlite:///{tmp_path}/s.db", [""], ["maximize"], sampler, None)


Take = Callable[[], Trial]


@pytest.fixture
def taken_elsewhere(queue: Queue) -> Take:
    """Takes a trial in the name of a process of another machine."""

    def take() -> Trial:
        queue.fill(1)
        taken = queue.take(SPACE)
        assert taken is not None
        taken[1].set_user_attr(OWNER, ELSEWHERE)
        return taken[1]

    return take


def test_silent_worker_of_another_machine_is_lost_and_its_trial_tried_again(
    queue: Queue, taken_elsewhere: Take, clock: Clock
) -> None:
    lost = taken_elsewhere()
    assert queue.settle() == []
    clock.now += N_MISSED
    assert queue.settle() == []
    clock.now += 0.1
    assert queue.settle(elsewhere=True) == ["000"]
    first, again = queue.strata[0].study.trials
    assert (first.state, DROPPED in first.user_attrs) == (TrialState.FAIL, True)
    assert again.state == TrialState.WAITING
    taken = queue.take(SPACE)
    assert taken is not None
    assert taken[1].params == lost.params


def test_worker_that_gives_signs_is_left_alone(
    queue: Queue, taken_elsewhere: Take, clock: Clock
) -> None:
    trial = taken_elsewhere()
    for n in range(5):
        trial.set_user_attr(BEAT, n)
        assert queue.settle() == []
        clock.now += N_MISSED
    trial.report(0.5, 1)  # which is a sign as well
    assert queue.settle() == []
    clock.now += N_MISSED
    assert queue.settle() == []


def test_trial_that_is_lost_each_time_fails_and_counts(
    queue: Queue, taken_elsewhere: Take, clock: Clock
) -> None:
    for _ in range(MAX_RETRIES + 1):
        taken_elsewhere()
        queue.settle()
        clock.now += 100
        queue.settle()
    assert [trial.state for _, trial in queue.trials()] == [TrialState.FAIL]


def test_trial_that_no_worker_owns_is_lost(queue: Queue) -> None:
    queue.fill(1)
    queue.strata[0].study.ask()
    assert queue.settle() == ["000"]


def test_own_machines_worker_is_looked_up_and_needs_no_signs(queue: Queue, clock: Clock) -> None:
    queue.fill(1)
    queue.take(SPACE)
    queue.settle()
    clock.now += 1e6
    assert queue.settle() == []
    assert queue.settle(elsewhere=True) == []


def test_signs_are_given_while_a_trial_runs_and_no_longer(queue: Queue) -> None:
    queue.fill(1)
    taken = queue.take(SPACE)
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


def test_worker_whose_trial_others_gave_up_can_still_end_it(queue: Queue) -> None:
    queue.fill(1)
    taken = queue.take(SPACE)
    assert taken is not None
    stratum, trial = taken
    queue.give_up(stratum, trial.number, "it was silent", blame=True)
    with beating(trial, 0.001):
        time.sleep(0.05)
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(0.5, 1)
