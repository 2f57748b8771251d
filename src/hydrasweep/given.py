"""Settings that trials are given before any are suggested, and which of them comes next."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.space import as_key


@dataclass(frozen=True)
class Given:
    """Settings that a trial is to have; without ``distributions`` some of them may be unknown."""

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution] | None = None
    trial: FrozenTrial | None = None  # the one to come, where it goes on with one before
    score: float = 0.0  # in the search, for a race


@dataclass(frozen=True)
class Race:
    """Settings that are repeated on values of ``seed``: whoever leads goes on, so that no more
    seeds are spent on those that fall behind."""

    seed: str

    def leading(
        self, given: Sequence[Given], trials: Sequence[FrozenTrial], direction: StudyDirection
    ) -> list[Given]:
        """Those of the settings that lead after ``trials``: by the mean of their score in the
        search and of their seeds so far. Who failed on a seed comes after all others."""
        sign = 1 if direction == StudyDirection.MAXIMIZE else -1
        values = {self._settings(each.params): [each.score] for each in given}
        failed = set()
        for trial in trials:
            key = self._settings(trial.params)
            if trial.state == TrialState.FAIL:
                failed.add(key)
            elif trial.state == TrialState.COMPLETE and key in values:
                values[key].append(trial.values[0])

        def rank(key: str) -> tuple[bool, float]:
            return key not in failed, sign * statistics.fmean(values[key])

        leader = max(values, key=rank, default="")
        return [each for each in given if self._settings(each.params) == leader]

    def _settings(self, params: Mapping[str, Any]) -> str:
        return as_key({name: value for name, value in params.items() if name != self.seed})
