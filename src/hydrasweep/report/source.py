"""A sweep as its report reads it: a snapshot of the studies of its phases, and who won."""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.errors import UserError
from hydrasweep.search.queue import Queue, Stratum
from hydrasweep.search.storage import in_words, open_storage, sqlite_file
from hydrasweep.search.trial import PHASES, SEARCH
from hydrasweep.search.winners import Winner, winners

PRUNED = "pruned"  # the mark of a trial that was


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep; ``config`` and ``versions`` are empty where none were kept."""

    name: str
    folder: Path
    config: DictConfig
    versions: Mapping[str, Any]
    phases: Mapping[str, Queue]  # those that have begun
    objectives: Sequence[str]

    @property
    def strata(self) -> Sequence[Stratum]:
        return self.phases[SEARCH].strata

    @property
    def stratify(self) -> str:
        """The setting whose values are the strata."""
        return OmegaConf.select(self.config, "hydra.sweeper.stratify") or "stratum"

    @property
    def sign(self) -> int:
        """-1 where the first objective is minimised."""
        return 1 if self.strata[0].study.directions[0] == StudyDirection.MAXIMIZE else -1

    @cached_property
    def range(self) -> tuple[float, float] | None:
        """What an axis of the objective shows: values without outliers, by Tukey's fences."""
        values = [trial.values[0] for stratum in self.strata for trial in counted(stratum.study)]
        if len(set(values)) < 4:
            return None
        low, _, high = quantiles(values, n=4)
        reach = 1.5 * (high - low)
        inside = [value for value in values if low - reach <= value <= high + reach]
        margin = 0.05 * (max(inside) - min(inside))
        return min(inside) - margin, max(inside) + margin

    @cached_property
    def winners(self) -> Mapping[str, Winner]:
        """Who has won each stratum that was confirmed."""
        seed = OmegaConf.select(self.config, "hydra.sweeper.confirm.seed") or "seed"
        return {winner.stratum: winner for winner in winners(self.phases, seed)}

    def by_objective(self) -> list["Sweep"]:
        """The search alone, for one objective at a time, as most of Optuna's plots want it."""
        parts = []
        for i, name in enumerate(self.objectives):
            search = Queue(self.name, [only(s, i) for s in self.strata], nullcontext())
            parts.append(replace(self, objectives=[name], phases={SEARCH: search}))
        return parts


@in_words()
def read(folder: Path) -> Sweep:
    """The sweep in a folder, as it is now.

    Raises:
        UserError: its storage holds no such study, or fails.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config, moved = _load(folder / "multirun.yaml"), _load(folder / "multirun.yaml")
    name = str(_load(folder / "results.yaml").get("study", folder.name))
    OmegaConf.update(moved, "hydra.sweep.dir", str(folder.resolve()), force_add=True)
    try:
        kept = OmegaConf.select(moved, "hydra.sweeper.storage")
    except OmegaConfBaseException as error:  # an environment variable that is not set here
        raise UserError(f"hydra.sweeper.storage in {folder / 'multirun.yaml'}: {error}") from error
    storage = kept or f"sqlite:///{folder.resolve()}/study.db"
    path = sqlite_file(storage)
    phases: dict[str, Queue] = {}
    if path is None or path.exists():
        opened = optuna.storages.get_storage(open_storage(storage))
        for study_name in optuna.get_all_study_names(opened):
            first, _, stratum = study_name.partition("/")
            for phase in PHASES:
                if first == (name if phase == SEARCH else f"{name}@{phase}"):
                    study = optuna.load_study(study_name=study_name, storage=opened)
                    queue = phases.setdefault(phase, Queue(name, [], nullcontext()))
                    queue.strata.append(Stratum(stratum, snapshot(study, study.trials), phase))
    if SEARCH not in phases:
        raise UserError(f"study={name}: no study of this name is in the storage of {folder}")
    n = len(phases[SEARCH].strata[0].study.directions)
    named = OmegaConf.select(config, "objective")
    objectives = [named] if isinstance(named, str) else list(named or [])
    if len(objectives) != n:
        objectives = ["value"] if n == 1 else [f"value {i}" for i in range(n)]
    versions: Any = OmegaConf.to_container(_load(folder / "environment.yaml"))
    return Sweep(name, folder, config, versions, phases, objectives)


def _load(path: Path) -> DictConfig:
    return DictConfig(OmegaConf.load(path) if path.exists() else {})


def snapshot(study: Study, trials: Sequence[FrozenTrial], objectives: slice = slice(None)) -> Study:
    """Some trials of a study, or some objectives of them, as a study in memory."""
    taken = optuna.create_study(directions=study.directions[objectives])
    for key, value in study.user_attrs.items():
        taken.set_user_attr(key, value)
    for trial in map(copy.copy, trials):
        trial.values = trial.values[objectives] if trial.values else None
        # Study.add_trial refuses trials that ended without having begun.
        taken._storage.create_new_trial(taken._study_id, template_trial=trial)
    return taken


def only(stratum: Stratum, i: int) -> Stratum:
    """A stratum with one of its objectives."""
    study = snapshot(stratum.study, stratum.study.trials, slice(i, i + 1))
    return Stratum(stratum.value, study)


def counted(study: Study) -> list[FrozenTrial]:
    """Copies of the trials with finite values, a pruned one complete with its last: Optuna's
    plots leave pruned ones out, which with a keen pruner are nearly all."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    clones = [copy.copy(t) for t in ended if t.values and all(map(math.isfinite, t.values))]
    for clone in clones:
        clone.user_attrs = {PRUNED: True} if clone.state == TrialState.PRUNED else {}
        clone.state = TrialState.COMPLETE
    return clones


def complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]
