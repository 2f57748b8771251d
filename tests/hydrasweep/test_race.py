"""Which repetitions are left out: those of settings that can hardly win any more."""

from collections.abc import Sequence

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.race import Race

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
SPACE = {"x": FloatDistribution(0, 1), "seed": IntDistribution(0, 9)}


def trials(x: float, values: Sequence[float | None]) -> list[FrozenTrial]:
    """One for each seed; None is one that failed."""
    return [
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params={"x": x, "seed": seed},
            distributions=SPACE,
        )
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("best", "other", "is_lost"),
    [
        ([0.99, 0.98, 0.985], [0.9], True),
        ([0.99, 0.98, 0.985], [0.97], False),  # 3 errors are 0.017
        ([0.99, 0.98, 0.985], [0.967], True),
        ([0.99, 0.98, 0.985], [0.97, 0.97], True),  # 0.0137 with two seeds
        ([0.99, 0.98, 0.985], [], False),
        ([0.99, 0.98], [0.1], False),  # of others, none has had all seeds
        ([0.99, 0.98, None], [0.1], False),
        ([0.5, 0.5, 0.5], [0.6, None], True),
        ([0.5, 0.5, 0.5], [0.6, 0.6], False),
        ([0.5, 0.5, 0.5], [0.4], True),
    ],
)
def test_who_is_far_behind_or_failed_has_lost(
    best: list[float | None], other: list[float | None], is_lost: bool
) -> None:
    race, params = Race("seed", 3), {"x": 0.5, "seed": 9}
    ran = trials(0.1, best) + trials(0.5, other)
    assert race.is_lost(params, ran, MAXIMIZE) == is_lost
    turned = [[None if value is None else -value for value in each] for each in (best, other)]
    ran = trials(0.1, turned[0]) + trials(0.5, turned[1])
    assert race.is_lost(params, ran, MINIMIZE) == is_lost


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_few_seeds_tell_nothing_of_chance(n_seeds: int) -> None:
    ran = trials(0.1, [0.9] * n_seeds) + trials(0.5, [0.1])
    assert not Race("seed", n_seeds).is_lost({"x": 0.5, "seed": 1}, ran, MAXIMIZE)


def test_leader_goes_on() -> None:
    ran = trials(0.1, [0.5, 0.5, 0.5]) + trials(0.5, [0.9])
    assert not Race("seed", 3).is_lost({"x": 0.5, "seed": 1}, ran, MAXIMIZE)
