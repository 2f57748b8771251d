"""Whether the worker of a trial lives: by its process here, by its heartbeats elsewhere."""

import subprocess
import time

import psutil
import pytest
from opened import HeldLock, begin, journal, open_studies
from optuna.trial import TrialState

from hydrasweep import liveness
from hydrasweep.liveness import BEAT, N_MISSED, OWNER, SECONDS, SLACK, identity, is_dead
from hydrasweep.storage import close_storages
from hydrasweep.stratum import RETRY_OF

# The clock and the time zone of another machine may be anything.
ELSEWHERE = {"host": "elsewhere", "pid": "1", "process_started": "1e12", SECONDS: 1.0}


class Clock:
    """Replaces the monotonic clock of the time module."""

    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    return clock


@pytest.fixture
def studies(tmp_path):
    """A study that is to have one trial."""
    opened = open_studies(journal(tmp_path / "study"))
    opened.fill(1)
    yield opened
    close_storages()


def begin_elsewhere(studies):
    """Begin a trial in the name of a worker of another machine."""
    _, trial = begin(studies)
    trial.set_user_attr(OWNER, ELSEWHERE)
    return trial


# Processes of this machine


def test_process_is_dead_when_it_has_ended():
    with subprocess.Popen(["true"]) as other:
        process = psutil.Process(other.pid)
        started = process.create_time() - psutil.boot_time()
        ended = {**identity(), "pid": str(other.pid), "process_started": str(started)}
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert is_dead(ended)  # although nobody has waited for it yet
    assert is_dead(ended)
    assert not is_dead(identity())
    for elsewhere in (
        {"host": "another-machine"},
        {"pid_namespace": "of a container"},
        {"boot": "of a machine with the same name"},
    ):
        assert not is_dead({**ended, **elsewhere})


@pytest.mark.parametrize(("seconds", "is_another"), [(-60, True), (-0.9, False), (0.9, False)])
def test_process_with_another_start_time_has_a_reused_pid(seconds, is_another):
    """The system rounds start times, so that small differences mean nothing."""
    assert abs(seconds) < SLACK or is_another
    own = identity()
    started = f"{float(own['process_started']) + seconds:.2f}"
    assert is_dead({**own, "process_started": started}) == is_another


@pytest.mark.parametrize("seconds", [-86400, -10, 10, 86400])
def test_process_lives_on_when_the_clock_is_set(monkeypatch, seconds):
    before = identity()
    # Linux computes the time at which the machine was started from its clock.
    began = psutil._psplatform.boot_time
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: began() + seconds)
    assert not is_dead(before)
    assert identity() == before


def test_worker_of_this_machine_needs_no_heartbeats(studies, clock):
    begin(studies)
    assert studies.settle() == []
    clock.now += 1e6
    assert studies.settle() == studies.settle(elsewhere=True) == []


def test_trial_without_an_owner_is_lost(studies):
    studies.strata[0].study.ask()
    assert studies.settle() == ["000"]


# Workers of other machines


def test_trial_of_a_silent_worker_fails_and_is_repeated(studies, clock):
    lost = begin_elsewhere(studies)
    assert studies.settle() == []
    clock.now += N_MISSED
    assert studies.settle() == []
    clock.now += 0.1
    assert studies.settle(elsewhere=True) == ["000"]
    first, repeated = studies.strata[0].study.trials
    assert first.state == TrialState.FAIL
    assert (repeated.state, repeated.user_attrs[RETRY_OF]) == (TrialState.WAITING, first.number)
    assert begin(studies)[1].params == lost.params


def test_heartbeats_and_reports_keep_a_worker_alive(studies, clock):
    trial = begin_elsewhere(studies)
    for n in range(5):
        trial.set_user_attr(BEAT, n)
        assert studies.settle() == []
        clock.now += N_MISSED
    trial.report(0.5, 1)
    assert studies.settle() == []
    clock.now += N_MISSED
    assert studies.settle() == []


def test_heartbeat_while_the_lock_is_awaited_keeps_a_worker_alive(studies, clock):
    trial = begin_elsewhere(studies)
    studies.settle()
    clock.now += N_MISSED + 1
    studies.lock = HeldLock(lambda: trial.set_user_attr(BEAT, 1))
    studies.settle()
    assert [each.state for _, each in studies.trials()] == [TrialState.RUNNING]
