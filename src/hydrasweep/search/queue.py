"""The trials of a sweep as a queue in Optuna's storage, which every worker serves itself from.

Those whose settings are given stand in it as WAITING; beyond them a study says how many trials
it is to have, and a worker begins the next while there are fewer. Optuna reads all trials that
have not ended again at each look, so a thousand that wait would cost a second each time.
Whatever changes how many there are is done under the storage's lock, so that workers anywhere
begin exactly as many as there are to be, and no two the same.
"""

import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hydrasweep.config import TRUSTED
from hydrasweep.errors import UserError
from hydrasweep.processes import identity, is_here
from hydrasweep.search.heartbeat import OWNER, SECONDS, Watch
from hydrasweep.search.storage import make_lock, open_storage
from hydrasweep.search.trial import SEARCH

# Marks in a trial's user attributes, beside those of the heartbeat.
DROPPED = "dropped"  # why it doesn't count: it was killed, or the sweep was made shorter
FIRST = "first"  # it is taken before others: somebody's suggestion, or a killed trial's params
RETRIES = "retries"  # how often its parameters were lost with a worker
ERROR = "error"  # a failed trial's traceback
WHY = "why"  # the same in a line
EPOCHS = "epochs"  # how many it was trained
SPACE = "space"  # on a trial whose settings are all given: the distributions they are from

MAX_RETRIES = 6  # a trial that kills its worker this often is itself the cause: not just near one
N_TRIALS = "n_trials"  # on a study: how many it is to have, if those queued are fewer
STOP = "stop"  # on a study: why no further trial may begin
CONCLUDED = "concluded"  # on a study: the plan that it ended with
STARTS = "starts"  # on a study: how often the sweep was started
ID = "id"  # on a study: what only this one has, of all that had its name


@dataclass
class Stratum:
    """One value of ``stratify`` (or "") and its study in one phase of the sweep."""

    value: str
    study: Study
    phase: str = SEARCH

    def trials(self) -> list[FrozenTrial]:
        """The trials that count, waiting ones included."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if DROPPED not in trial.user_attrs]

    def n_new(self, trials: Sequence[FrozenTrial]) -> int:
        """How many are to come to ``trials``, which are those that count."""
        return max(0, self.study.user_attrs.get(N_TRIALS, 0) - len(trials))

    def n_to_do(self, trials: Sequence[FrozenTrial]) -> int:
        """How many are still to begin, the new ones and of ``trials`` those that wait."""
        return self.n_new(trials) + sum(trial.state == TrialState.WAITING for trial in trials)

    def label(self, number: int) -> str:
        """The name of a trial's folder."""
        return label(self.value, self.phase, number)


