"""A race between settings that are repeated on fresh seeds: whoever leads goes on, so that settings
that fall behind have no more seeds spent on them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.space import as_key

if TYPE_CHECKING:
    from hydrasweep.stratum import Given


@dataclass(frozen=True)
class Race:
    """Settings that are repeated on values of ``seed``."""

    seed: str

    def leading(
        self, given: Sequence["Given"], trials: Sequence[FrozenTrial], direction: StudyDirection
    ) -> list["Given"]:
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
