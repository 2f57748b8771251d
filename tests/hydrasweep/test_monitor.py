"""What a person sees of a sweep while it runs."""

import io
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hydrasweep import monitor
from hydrasweep.errors import Outage
from hydrasweep.monitor import Monitor, event_line
from hydrasweep.stratum import LOST, RETRY_OF, WHY, Stratum
from hydrasweep.studies import Studies
from hydrasweep.tables import as_text
from hydrasweep.trials import CONFIRM, FINAL

SPACE = {"x": FloatDistribution(0.0, 1.0)}
NOTHING: Any = (lambda: None, lambda *_: None)  # is written or recorded


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "POLL_SECONDS", 0.01)


@pytest.fixture
def studies() -> Studies:
    storage = optuna.storages.InMemoryStorage()
    strata = []
    for value in ("a", "b"):
        study = optuna.create_study(study_name=value, storage=storage, direction="maximize")
        strata.append(Stratum(value, study))
    made = Studies("s", strata, threading.RLock())
    made.fill(8)
    return made


class Seen:
    """What a monitor wrote and recorded."""

    def __init__(self) -> None:
        self.n_written = 0
        self.recorded: list[tuple[dict[str, float], int]] = []

    def write(self) -> None:
        self.n_written += 1

    def record(self, metrics: Any, step: int) -> None:
        self.recorded.append((dict(metrics), step))


def take(studies: Studies) -> tuple[Stratum, optuna.Trial]:
    taken = studies.take(SPACE)
    assert taken is not None
    return taken


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_each_end_is_a_line_and_the_best_so_far_is_recorded(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, seen = io.StringIO(), Seen()
    monkeypatch.setattr(sys, "stdout", screen)
    stratum, trial = take(studies)
    stratum.study.tell(trial, 0.9)  # before this start
    with Monitor(studies, 2, seen.write, seen.record) as watching:
        assert seen.n_written == 1
        for value, state in ((0.5, None), (None, TrialState.FAIL), (0.25, None), (0.75, None)):
            stratum, trial = take(studies)
            trial.report(0.5, 1)
            stratum.study.tell(trial, value, state)
        watching.say("[red] is no markup")
    lines = screen.getvalue().splitlines()
    events = sorted(line.partition(" ")[2] for line in lines if line[:1].isdigit())
    assert re.match(r"a-001 FAIL its process died each time", events[0])
    assert re.match(r"a-002 COMPLETE 0\.7500 1 steps \d\.\d s x=0\.\d+$", events[1])
    assert [event[:21] for event in events[2:]] == [
        "b-000 COMPLETE 0.5000",
        "b-001 COMPLETE 0.2500",
    ]
    assert "[red] is no markup" in lines
    assert seen.n_written > 1
    assert sorted(seen.recorded, key=str) == [
        ({"best/a": 0.9}, 2),
        ({"best/b": 0.5}, 0),
        ({"best/b": 0.5}, 1),
    ]


def test_table_has_counts_and_what_runs(studies: Studies) -> None:
    for value in (0.5, 0.25):
        stratum, trial = take(studies)
        stratum.study.tell(trial, value)
    stratum, trial = take(studies)
    trial.report(0.125, 3)
    shown = as_text(Monitor(studies, 2, lambda: None, lambda *_: None).table())
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.split()}
    running = {stratum.value: ["#1", "step", "4", "0.1250"]}
    for row, value in (("a", "0.5000"), ("b", "0.2500")):
        *counts, by, x = rows[row][:6]
        assert [*counts, by] == ["1/4", "0", "0", value, "#0"]
        assert x.startswith("x=0.")
        assert rows[row][6:] == running.get(row, [])
    assert shown.startswith("study s: search")


def test_table_tells_that_workers_start_and_how_far_a_whole_trial_goes(studies: Studies) -> None:
    watching = Monitor(studies, 2, *NOTHING, max_steps=9, since=time.time() - 90)
    assert as_text(watching.table()).endswith("2 min so far; time left: workers start")
    _, trial = take(studies)
    trial.report(0.5, 2)
    assert "#0 step 3/9 0.5000" in as_text(watching.table())
    assert as_text(watching.table()).endswith("time left: known after each first trial")


@pytest.mark.parametrize("phase", [CONFIRM, FINAL])
def test_no_best_of_repetitions_is_shown(studies: Studies, phase: str) -> None:
    """It would be luck, and in the last phase perhaps a test score."""
    for stratum in studies.strata:
        stratum.phase = phase
        stratum.study.add_trial(create_trial(value=0.625))
    shown = as_text(Monitor(studies, 2, *NOTHING).table())
    assert "best" not in shown
    assert "0.625" not in shown


