"""A stratum of a sweep: one study in Optuna's storage, and how its next trial is begun."""

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
from hydrasweep.given import Given, Race
from hydrasweep.pruners import PromotionPruner
from hydrasweep.settings import is_grid
from hydrasweep.space import as_key, as_name
from hydrasweep.trials import (
    AFTER,
    FOLDER,
    GAVE_UP,
    MARK,
    OFFSET,
    ORIGIN,
    SEARCH,
    SPENT,
    origin,
    seconds,
)

# A config is its user's own code, as much as the app is: no list of allowed targets.
TRUSTED = UNSAFE_DISABLE_EXECUTION_CHECKS

# Names of a trial's user attributes.
RETRY_OF = f"{MARK}retry_of"  # the number of the lost trial whose settings it has
RETRIES = f"{MARK}retries"  # how often these settings were lost with their worker
LOST = f"{MARK}lost"  # why the trial before was lost
RESUMES = f"{MARK}resumes"  # the number of the paused trial that it goes on with
ERROR = f"{MARK}error"  # a failed trial's traceback
WHY = f"{MARK}why"  # the same in a line
N_TRIALS = f"{MARK}n_trials"  # of a study: how many it is to have
WHERE = f"{MARK}where"  # the error's type and the line that raised it

FOLLOWS = (RETRY_OF, RESUMES)


@dataclass
class Stratum:
    """One value of ``stratify`` (or "") and its study in one phase of the sweep."""

    value: str
    study: Study
    phase: str = SEARCH
    given: Sequence[Given] = ()  # tried before anything is suggested
    race: Race | None = None  # among the settings that are given
    seconds: float = 0.0  # that a trial takes, where an earlier phase has told

    def trials(self) -> list[FrozenTrial]:
        """The trials that count: all but those that another tries again or goes on with."""
        trials = self.study.get_trials(deepcopy=False)
        followed = {t.user_attrs[key] for t in trials for key in FOLLOWS if key in t.user_attrs}
        return [trial for trial in trials if trial.number not in followed]

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
        given = self.given
        if self.race:
            given = self.race.leading(given, trials, self.study.direction)
        return [
            each
            for each in given
            if as_key(each.params) not in known
            and (each.distributions or not any(each.params.items() <= t.items() for t in tried))
        ]

    def n_to_do(self, trials: Sequence[FrozenTrial]) -> int:
        """How many are still to begin or to go on, of ``trials`` those that wait or paused."""
        n_waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        return self.n_new(trials) + n_waiting + len(self._promotable(trials))

    @property
    def pauses(self) -> PromotionPruner | None:
        """The pruner, if it pauses trials."""
        if len(self.study.directions) > 1 or not isinstance(self.study.pruner, PromotionPruner):
            return None  # Optuna takes no reports on several objectives
        return self.study.pruner

    def is_paused(self, trial: FrozenTrial) -> bool:
        """Whether a trial has come to a rung, and nothing says that it ended there for good."""
        return (
            self.pauses is not None
            and GAVE_UP not in trial.user_attrs
            and trial.last_step != trial.user_attrs.get(AFTER)
            and self.pauses.prune(self.study, trial)
        )

    def _promotable(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        if not self.pauses:
            return []
        return self.pauses.promotable(trials, self.study.direction, not self.n_new(trials))

    def label(self, trial: FrozenTrial | Trial) -> str:
        """The name of a trial's folder."""
        return label(self.value, self.phase, trial)

    def turn(self, trials: Sequence[FrozenTrial]) -> tuple[int, float]:
        """What strata are served by: how many trials have begun, and minus their mean seconds;
        in a phase whose trials are all given, the longest first."""
        if self.phase != SEARCH:
            return 0, -self.seconds
        begun = [trial for trial in trials if trial.state != TrialState.WAITING]
        took = [seconds(trial) for trial in begun if trial.state.is_finished()]
        return len(begun), -sum(took) / max(1, len(took))

    def ask(
        self, distributions: Mapping[str, BaseDistribution], trials: Sequence[FrozenTrial]
    ) -> Trial | None:
        """Begin the next trial after ``trials``; None: there is none to begin."""
        if not any(trial.state == TrialState.WAITING for trial in trials):
            if promoted := self._promotable(trials):
                paused = promoted[0]
                attrs = {RESUMES: paused.number}
                self.study.add_trial(following(paused, self.label(paused), attrs))
            elif not self.n_new(trials):
                return None
            else:
                for given in self._untried(trials)[:1]:
                    self._enqueue(given)
        return self.study.ask(dict(distributions))

    def _enqueue(self, given: Given) -> None:
        params = dict(given.params)
        if given.trial:
            self.study.add_trial(given.trial)
        elif given.distributions is None:
            self.study.enqueue_trial(params)
        else:
            known = {name: given.distributions[name] for name in params}
            self.study.add_trial(
                create_trial(state=TrialState.WAITING, params=params, distributions=known)
            )


def following(trial: FrozenTrial, folder: str | None, attrs: Mapping[str, Any]) -> FrozenTrial:
    """A trial to come with the settings of one that has ended, and ``attrs``; it goes on in the
    ``folder`` of that one, after its last step, or begins anew (None)."""
    kept = {k: v for k, v in trial.user_attrs.items() if not k.startswith(MARK) or k == OFFSET}
    kept |= {FOLDER: folder, SPENT: seconds(trial), AFTER: trial.last_step or 0}
    kept[ORIGIN] = origin(trial)
    return create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**(kept if folder else {}), **attrs},
        intermediate_values=trial.intermediate_values if folder else {},
    )


def label(stratum: str, phase: str, trial: FrozenTrial | Trial) -> str:
    """The name of a trial's folder."""
    if folder := trial.user_attrs.get(FOLDER):
        return str(folder)
    words = (as_name(stratum), "" if phase == SEARCH else phase, f"{trial.number:03d}")
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


def make_pruner(node: DictConfig | None, resumable: bool = False) -> optuna.pruners.BasePruner:
    """The pruner, or one that prunes nothing; one that pauses trials stops them where they are
    not ``resumable``."""
    pruner = instantiate(node, _execution_whitelist_=TRUSTED)
    if pruner is not None and not isinstance(pruner, optuna.pruners.BasePruner):
        raise UserError(f"{pruner!r} is no pruner of Optuna's")
    if isinstance(pruner, PromotionPruner) and not resumable:
        return pruner.stopping()
    return pruner or optuna.pruners.NopPruner()