@dataclass
class Queue:
    """All strata of a sweep, in one of its phases."""

    name: str
    strata: list[Stratum]
    lock: AbstractContextManager[Any]  # for steps that must not happen twice at once
    heartbeat: float = 15.0  # in seconds
    watch: Watch = field(default_factory=Watch)
    start: int = 0  # which of the sweep's starts this process belongs to
    # Of each stratum how many trials have begun, and minus the mean of their seconds.
    _begun: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False)

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
    ) -> "Queue":
        """Open the studies of a sweep's phase, which are made where there are none."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = open_storage(storage)
        strata = []
        base = name if phase == SEARCH else f"{name}@{phase}"
        for value in values:
            study = optuna.create_study(
                study_name=f"{base}/{value}" if value else base,
                storage=opened,
                sampler=make_sampler(sampler, seed_offset),
                pruner=make_pruner(pruner),
                directions=list(directions),  # type: ignore[arg-type]
                load_if_exists=True,
            )
            strata.append(Stratum(value, study, phase))
        return cls(name, strata, make_lock(storage))

    def trials(self) -> list[tuple[Stratum, FrozenTrial]]:
        """The trials that count, of all strata, waiting ones included."""
        return [(stratum, trial) for stratum in self.strata for trial in stratum.trials()]

    def states(self) -> Counter[str]:
        """How many trials there are of each state, those still to begin as WAITING."""
        states = Counter(trial.state.name for _, trial in self.trials())
        states["WAITING"] = self.n_to_do()
        return +states

    def n_finished(self) -> int:
        return sum(trial.state.is_finished() for _, trial in self.trials())

    def n_to_do(self) -> int:
        """How many trials are still to begin."""
        return sum(stratum.n_to_do(stratum.trials()) for stratum in self.strata)

    def fill(self, n_trials: int) -> None:
        """Let the sweep have ``n_trials`` in all, divided equally."""
        with self.lock:
            for i, stratum in enumerate(self.strata):
                share = (n_trials + len(self.strata) - 1 - i) // len(self.strata)
                stratum.study.set_user_attr(N_TRIALS, share)
                trials = stratum.trials()
                for trial in _in_turn(trials)[::-1][: max(0, len(trials) - share)]:
                    self._drop(stratum.study, trial, "the sweep was made shorter")

    def suggest(self, settings: Sequence[Mapping[str, Any]], stratify: str | None) -> None:
        """Queue settings that are to be tried before all others, but for those known already."""
        attrs = {FIRST: True}
        with self.lock:
            for chosen, stratum in itertools.product(settings, self.strata):
                if str(chosen.get(stratify or "", stratum.value)) == stratum.value:
                    params = {key: value for key, value in chosen.items() if key != stratify}
                    stratum.study.enqueue_trial(params, user_attrs=attrs, skip_if_exists=True)

    def repeat(self, stratum: Stratum, trial: FrozenTrial, **settings: int) -> None:
        """Queue a trial's settings again, with a few others, unless they are queued already."""
        space = trial.distributions | {key: IntDistribution(0, 2**31 - 1) for key in settings}
        attrs = {SPACE: {key: distribution_to_json(d) for key, d in space.items()}}
        with self.lock:
            stratum.study.enqueue_trial(
                trial.params | settings, user_attrs=attrs, skip_if_exists=True
            )

    def take(self, distributions: Mapping[str, BaseDistribution]) -> tuple[Stratum, Trial] | None:
        """Take the next trial, of the stratum that has begun the fewest, and of these the one
        whose trials take longest, so that short ones fill the end; None: none is left.

        ``Study.ask`` would begin a new trial whenever none is waiting; this does not. Who has
        begun how many is known from when this process last looked: to read all strata each time
        would keep other workers waiting for the lock.
        """
        if self.stop_reason():
            return None
        with self.lock:
            for stratum in self.strata:
                if stratum.value not in self._begun:
                    self._look_at(stratum)
            for stratum in sorted(self.strata, key=lambda s: self._begun[s.value]):
                trials = self._look_at(stratum)
                waiting = self._allowed(_in_turn(trials))
                if waiting or stratum.n_new(trials):
                    trial_id = self._begin(stratum.study, waiting)
                    n_begun, seconds = self._begun[stratum.value]
                    self._begun[stratum.value] = n_begun + 1, seconds
                    break
            else:
                return None
        stratum.study._thread_local.cached_all_trials = None
        trial = Trial(stratum.study, trial_id)
        given = waiting[0].user_attrs.get(SPACE, {}) if waiting else {}
        space = {key: json_to_distribution(d) for key, d in given.items()}
        for name, distribution in (space or distributions).items():
            trial._suggest(name, distribution)
        return stratum, trial

    def _look_at(self, stratum: Stratum) -> list[FrozenTrial]:
        trials = stratum.trials()
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        seconds = [trial.duration.total_seconds() for trial in begun if trial.duration]
        self._begun[stratum.value] = len(begun), -sum(seconds) / max(1, len(seconds))
        return trials

    def _allowed(self, waiting: list[FrozenTrial]) -> list[FrozenTrial]:
        """Those that may begin now. Of trials that were lost more than once, one at a time runs on
        a machine: joblib kills all workers when one dies, and a trial that kills them would be
        lost with the same others each time."""
        if not any(map(_is_suspect, waiting)):
            return waiting
        if any(_is_suspect(trial) and _is_running_here(trial) for _, trial in self.trials()):
            return [trial for trial in waiting if not _is_suspect(trial)]
        return waiting

    def _begin(self, study: Study, waiting: Sequence[FrozenTrial]) -> int:
        """Set the first of the waiting trials running, or a new one; give its id."""
        storage, owner = study._storage, {**identity(), SECONDS: self.heartbeat}
        if not waiting:
            new = create_trial(state=TrialState.RUNNING, user_attrs={OWNER: owner})
            return storage.create_new_trial(study._study_id, new)
        trial_id = waiting[0]._trial_id
        storage.set_trial_user_attr(trial_id, OWNER, owner)
        storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
        return trial_id

    def settle(self, blame: bool = True, elsewhere: bool = False) -> list[str]:
        """Set right the trials whose process has died, and queue their parameters again.

        ``blame``: they may themselves be the cause. ``elsewhere``: only those of other
        machines. Gives the labels of the trials.
        """
        settled = []
        for stratum in self.strata:
            for trial in stratum.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                owner = trial.user_attrs.get(OWNER)
                if elsewhere and owner and is_here(owner):
                    continue
                if self.watch.is_lost(trial):
                    self.give_up(stratum, trial.number, "its process died", blame)
                    settled.append(stratum.label(trial.number))
        return settled

    def lost(self) -> set[str]:
        """The labels of the trials that were given up."""
        return {
            stratum.label(trial.number)
            for stratum in self.strata
            for trial in stratum.study.get_trials(deepcopy=False)
            if DROPPED in trial.user_attrs
        }

    def give_up(self, stratum: Stratum, number: int, why: str, blame: bool) -> None:
        """End a running trial without a result, and queue its parameters again; but not those
        of one that has been to ``blame`` too often."""
        study, storage = stratum.study, stratum.study._storage
        # It may be at its end at this very moment, on another machine.
        with self.lock, suppress(optuna.exceptions.UpdateFinishedTrialError):
            trial = study.get_trials(deepcopy=False)[number]
            if trial.state.is_finished():
                return
            retries = trial.user_attrs.get(RETRIES, 0) + blame
            if retries > MAX_RETRIES:
                error = f"given up after {MAX_RETRIES} retries: {why} each time"
                for key in (ERROR, WHY):
                    storage.set_trial_user_attr(trial._trial_id, key, error)
            elif DROPPED not in trial.user_attrs:  # or a killer came between the steps
                storage.set_trial_user_attr(trial._trial_id, DROPPED, why)
                attrs = {FIRST: True, RETRIES: retries}
                attrs |= {key: v for key, v in trial.user_attrs.items() if key == SPACE}
                study.enqueue_trial(trial.params, user_attrs=attrs)
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def give_up_own(self) -> None:
        """Give up the trials that this process runs no longer, though it could not end them."""
        own = identity().items()
        for stratum, trial in self.trials():
            if trial.state == TrialState.RUNNING and own <= trial.user_attrs.get(OWNER, {}).items():
                self.give_up(stratum, trial.number, "it could not be ended", blame=False)

    def _drop(self, study: Study, trial: FrozenTrial, why: str) -> None:
        study._storage.set_trial_user_attr(trial._trial_id, DROPPED, why)
        study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def wait_for_others(self, seconds: float = math.inf, blame: bool = True) -> None:
        """Wait until no trial runs, and set right those whose process has died."""
        until = time.monotonic() + seconds
        while self.settle(blame) or (self._is_running() and time.monotonic() < until):
            time.sleep(0.2)

    def _is_running(self) -> bool:
        return any(trial.state == TrialState.RUNNING for _, trial in self.trials())

    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs, or nothing more may begin."""
        return (bool(self.stop_reason()) or not self.n_to_do()) and not self._is_running()

    def join(self) -> str:
        """Count this start of the sweep in, among those on all machines.

        Gives what the sweep is known by, where its name may have been another's before.
        """
        study = self.strata[0].study
        with self.lock:
            attrs = study.user_attrs
            self.start = attrs.get(STARTS, 0)
            study.set_user_attr(STARTS, self.start + 1)
            if ID not in attrs:
                study.set_user_attr(ID, uuid4().hex)
        return str(study.user_attrs[ID])

    def stop(self, reason: str) -> None:
        """Let no further trial begin, for a reason; "" lets them again."""
        self.strata[0].study.set_user_attr(STOP, reason)

    def leave(self) -> None:
        """Let the workers of this start begin no further trial."""
        self.strata[0].study.set_user_attr(f"{STOP}.{self.start}", "it was interrupted")

    def stop_reason(self) -> str:
        attrs = self.strata[0].study.user_attrs
        return str(attrs.get(STOP) or attrs.get(f"{STOP}.{self.start}", ""))

    def is_done(self) -> bool:
        """Whether every trial has ended."""
        return not self.n_to_do() and not self._is_running()

    def conclude(self, plan: str) -> None:
        """Record that the sweep has ended, reports included, with a plan."""
        self.strata[0].study.set_user_attr(CONCLUDED, plan)

    def is_concluded(self, plan: str) -> bool:
        """Whether the sweep has ended with this plan."""
        return self.is_done() and self.strata[0].study.user_attrs.get(CONCLUDED) == plan

    def agree(self, record: Mapping[str, str]) -> None:
        """Record the search space, or compare with the one that the study has.

        Raises:
            UserError: it is another; the message shows how it differs.
        """
        study = self.strata[0].study
        with self.lock:
            known = study.user_attrs.get("space")
            if known is None:
                study.set_user_attr("space", dict(record))
                return
        names = sorted(key for key in {*known, *record} if known.get(key) != record.get(key))
        if names:
            lines = (f"  {key}: was {known.get(key)}, now {record.get(key)}" for key in names)
            raise UserError(
                f"study={self.name} exists with another search space:\n"
                + "\n".join(lines)
                + "\nTake another name, or leave the space as it was."
            )


def label(stratum: str, phase: str, number: int) -> str:
    """The name of a trial's folder."""
    words = (stratum, "" if phase == SEARCH else phase, f"{number:03d}")
    return "-".join(word for word in words if word)


