"""A race between settings that are repeated: repetitions that can hardly change who wins are left
out."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.space import as_key

N_ERRORS = 3  # by chance, one in twenty settings that are equal is so far behind after three seeds
MIN_SEEDS = 3  # fewer don't tell what chance does


@dataclass(frozen=True)
class Race:
    """Settings with ``n_seeds`` values of ``seed`` each."""

    seed: str
    n_seeds: int

    def is_lost(
        self, params: Mapping[str, Any], trials: Sequence[FrozenTrial], direction: StudyDirection
    ) -> bool:
        """Whether settings can leave out the seeds that they have not had yet.

        Others have had all of theirs, and these either failed on one, or their mean is behind by
        three standard errors of the difference, with the standard deviation of those others.
        """
        sign = 1 if direction == StudyDirection.MAXIMIZE else -1
        values: dict[str, list[float]] = defaultdict(list)
        failed = set()
        for trial in trials:
            if trial.state == TrialState.COMPLETE:
                values[self._group(trial.params)].append(sign * trial.values[0])
            elif trial.state == TrialState.FAIL:
                failed.add(self._group(trial.params))
        own = values.pop(self._group(params), [])
        whole = [each for each in values.values() if len(each) >= self.n_seeds]
        if not whole:
            return False
        if self._group(params) in failed:
            return True
        best = max(whole, key=statistics.fmean)
        if not own or len(best) < MIN_SEEDS:
            return False
        behind = statistics.fmean(best) - statistics.fmean(own)
        error = statistics.stdev(best) * math.sqrt(1 / len(best) + 1 / len(own))
        return behind > N_ERRORS * error

    def _group(self, params: Mapping[str, Any]) -> str:
        return as_key({name: value for name, value in params.items() if name != self.seed})