def test_time_left_is_known_after_each_strata_first_end_and_shared_by_the_workers(
    studies: Studies,
) -> None:
    watching = Monitor(studies, 2, lambda: None, lambda *_: None)
    assert watching.seconds_left() is None
    now = datetime.now()
    for stratum, seconds in zip(studies.strata, (10, 20), strict=True):
        done = create_trial(value=0.5, params={"x": 0.5}, distributions=SPACE)
        done.datetime_start, done.datetime_complete = now, now + timedelta(seconds=seconds)
        stratum.study.add_trial(done)
    assert watching.seconds_left() == pytest.approx((3 * 10 + 3 * 20) / 2)
    stratum, _ = take(studies)
    assert watching.seconds_left() == pytest.approx((3 * 10 + 3 * 20) / 2, abs=1)
    studies.fill(2)  # so that what runs is all that is left
    pace = {"a": 10, "b": 20}[stratum.value]
    assert watching.seconds_left() == pytest.approx(pace / 2, abs=1)
    watching.n_repeats = 3  # of each, in later phases
    assert watching.seconds_left() == pytest.approx((pace + 3 * 10 + 3 * 20) / 2, abs=1)


def test_lost_trial_is_told_with_why(studies: Studies) -> None:
    stratum = studies.strata[0]
    failed = create_trial(
        state=TrialState.FAIL, params={"x": 0.5}, distributions=SPACE, user_attrs={WHY: "E: no"}
    )
    stratum.study.add_trials([failed, failed])
    again = create_trial(state=TrialState.WAITING, user_attrs={RETRY_OF: 1, LOST: "it was silent"})
    stratum.study.add_trial(again)
    first, second, _ = stratum.study.trials
    assert event_line(stratum, first).endswith("a-000 FAIL E: no")
    assert event_line(stratum, second).endswith(
        "a-001 lost: it was silent; its settings are tried again"
    )


@pytest.mark.parametrize(("limit", "told"), [(None, "would limit it"), (90.0, "limits it to 90 s")])
def test_trial_that_the_end_waits_for_is_told_once(
    studies: Studies, monkeypatch: pytest.MonkeyPatch, limit: float | None, told: str
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(monitor, "WAIT_SECONDS", 1.0)
    studies.fill(2)
    with Monitor(studies, 2, lambda: None, lambda *_: None, limit):
        _, first = take(studies)
        time.sleep(1.5)
        assert screen.getvalue() == ""  # there is another to begin
        other, second = take(studies)
        for step in range(1, 15):
            second.report(0.5, step)
            time.sleep(0.1)
        assert screen.getvalue() == ""  # one of them reports
        other.study.tell(second, 0.5)
        wait_for(lambda: "Waiting" in screen.getvalue())
        time.sleep(1.5)
    (line,) = (line for line in screen.getvalue().splitlines() if "Waiting" in line)
    assert line == (
        "Waiting for a-000, which reported nothing for 1.0 s: hydra.sweeper.trial_timeout " + told
    )
    assert first.number == 0


def test_files_of_a_long_sweep_are_left_alone_for_a_while(studies: Studies) -> None:
    seen = Seen()

    def slow() -> None:
        time.sleep(0.05)
        seen.write()

    with Monitor(studies, 1, slow, seen.record):
        for n in range(8):
            stratum, trial = take(studies)
            stratum.study.tell(trial, 0.5)
            wait_for(lambda n=n: len(seen.recorded) > n)
    assert seen.n_written == 3  # at the start, after the first trial, and at the end


def test_error_of_the_monitor_stops_the_sweep_and_is_raised(studies: Studies) -> None:
    calls = []

    def write() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Outage("the disk is full")

    def watched() -> None:
        with Monitor(studies, 1, write, lambda *_: None):
            stratum, trial = take(studies)
            stratum.study.tell(trial, 0.5)
            wait_for(studies.stop_reason)

    with pytest.raises(Outage, match="the disk is full"):
        watched()
    assert studies.stop_reason() == "the disk is full"
    assert studies.take(SPACE) is None


def test_terminal_has_a_live_table_and_lines_for_failures_alone(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Monitor(studies, 1, lambda: None, lambda *_: None):
        for state, value in ((None, 0.5), (TrialState.FAIL, None)):
            stratum, trial = take(studies)
            stratum.study.tell(trial, value, state)
    shown = screen.getvalue()
    assert "study s: search" in shown
    assert "b-000 FAIL" in shown
    assert "a-000 COMPLETE" not in shown
    assert "1/4" in shown
