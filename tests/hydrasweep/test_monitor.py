"""What a sweep shows and records while it runs."""

import io
import re
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from unittest.mock import Mock

import planted
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hydrasweep import monitor
from hydrasweep.errors import Outage
from hydrasweep.monitor import Monitor, event_line
from hydrasweep.stratum import LOST, RETRY_OF, WHY
from hydrasweep.tables import as_text
from hydrasweep.trials import CONFIRM, FINAL

SPACE = {"x": FloatDistribution(0.0, 1.0)}


class Clock:
    """Stands for the module ``time`` in the monitor, which looks every 10 ms."""

    time, strftime = staticmethod(time.time), staticmethod(time.strftime)

    def __init__(self):
        self.now = 0.0
        self.n_calls = 0

    def monotonic(self):
        self.n_calls += 1
        return self.now

    def advance(self, seconds):
        """Let time pass, and wait until the monitor has looked."""
        self.now += seconds
        n_before = self.n_calls
        wait_for(lambda: self.n_calls > n_before + 4)  # two calls each time


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(monitor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(monitor, "time", clock)
    return clock


@pytest.fixture
def studies():
    made = planted.studies(a=[], b=[])
    made.fill(8)
    return made


def watch(studies, *more, seen=None, **kwargs):
    """A monitor of two workers that calls ``seen.write`` and ``seen.record``."""
    seen = seen or Mock()
    return Monitor(studies, 2, seen.write, seen.record, *more, **kwargs)


def redirect(monkeypatch, screen):
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


def take(studies):
    taken = studies.take(SPACE)
    assert taken is not None
    return taken


def run(studies, value, state=None):
    """Run a trial of one step."""
    stratum, trial = take(studies)
    trial.report(0.5, 1)
    stratum.study.tell(trial, value, state)


def wait_for(condition):
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_each_end_is_a_line_and_the_best_so_far_is_recorded(studies, monkeypatch):
    screen, seen = redirect(monkeypatch, io.StringIO()), Mock()
    a, b = (replace(studies, strata=[stratum]) for stratum in studies.strata)
    run(a, 0.9)  # before the monitor starts
    with watch(studies, seen=seen) as watching:
        assert seen.write.call_count == 1
        run(b, 0.5)
        run(a, None, TrialState.FAIL)
        run(b, 0.25)
        run(a, 0.75)
        watching.say("[red] is no markup")
    lines = screen.getvalue().splitlines()
    events = sorted(line.split()[1:] for line in lines if line[:1].isdigit())
    starts = ["a-001 FAIL", "a-002 COMPLETE 0.7500 1", "b-000 COMPLETE 0.5000"]
    starts.append("b-001 COMPLETE 0.2500")
    for event, start in zip(events, starts, strict=True):
        assert " ".join(event).startswith(start)
    assert events[1][-1].startswith("x=0.")
    assert "[red] is no markup" in lines
    assert seen.write.call_count > 1
    expected = [({"best/a": 0.9}, 2), ({"best/b": 0.5}, 0), ({"best/b": 0.5}, 1)]
    assert sorted((call.args for call in seen.record.call_args_list), key=str) == expected


def test_table_has_counts_the_best_and_running_trials(studies):
    watching = watch(studies, max_steps=9, since=time.time() - 90)
    assert "2 min" in as_text(watching.table()).splitlines()[-1]
    for value in (0.5, 0.25):
        run(studies, value)
    stratum, trial = take(studies)
    trial.report(0.125, 3)
    lines = [line.split() for line in as_text(watching.table()).splitlines()]
    rows = {line[0]: line[1:] for line in lines if line}
    running = {stratum.value: ["#1", "step", "4/9", "0.1250"]}
    for row, value in (("a", "0.5000"), ("b", "0.2500")):
        *counts, by, x = rows[row][:6]
        assert [*counts, by] == ["1/4", "0", "0", value, "#0"]
        assert x.startswith("x=0.")
        assert rows[row][6:] == running.get(row, [])


@pytest.mark.parametrize("phase", [CONFIRM, FINAL])
def test_table_has_no_best_value_of_repetitions(studies, phase):
    """The best of several seeds is luck, and in the last phase perhaps a test score."""
    for stratum in studies.strata:
        stratum.phase = phase
        stratum.study.add_trial(create_trial(value=0.625))
    shown = as_text(watch(studies).table())
    assert "best" not in shown
    assert "0.625" not in shown


def test_time_left_follows_from_each_stratums_pace_and_the_number_of_workers(
    studies,
):
    watching = watch(studies)
    assert watching.seconds_left() is None
    now = datetime.now()
    for stratum, seconds in zip(studies.strata, (10, 20), strict=True):
        done = create_trial(value=0.5, params={"x": 0.5}, distributions=SPACE)
        done.datetime_start, done.datetime_complete = now, now + timedelta(seconds=seconds)
        stratum.study.add_trial(done)
    assert watching.seconds_left() == pytest.approx((3 * 10 + 3 * 20) / 2)
    stratum, _ = take(studies)
    assert watching.seconds_left() == pytest.approx((3 * 10 + 3 * 20) / 2, abs=1)
    studies.fill(2)  # only the running trial is left
    pace = {"a": 10, "b": 20}[stratum.value]
    assert watching.seconds_left() == pytest.approx(pace / 2, abs=1)
    watching.n_repeats = 3  # of each stratum, in later phases
    assert watching.seconds_left() == pytest.approx((pace + 3 * 10 + 3 * 20) / 2, abs=1)


def test_event_of_a_lost_trial_has_the_reason():
    failed = planted.trial(state=TrialState.FAIL, attrs={WHY: "E: no"})
    attrs = {RETRY_OF: 1, LOST: "it was silent"}
    again = planted.trial(state=TrialState.WAITING, attrs=attrs)
    (stratum,) = planted.studies(a=[failed, failed, again]).strata
    first, second, _ = stratum.study.trials
    assert event_line(stratum, first).endswith("a-000 FAIL E: no")
    assert re.search("a-001.*it was silent", event_line(stratum, second))


@pytest.mark.parametrize(("limit", "shown"), [(None, ""), (90.0, "90 s")])
def test_trial_that_the_end_waits_for_is_named_once(
    studies,
    clock,
    monkeypatch,
    limit,
    shown,
):
    screen = redirect(monkeypatch, io.StringIO())
    studies.fill(2)
    with watch(studies, limit):
        take(studies)
        clock.advance(0)
        clock.advance(100)
        assert screen.getvalue() == ""  # another trial can still begin
        other, second = take(studies)
        for step in range(1, 4):
            second.report(0.5, step)
            clock.advance(40)
        assert screen.getvalue() == ""  # one of them reports
        other.study.tell(second, 0.5)
        clock.advance(1)
        clock.advance(59)
        assert "a-000" not in screen.getvalue()
        clock.advance(5)
        wait_for(lambda: "a-000" in screen.getvalue())
        clock.advance(100)
    (line,) = (line for line in screen.getvalue().splitlines() if "a-000" in line)
    assert re.search(r"\b1 min\b.*hydra\.sweeper\.trial_timeout", line)
    assert shown in line


def test_files_that_take_long_are_written_less_often(studies, clock):
    def tick():
        clock.now += 1

    def tell(n):
        run(studies, 0.5)
        wait_for(lambda: seen.record.call_count == n)

    seen = Mock(**{"write.side_effect": tick})
    with watch(studies, seen=seen):
        tell(1)
        wait_for(lambda: seen.write.call_count == 2)  # at the start and after the first trial
        for n in range(2, 7):
            tell(n)
        clock.advance(40)
        assert seen.write.call_count == 2
        clock.advance(20)
        wait_for(lambda: seen.write.call_count == 3)
        tell(7)
        assert seen.write.call_count == 3
    assert seen.write.call_count == 4  # at the end


def test_error_of_the_monitor_stops_the_sweep_and_is_raised(studies):
    seen = Mock(**{"write.side_effect": [None, Outage("the disk is full")]})
    watching = watch(studies, seen=seen).__enter__()
    run(studies, 0.5)
    wait_for(studies.stop_reason)
    with pytest.raises(Outage, match="the disk is full"):
        watching.__exit__()
    assert studies.stop_reason() == "the disk is full"
    assert studies.take(SPACE) is None


def test_terminal_shows_a_live_table_and_lines_of_failures_only(studies, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = redirect(monkeypatch, Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with watch(studies):
        run(studies, 0.5)
        run(studies, None, TrialState.FAIL)
    shown = screen.getvalue()
    assert "b-000 FAIL" in shown
    assert "a-000 COMPLETE" not in shown
    assert "1/4" in shown
