"""Pruners that Optuna does not have."""

import math
from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.errors import UserError
from hydrasweep.trials import GAVE_UP


class PromotionPruner(BasePruner):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934) by promotion.

    A trial pauses at each rung, after ``min_resource * reduction_factor ** k`` steps. Whoever is
    free goes on with a paused trial that is now among the best of its rung, one in
    ``reduction_factor``, and begins a new one where there is none: nobody waits, and no trial has
    to be judged before others have come as far. ``max_resource`` is the last step of a whole
    trial, where there is no rung. Wants a task function that can go on where it was stopped
    (``hydra.sweeper.resumable``).

    Raises:
        UserError: an argument is out of range.
    """

    def __init__(
        self, min_resource: int = 1, reduction_factor: int = 3, max_resource: int | None = None
    ) -> None:
        if type(min_resource) is not int or min_resource < 1:
            raise UserError(f"min_resource={min_resource}: must be a whole number from 1")
        if type(reduction_factor) is not int or reduction_factor < 2:
            raise UserError(f"reduction_factor={reduction_factor}: must be a whole number from 2")
        self.min_resource = min_resource
        self.reduction_factor = reduction_factor
        self.max_resource = max_resource

    def stopping(self) -> BasePruner:
        """Optuna's pruner with the same rungs, which stops trials for good."""
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.min_resource, reduction_factor=self.reduction_factor
        )

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial has come to a rung by its last report."""
        del study
        *before, last = [0, *sorted(trial.intermediate_values)]
        return bool(before) and self._n_rungs(last) > self._n_rungs(before[-1])

    def promotable(
        self, trials: Sequence[FrozenTrial], direction: StudyDirection, is_full: bool
    ) -> list[FrozenTrial]:
        """The paused ones among ``trials`` that are to go on, the furthest first.

        ``is_full`` says that no further trials will begin: then a share is rounded up, so that
        one at least comes to its end.
        """
        found, alive = [], [t for t in trials if t.state != TrialState.FAIL]
        far = {t.number: self._n_rungs(max(t.intermediate_values, default=0)) for t in alive}
        for rung in range(max(far.values(), default=0), 0, -1):
            reached = [t for t in alive if far[t.number] >= rung]
            share = len(reached) / self.reduction_factor
            best = sorted(reached, key=lambda t: self._loss(t, rung, direction))
            found += [
                trial
                for trial in best[: math.ceil(share) if is_full else int(share)]
                if trial.state == TrialState.PRUNED
                and far[trial.number] == rung
                and GAVE_UP not in trial.user_attrs
            ]
        return found

    def n_steps(self, n_trials: int, last: int) -> int:
        """How many steps so many trials take in all, where ``last`` is the end of each."""
        total, step, n = 0, 0, n_trials
        while step < last:
            rung = min(self._rung(self._n_rungs(step)), last)
            total += n * (rung - step)
            step, n = rung, math.ceil(n / self.reduction_factor)
        return total

    def _rung(self, k: int) -> int:
        return self.min_resource * self.reduction_factor**k

    def _n_rungs(self, step: int) -> int:
        """How many rungs there are up to a step."""
        n = 0
        while self._rung(n) <= step and self._rung(n) < (self.max_resource or math.inf):
            n += 1
        return n

    def _loss(self, trial: FrozenTrial, rung: int, direction: StudyDirection) -> float:
        """The value that a trial came to a rung with, its sign such that less is better."""
        values, first = trial.intermediate_values, self._rung(rung - 1)
        value = values[min(step for step in values if step >= first)]
        if math.isnan(value):
            return math.inf
        return -value if direction == StudyDirection.MAXIMIZE else value
