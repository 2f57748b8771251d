"""The strata of a sweep as studies in Optuna's storage, which every worker takes trials from.

A study says how many trials it is to have, and a worker begins the next while there are fewer:
one that waits to be tried again, else the next whose settings are given, else what the sampler
suggests. Whatever changes how many there are is done under the storage's lock, so that workers
anywhere begin exactly as many as there are to be, and no two the same.
"""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import optuna
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hydrasweep.given import Given, Race
from hydrasweep.liveness import OWNER, SECONDS, Watch, identity, is_here
from hydrasweep.storage import make_lock, open_storage
from hydrasweep.stratum import (
    LOST,
    N_TRIALS,
    RETRIES,
    RETRY_OF,
    WHY,
    Stratum,
    following,
    make_pruner,
    make_sampler,
)
from hydrasweep.trials import MARK, SEARCH, seconds

MAX_RETRIES = 3  # settings that are lost once more fail

# Names of a study's user attributes.
STOP = f"{MARK}stop"  # why no further trial may begin
CONCLUDED = f"{MARK}concluded"  # the plan that it ended with
STARTS = f"{MARK}starts"  # how often the sweep was started
ID = f"{MARK}id"  # what only this study has, of all that had its name
RUN = f"{MARK}run"  # its run in MLflow
RUN_URI = f"{MARK}run_uri"  # the store that has it


