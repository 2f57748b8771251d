"""What a person sees of a sweep while it runs, and what is kept of it as it goes."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from hydrasweep import results
from hydrasweep.errors import Outage
from hydrasweep.stratum import WHY, Stratum
from hydrasweep.studies import Studies
from hydrasweep.tables import as_duration, number, short
from hydrasweep.trials import SEARCH, n_steps, origin, seconds

POLL_SECONDS = 1.0
WAIT_SECONDS = 60.0  # for trials that report nothing, before that is said
REST = 50.0  # the files of a long study take a while: they are left alone for so many times that


class Monitor:
    """Watches a phase from a thread: a live table on a terminal, a line for each event elsewhere;
    files (``write``) and the best of each stratum (``record``) after every trial.

    An error of its own stops the phase, and is raised when the monitor is left.
    """

    def __init__(
        self,
        studies: Studies,
        n_workers: int,
        write: Callable[[], None],
        record: Callable[[Mapping[str, float], int], None],
        trial_timeout: float | None = None,
        max_steps: int | None = None,  # of a whole trial
        n_repeats: int = 0,  # whole trainings of each stratum that later phases have
        since: float | None = None,  # when the sweep's command began, by ``time.time()``
    ) -> None:
        self.studies = studies
        self.n_workers = n_workers
        self.write = write
        self.record = record
        self.trial_timeout = trial_timeout
        self.max_steps = max_steps
        self.n_repeats = n_repeats
        self.since = since or time.time()
        # A setting may look like markup, such as [relu,/x].
        self.console = _Console(markup=False, emoji=False)
        self._seen: set[int] = set()
        self._is_written = True
        self._rests_until = 0.0
        self._waited_for: list[tuple[str, int]] = []  # trials and how far they are
        self._waits_since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> "Monitor":
        self.write()
        self._seen |= {trial._trial_id for _, trial in self._news()}
        self.studies.settle()  # the trials in which an earlier start ended
        self._update()
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._closed.set()
        self._thread.join()
        if self._error:
            raise self._error

    def say(self, message: str) -> None:
        """Write a line, above the table if there is one."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def _watch(self) -> None:
        try:
            self._look_until_closed()
        except Exception as error:
            self._error = error
            with suppress(Exception):  # the storage's failure may be the error
                self.studies.stop(str(error))  # no trial begins whose results would be lost

    def _look_until_closed(self) -> None:
        live = Live(
            console=self.console,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live if self.console.is_terminal else nullcontext():
            is_closed = False
            while not is_closed:
                is_closed = self._closed.wait(POLL_SECONDS)
                self._update()
                if self.console.is_terminal:
                    live.update(self.table())

    def _news(self) -> list[results.Row]:
        """The trials that have ended since they were last looked at, lost ones included."""
        return [
            (stratum, trial)
            for stratum in self.studies.strata
            for trial in stratum.study.get_trials(deepcopy=False)
            if trial.state.is_finished() and trial._trial_id not in self._seen
        ]

    def _update(self) -> None:
        self.studies.settle(elsewhere=True)
        for row in sorted(self._news(), key=lambda row: row[1].datetime_complete or datetime.min):
            stratum, trial = row
            self._seen.add(trial._trial_id)
            if not self.console.is_terminal or trial.state == TrialState.FAIL:
                self.say(event_line(stratum, trial))
            if trial.state == TrialState.COMPLETE and stratum.phase == SEARCH:
                value = results.best(stratum)[0].values[0]
                self.record({f"best/{stratum.value or 'all'}": value}, trial.number)
            self._is_written = False
        self._tell_waiting()
        started = time.monotonic()
        if not self._is_written and (started >= self._rests_until or self._closed.is_set()):
            self.write()
            self._is_written = True
            ended = time.monotonic()
            self._rests_until = ended + REST * (ended - started)

    def _tell_waiting(self) -> None:
        """Say which trials nothing is heard of while there is nothing else to do."""
        trials = [(s.label(t), t) for s, t in self.studies.trials()]
        running = [(name, n_steps(t)) for name, t in trials if t.state == TrialState.RUNNING]
        now = time.monotonic()
        if running != self._waited_for:
            self._waited_for, self._waits_since = running, now
        elif running and now >= self._waits_since + WAIT_SECONDS and not self.studies.n_to_do():
            self._waits_since = math.inf  # it is said once
            names, limit = ", ".join(name for name, _ in running), self.trial_timeout
            self.say(
                f"Waiting for {names}, which reported nothing for {as_duration(WAIT_SECONDS)}: "
                "hydra.sweeper.trial_timeout "
                + (f"limits it to {limit:g} s" if limit else "would limit it")
            )

    def table(self) -> Group:
        """Counts, running trials and the best so far for each stratum."""
        title = f"study {self.studies.name}: {self.studies.strata[0].phase}"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        stopped = "paused" if self.studies.strata[0].pauses else "pruned"
        # Of repetitions the best is luck, and in the last phase it may be a test score.
        searches = self.studies.strata[0].phase == SEARCH
        shown = ("best", "by") if searches else ()
        for name in ("", "done", stopped, "failed", *shown, "running"):
            table.add_column(name, justify="left" if name in ("", "by", "running") else "right")
        n_running = 0
        for stratum in self.studies.strata:
            trials = stratum.trials()
            states = [trial.state for trial in trials]
            n_all = sum(state != TrialState.WAITING for state in states) + stratum.n_to_do(trials)
            best = results.best(stratum)[:1] if searches else []
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            n_running += len(running)
            n_pruned = states.count(TrialState.PRUNED)
            n_done = sum(state.is_finished() for state in states)
            table.add_row(
                stratum.value or "all",
                f"{n_done - n_pruned if stratum.pauses else n_done}/{n_all}",
                _paused(trials) if stratum.pauses else str(n_pruned),
                str(states.count(TrialState.FAIL)),
                *((number(best[0].values[0]) if best else "", _by(best)) if searches else ()),
                "  ".join(_running(trial, self._last(stratum)) for trial in running),
            )
        left, so_far = self.seconds_left(), time.time() - self.since
        if left is None:
            n_done = self.studies.n_finished()
            waits = "known after each first trial" if n_running or n_done else "workers start"
            return Group(table, f"{as_duration(so_far)} so far; time left: {waits}")
        bar = ProgressBar(total=so_far + left, completed=so_far, width=40)
        return Group(table, bar, f"{as_duration(so_far)} so far; time left: {as_duration(left)}")

    def _last(self, stratum: Stratum) -> int | None:
        """The last step of a whole trial, where it is known."""
        return (stratum.pauses and stratum.pauses.max_resource) or self.max_steps

    def seconds_left(self) -> float | None:
        """What is still to do, in later phases too, at each stratum's mean pace so far; None
        before its first end."""
        total = 0.0
        for stratum in self.studies.strata:
            trials = stratum.trials()
            done = [trial for trial in trials if trial.state.is_finished()]
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            n_left: float = len(running) + stratum.n_to_do(trials)
            if not done:
                if n_left:
                    return None
                continue
            elapsed = sum(
                (datetime.now() - trial.datetime_start).total_seconds()
                for trial in running
                if trial.datetime_start
            )
            worked, n_done = sum(map(seconds, done)), len(done)
            whole = max(map(seconds, done))
            if stratum.pauses:  # they take all lengths: steps count
                n_done = sum(map(n_steps, done))
                n_whole = self._last(stratum) or max(map(n_steps, trials))
                n_all = len(trials) + stratum.n_new(trials)
                n_left = stratum.pauses.n_steps(n_all, n_whole) - n_done
                whole = worked / max(1, n_done) * n_whole
            pace = worked / max(1, n_done)
            total += max(0.0, pace * n_left - elapsed) + whole * self.n_repeats
        return total / self.n_workers


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise Outage("the output can't be written (Broken pipe)")


def event_line(stratum: Stratum, trial: FrozenTrial) -> str:
    """A trial's end in one line."""
    when, label = time.strftime("%H:%M:%S"), stratum.label(trial)
    if why := stratum.lost().get(trial.number):
        return f"{when} {label} lost: {why}; its settings are tried again"
    if trial.state == TrialState.FAIL:
        return f"{when} {label} FAIL {trial.user_attrs.get(WHY, 'its process died each time')}"
    words = [when, label, trial.state.name]
    words += [number(value) for value in trial.values or []]
    words += [f"{n_steps(trial)} steps", f"{seconds(trial):.1f} s"]
    words += [f"{key}={short(value)}" for key, value in trial.params.items()]
    return " ".join(words)


def _paused(trials: Sequence[FrozenTrial]) -> str:
    """How many trials paused after how many steps."""
    steps = Counter(n_steps(trial) for trial in trials if trial.state == TrialState.PRUNED)
    return ", ".join(f"{n} at step {step}" for step, n in sorted(steps.items()))


def _by(best: Sequence[FrozenTrial]) -> str:
    """Which trial is the best, and its settings by the last part of their names."""
    words = [f"#{origin(trial)}" for trial in best]
    for key, value in (item for trial in best for item in trial.params.items()):
        words.append(f"{key.rpartition('.')[2]}={short(value)}")
    return " ".join(words)


def _running(trial: FrozenTrial, last: int | None) -> str:
    step = trial.last_step
    value = f" {number(trial.intermediate_values[step])}" if step is not None else ""
    of = f"/{last}" if last else ""
    return f"#{origin(trial)} step {n_steps(trial) + 1}{of}{value}"
