"""The trials of a sweep as a queue in Optuna's storage, which every worker serves itself from.

All trials that a sweep is to have stand in it as WAITING from the start, so that workers
anywhere take exactly as many as there are; taking one is a compare-and-set of the storage.
On SQLite, which has no row locks, Optuna's is none: two workers can take one trial, and two
new trials get one number. There a lock beside the file makes it one.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.engine import make_url

from hydrasweep.config import TRUSTED
from hydrasweep.errors import UserError
from hydrasweep.processes import identity, is_dead

# Marks in a trial's user attributes.
OWNER = "owner"  # the process that works on it
DROPPED = "dropped"  # why it doesn't count: it was killed, or the sweep was made shorter
FIRST = "first"  # it is taken before others: somebody's suggestion, or a killed trial's params
RETRIES = "retries"  # how often its parameters were lost with a worker
ERROR = "error"  # a failed trial's traceback
EPOCHS = "epochs"  # how many it was trained

MAX_RETRIES = 3  # a trial that kills its worker this often is itself the cause
UNOWNED_SECONDS = 5  # a trial is taken and then marked; a worker that died between has left none
STOP = "stop"  # on a study: why no further trial may begin


@dataclass
class Stratum:
    """One value of ``stratify`` (or "") and its study."""

    value: str
    study: Study

    def trials(self) -> list[FrozenTrial]:
        """The trials that count, waiting ones included."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if DROPPED not in trial.user_attrs]

    def label(self, number: int) -> str:
        """The name of a trial's folder."""
        return f"{self.value}-{number:03d}" if self.value else f"{number:03d}"


@dataclass
class Queue:
    """All strata of a sweep."""

    name: str
    strata: list[Stratum]
    lock: AbstractContextManager[Any]  # for steps that must not happen twice at once

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
    ) -> "Queue":
        """Open the studies of a sweep, which are made where there are none."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        opened = open_storage(storage)
        strata = []
        for value in values:
            study = optuna.create_study(
                study_name=f"{name}/{value}" if value else name,
                storage=opened,
                sampler=make_sampler(sampler, seed_offset),
                pruner=make_pruner(pruner),
                directions=list(directions),  # type: ignore[arg-type]
                load_if_exists=True,
            )
            strata.append(Stratum(value, study))
        return cls(name, strata, make_lock(storage))

    def trials(self) -> list[tuple[Stratum, FrozenTrial]]:
        """The trials that count, of all strata, waiting ones included."""
        return [(stratum, trial) for stratum in self.strata for trial in stratum.trials()]

    def n_finished(self) -> int:
        return sum(trial.state.is_finished() for _, trial in self.trials())

    def fill(self, n_trials: int) -> None:
        """Queue so many trials, divided equally, that the sweep has ``n_trials`` in all."""
        with self.lock:
            for i, stratum in enumerate(self.strata):
                share = (n_trials + len(self.strata) - 1 - i) // len(self.strata)
                trials = stratum.trials()
                for _ in range(share - len(trials)):
                    stratum.study.add_trial(create_trial(state=TrialState.WAITING))
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

    def take(self, distributions: Mapping[str, BaseDistribution]) -> tuple[Stratum, Trial] | None:
        """Take the next trial, of the stratum that has begun the fewest; None: none is left.

        ``Study.ask`` would begin a new trial where none is waiting; this does not.
        """
        if self.stop_reason():
            return None
        trials = {stratum.value: stratum.trials() for stratum in self.strata}

        def n_begun(stratum: Stratum) -> int:
            return sum(t.state != TrialState.WAITING for t in trials[stratum.value])

        for stratum in sorted(self.strata, key=n_begun):
            for frozen in _in_turn(trials[stratum.value]):
                if trial := self._claim(stratum.study, frozen):
                    for name, distribution in distributions.items():
                        trial._suggest(name, distribution)
                    return stratum, trial
        return None

    def _claim(self, study: Study, frozen: FrozenTrial) -> Trial | None:
        storage, trial_id = study._storage, frozen._trial_id
        with self.lock:
            try:
                if not storage.set_trial_state_values(trial_id, state=TrialState.RUNNING):
                    return None
            except optuna.exceptions.UpdateFinishedTrialError:
                return None
            storage.set_trial_user_attr(trial_id, OWNER, identity())
        study._thread_local.cached_all_trials = None
        return Trial(study, trial_id)

    def settle(self, blame: bool = True) -> list[str]:
        """Set right the trials whose process has died, and queue their parameters again.

        ``blame``: they may themselves be the cause. Gives the labels of the trials.
        """
        settled = []
        for stratum in self.strata:
            for trial in stratum.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if is_orphan(trial):
                    self.give_up(stratum, trial.number, "its process died", blame)
                    settled.append(stratum.label(trial.number))
        return settled

    def give_up(self, stratum: Stratum, number: int, why: str, blame: bool) -> None:
        """End a running trial without a result, and queue its parameters again; but not those
        of one that has been to ``blame`` too often."""
        study, storage = stratum.study, stratum.study._storage
        with self.lock:
            trial = study.get_trials(deepcopy=False)[number]
            if trial.state.is_finished():
                return
            retries = trial.user_attrs.get(RETRIES, 0) + blame
            if retries > MAX_RETRIES:
                error = f"given up after {MAX_RETRIES} retries: {why} each time"
                storage.set_trial_user_attr(trial._trial_id, ERROR, error)
            elif DROPPED not in trial.user_attrs:  # or a killer came between the steps
                storage.set_trial_user_attr(trial._trial_id, DROPPED, why)
                attrs = {FIRST: True, RETRIES: retries}
                study.enqueue_trial(trial.params, user_attrs=attrs)
            study.tell(number, state=TrialState.FAIL)

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
        waits = any(trial.state == TrialState.WAITING for _, trial in self.trials())
        return not (waits and not self.stop_reason()) and not self._is_running()

    def stop(self, reason: str) -> None:
        """Let no further trial begin, for a reason; "" lets them again."""
        self.strata[0].study.set_user_attr(STOP, reason)

    def stop_reason(self) -> str:
        return str(self.strata[0].study.user_attrs.get(STOP, ""))

    def agree(self, record: Mapping[str, str]) -> None:
        """Record the search space, or compare with the one that the study has.

        Raises:
            UserError: it is another; the message shows how it differs.
        """
        study = self.strata[0].study
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


def _in_turn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The waiting trials in the order in which they are taken."""
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    return sorted(waiting, key=lambda trial: (FIRST not in trial.user_attrs, trial.number))


def is_orphan(trial: FrozenTrial) -> bool:
    """Whether a running trial's process has died."""
    if owner := trial.user_attrs.get(OWNER):
        return is_dead(owner)
    begun = trial.datetime_start
    return begun is not None and datetime.now() - begun > timedelta(seconds=UNOWNED_SECONDS)


def open_storage(storage: Any) -> optuna.storages.BaseStorage | str:
    """An Optuna storage from a URL or a node with a ``_target_``."""
    if OmegaConf.is_config(storage):
        opened: optuna.storages.BaseStorage = instantiate(storage, _execution_whitelist_=TRUSTED)
        return opened
    return str(storage)


def sqlite_file(storage: Any) -> Path | None:
    """The file of a storage that is an SQLite URL."""
    if not (isinstance(storage, str) and storage.startswith("sqlite")):
        return None
    path = make_url(storage).database
    return Path(path) if path and path != ":memory:" else None


def make_lock(storage: Any) -> AbstractContextManager[Any]:
    """Keeps this machine's processes apart where the storage itself does not."""
    path = sqlite_file(storage)
    return FileLock(f"{path}.lock") if path else nullcontext()


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