@dataclass
class Studies:
    """All strata of a sweep, in one of its phases."""

    name: str
    strata: list[Stratum]
    lock: AbstractContextManager[Any]  # for steps that must not happen twice at once
    heartbeat: float = 15.0  # in seconds
    watch: Watch = field(default_factory=Watch)
    start: int = 0  # which of the sweep's starts this process belongs to
    resumable: bool = False  # whether a trial can go on where it was stopped

    @classmethod
    def open(
        cls,
        name: str,
        storage: Any,
        values: Sequence[str],
        directions: Sequence[str],
        sampler: DictConfig | None,
        pruner: DictConfig | None,
        seed_offset: int = 0,
        phase: str = SEARCH,
        resumable: bool = False,
    ) -> "Studies":
        """Open the studies of a sweep's phase, which are made where there are none."""
        opened = open_storage(storage)
        strata = []
        base = name if phase == SEARCH else f"{name}@{phase}"
        for value in values:
            study = optuna.create_study(
                study_name=f"{base}/{value}" if value else base,
                storage=opened,
                sampler=make_sampler(sampler, seed_offset),
                pruner=make_pruner(pruner, resumable),
                directions=list(directions),  # type: ignore[arg-type]
                load_if_exists=True,
            )
            strata.append(Stratum(value, study, phase))
        return cls(name, strata, make_lock(storage), resumable=resumable)

    @property
    def head(self) -> Study:
        """The study that keeps what concerns all of them."""
        return min(self.strata, key=lambda stratum: stratum.value).study

    def trials(self) -> list[tuple[Stratum, FrozenTrial]]:
        """The trials that count, of all strata, waiting ones included."""
        return [(stratum, trial) for stratum in self.strata for trial in stratum.trials()]

    def states(self) -> Counter[str]:
        """How many trials there are of each state, those still to begin as WAITING."""
        states = Counter(trial.state.name for _, trial in self.trials())
        states["WAITING"] = self.n_to_do()
        return +states

    def longest(self) -> dict[str, float]:
        """The seconds that the longest trial of each stratum took."""
        return {s.value: max(map(seconds, s.trials()), default=0.0) for s in self.strata}

    def n_begun(self) -> int:
        """How many trials there have been, lost ones included."""
        return sum(len(stratum.study.get_trials(deepcopy=False)) for stratum in self.strata)

    def n_finished(self) -> int:
        return sum(trial.state.is_finished() for _, trial in self.trials())

    def n_to_do(self) -> int:
        """How many trials are still to begin."""
        return sum(stratum.n_to_do(stratum.trials()) for stratum in self.strata)

    def fill(self, n_trials: int) -> None:
        """Let the sweep have ``n_trials`` in all, divided equally."""
        for i, stratum in enumerate(self.strata):
            share = (n_trials + len(self.strata) - 1 - i) // len(self.strata)
            stratum.study.set_user_attr(N_TRIALS, share)

    def fill_with_given(self) -> None:
        """Let each stratum have the trials that are given, and no others."""
        for stratum in self.strata:
            stratum.study.set_user_attr(N_TRIALS, len(stratum.given))

    def give(
        self,
        given: Mapping[str, Sequence[Given]],
        seconds: Mapping[str, float] = MappingProxyType({}),
        race: Race | None = None,
    ) -> None:
        """Let each stratum try these settings first, of which a trial takes so many ``seconds``
        and, in a ``race``, only those that lead."""
        for stratum in self.strata:
            stratum.given = given.get(stratum.value, ())
            stratum.seconds = seconds.get(stratum.value, 0.0)
            stratum.race = race

    def take(self, distributions: Mapping[str, BaseDistribution]) -> tuple[Stratum, Trial] | None:
        """Take the next trial, of the stratum that has begun the fewest, and of these the one
        whose trials take longest, so that short ones fill the end; None: none is left."""
        if self.stop_reason():
            return None
        with self.lock:
            counted = [(stratum, stratum.trials()) for stratum in self.strata]
            for stratum, trials in sorted(counted, key=lambda each: each[0].turn(each[1])):
                if trial := stratum.ask(distributions, trials):
                    trial.set_user_attr(OWNER, {**identity(), SECONDS: self.heartbeat})
                    return stratum, trial
        return None

    def settle(self, elsewhere: bool = False) -> list[str]:
        """Set right the trials whose process has died, and let their settings be tried again.

        ``elsewhere``: only those of other machines. Gives the labels of the trials.
        """
        settled = []
        for stratum in self.strata:
            for trial in self._running(stratum):
                owner = trial.user_attrs.get(OWNER)
                if elsewhere and owner and is_here(owner):
                    continue
                if self.watch.is_lost(trial):
                    is_known = not owner or is_here(owner)
                    why = "its process died" if is_known else "its process gave no sign of life"
                    # One that is only silent may still write to its folder.
                    self.requeue(stratum, trial.number, why, resumes=is_known)
                    settled.append(stratum.label(trial))
        return settled

    def requeue(
        self,
        stratum: Stratum,
        number: int,
        why: str,
        counts: bool = True,
        resumes: bool = True,
        is_own: bool = False,
    ) -> None:
        """End a running trial without a result, and let its settings be tried again, from its
        state if it can and ``resumes``; unless they were lost too often, which only what
        ``counts`` is counted as. One that has just come to where it pauses is paused.

        A trial of another worker (not ``is_own``) goes on if that worker is alive after all.
        """
        study = stratum.study
        with self.lock:  # its owner may be about to write its name, or a result
            trials = study.get_trials(deepcopy=False)
            trial = trials[number]
            if trial.state.is_finished() or (not is_own and not self.watch.is_lost(trial)):
                return
            if self.resumable and resumes and stratum.is_paused(trial):
                study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
                return
            retries = trial.user_attrs.get(RETRIES, 0) + counts
            is_queued = any(other.user_attrs.get(RETRY_OF) == number for other in trials)
            if retries <= MAX_RETRIES and not is_queued:
                attrs = {RETRY_OF: number, RETRIES: retries, LOST: why}
                folder = stratum.label(trial) if self.resumable and resumes else None
                study.add_trial(following(trial, folder, attrs))
            elif not is_queued:
                times = f"{why}, as {MAX_RETRIES} times before"
                study._storage.set_trial_user_attr(trial._trial_id, WHY, times)
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def requeue_own(self, running: Collection[int] = (), counts: bool = False) -> None:
        """Requeue the trials that this process has begun and does not run, by their ids."""
        own = identity().items()
        for stratum in self.strata:
            for trial in self._running(stratum):
                is_own = own <= trial.user_attrs.get(OWNER, {}).items()
                if is_own and trial._trial_id not in running:
                    self.requeue(
                        stratum, trial.number, "its worker stopped running it", counts, is_own=True
                    )

    def ended_badly(self) -> dict[str, str]:
        """By the labels of trials whose process may have had no time to close their run in MLflow,
        their states: FAIL without a result, if only for now, or PRUNED if paused."""
        found = {}
        for stratum in self.strata:
            for trial in stratum.study.get_trials(deepcopy=False):
                if trial.state in (TrialState.FAIL, TrialState.PRUNED):
                    found[stratum.label(trial)] = trial.state.name
                elif trial.state != TrialState.WAITING:  # it goes on, or has come to its end
                    found.pop(stratum.label(trial), None)
        return found

    def wait_for_others(self, seconds: float = math.inf) -> None:
        """Wait until no trial runs, and set right those whose process has died."""
        until = time.monotonic() + seconds
        while self.settle() or (self.is_running() and time.monotonic() < until):
            time.sleep(0.2)

    def is_running(self) -> bool:
        return any(self._running(stratum) for stratum in self.strata)

    def _running(self, stratum: Stratum) -> list[FrozenTrial]:
        return stratum.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, or nothing more may begin."""
        return (bool(self.stop_reason()) or not self.n_to_do()) and not self.is_running()

    def is_done(self) -> bool:
        """Whether every trial has ended."""
        return not self.n_to_do() and not self.is_running()

    def join(self) -> None:
        """Count this start of the sweep in, among those on all machines."""
        with self.lock:
            attrs = self.head.user_attrs
            self.start = attrs.get(STARTS, 0)
            self.head.set_user_attr(STARTS, self.start + 1)
            if ID not in attrs:
                self.head.set_user_attr(ID, uuid4().hex)

    def stop(self, reason: str) -> None:
        """Let no further trial begin, for a reason; "" lets them again."""
        self.head.set_user_attr(STOP, reason)

    def leave(self) -> None:
        """Let the workers of this start begin no further trial."""
        self.head.set_user_attr(f"{STOP}.{self.start}", "it was interrupted")

    def stop_reason(self) -> str:
        attrs = self.head.user_attrs
        return str(attrs.get(STOP) or attrs.get(f"{STOP}.{self.start}", ""))

    def conclude(self, plan: str) -> None:
        """Record that the sweep has ended, reports included, with a plan."""
        self.head.set_user_attr(CONCLUDED, plan)

    def is_concluded(self, plan: str) -> bool:
        """Whether the sweep has ended with this plan."""
        return self.is_done() and self.head.user_attrs.get(CONCLUDED) == plan