def _in_turn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The waiting trials in the order in which they are taken."""
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]

    def rank(trial: FrozenTrial) -> tuple[bool, int, int]:
        return FIRST not in trial.user_attrs, trial.user_attrs.get(RETRIES, 0), trial.number

    return sorted(waiting, key=rank)


def _is_suspect(trial: FrozenTrial) -> bool:
    """Whether it was lost with its worker more than once."""
    return trial.user_attrs.get(RETRIES, 0) > 1


def _is_running_here(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.RUNNING and is_here(trial.user_attrs[OWNER])


def make_sampler(node: DictConfig | None, seed_offset: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler, its seed (if it has one) moved on: equal seeds would propose equal trials."""
    sampler = instantiate(node, _execution_whitelist_=TRUSTED)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        return optuna.samplers.RandomSampler()  # a grid: every trial of it is queued in full
    seed = node.get("seed") if node else None
    if seed is None or isinstance(sampler, optuna.samplers.QMCSampler):
        return sampler  # a QMC sequence is one for all workers, numbered in the study
    moved: optuna.samplers.BaseSampler = instantiate(
        node, seed=seed + seed_offset, _execution_whitelist_=TRUSTED
    )
    return moved


def make_pruner(node: DictConfig | None) -> optuna.pruners.BasePruner:
    """The pruner, or one that prunes nothing."""
    pruner = instantiate(node, _execution_whitelist_=TRUSTED)
    return pruner or optuna.pruners.NopPruner()
