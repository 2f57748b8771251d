"""A stratum of a sweep: one study in Optuna's storage, and how its next trial is begun."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hydrasweep.errors import UserError
from hydrasweep.settings import is_grid
from hydrasweep.space import as_name
from hydrasweep.trials import MARK, SEARCH

# A config is its user's own code, as much as the app is: no list of allowed targets.
TRUSTED = UNSAFE_DISABLE_EXECUTION_CHECKS

# Names of a trial's user attributes.
RETRY_OF = f"{MARK}retry_of"  # the number of the lost trial whose settings it has
RETRIES = f"{MARK}retries"  # how often these settings were lost with their worker
LOST = f"{MARK}lost"  # why the trial before was lost
ERROR = f"{MARK}error"  # a failed trial's traceback
WHY = f"{MARK}why"  # the same in a line
N_TRIALS = f"{MARK}n_trials"  # of a study: how many it is to have
WHERE = f"{MARK}where"  # the error's type and the line that raised it


@dataclass(frozen=True)
class Given:
    """Settings that a trial is to have; without ``distributions`` some of them may be unknown."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution] | None = None


@dataclass
class Stratum:
    """One value of ``stratify`` (or "") and its study in one phase of the sweep."""

    value: str
    study: Study
    phase: str = SEARCH
    given: Sequence[Given] = ()  # tried before anything is suggested

    def trials(self) -> list[FrozenTrial]:
        """The trials that count: all but those that were lost and are tried again."""
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [trial for trial in trials if trial.number not in retried]

    def lost(self) -> dict[int, str]:
        """Why trials were lost, by their numbers."""
        trials = self.study.get_trials(deepcopy=False)
        attrs = [trial.user_attrs for trial in trials if RETRY_OF in trial.user_attrs]
        return {a[RETRY_OF]: a[LOST] for a in attrs}

    def n_new(self, trials: Sequence[FrozenTrial]) -> int:
        """How many are to come to ``trials``, which are those that count."""
        if self.phase != SEARCH:  # no others than those that are given
            return len(self._untried(trials))
        return max(0, self.study.user_attrs.get(N_TRIALS, 0) - len(trials))

    def _untried(self, trials: Sequence[FrozenTrial]) -> list[Given]:
        tried = [trial.params for trial in trials]
        known = {as_key(params) for params in tried}
        return [
            given
            for given in self.given
            if as_key(given.params) not in known
            and (given.distributions or not any(given.params.items() <= t.items() for t in tried))
        ]

    def n_to_do(self, trials: Sequence[FrozenTrial]) -> int:
        """How many are still to begin, the new ones and of ``trials`` those that wait."""
        return self.n_new(trials) + sum(trial.state == TrialState.WAITING for trial in trials)

    def label(self, number: int) -> str:
        """The name of a trial's folder."""
        return label(self.value, self.phase, number)

    def turn(self, trials: Sequence[FrozenTrial]) -> tuple[int, float]:
        """What strata are served by: how many trials have begun, and minus their mean seconds."""
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        seconds = [trial.duration.total_seconds() for trial in begun if trial.duration]
        return len(begun), -sum(seconds) / max(1, len(seconds))

    def ask(
        self, distributions: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]
    ) -> Trial | None:
        """Begin the next trial after ``trials``; None: there is none to begin."""
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if not self.n_new(trials):
                return None
            for given in self._untried(trials)[:1]:
                self._enqueue(given)
        return self.study.ask(dict(distributions))

    def _enqueue(self, given: Given) -> None:
        params = dict(given.params)
        if given.distributions is None:
            self.study.enqueue_trial(params)
        else:
            known = {name: given.distributions[name] for name in params}
            self.study.add_trial(
                create_trial(state=TrialState.WAITING, params=params, distributions=known)
            )


def as_key(params: Mapping[str, Any]) -> str:
    """The same text for equal settings, of which no other settings have it."""
    return json.dumps(params, sort_keys=True, default=str)


def label(stratum: str, phase: str, number: int) -> str:
    """The name of a trial's folder."""
    words = (as_name(stratum), "" if phase == SEARCH else phase, f"{number:03d}")
    return "-".join(word for word in words if word)


def make_sampler(node: DictConfig | None, seed_offset: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler, its seed (if it has one) moved on: equal seeds would suggest equal trials."""
    if node and is_grid(node):  # every trial of it is given in full
        return optuna.samplers.RandomSampler()
    sampler = instantiate(node, _execution_whitelist_=TRUSTED) or optuna.samplers.RandomSampler()
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise UserError(f"{sampler!r} is no sampler of Optuna's")
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
    if pruner is not None and not isinstance(pruner, optuna.pruners.BasePruner):
        raise UserError(f"{pruner!r} is no pruner of Optuna's")
    return pruner or optuna.pruners.NopPruner()
