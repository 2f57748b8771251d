"""Which repetition is next: the leader's, by what search and seeds have shown so far."""

from collections.abc import Callable, Sequence

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.given import Given, Race

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
SPACE = {"x": FloatDistribution(0, 1), "seed": IntDistribution(0, 9)}
N_SEEDS = 3


def given(sign: int = 1, **searched: float) -> list[Given]:
    """Three seeds of each setting, such as ``x2=0.9``, which is x=0.2 and its search's score."""
    return [
        Given({"x": int(name[1:]) / 10, "seed": seed}, SPACE, score=sign * score)
        for name, score in searched.items()
        for seed in range(N_SEEDS)
    ]


def ran(x: float, values: Sequence[float | None], sign: int = 1) -> list[FrozenTrial]:
    """One trial for each seed; None is one that failed."""
    return [
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=None if value is None else sign * value,
            params={"x": x, "seed": seed},
            distributions=SPACE,
        )
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("first", "second", "leader"),
    [
        ([], [], 0.1),  # by the search
        ([0.88], [], 0.2),  # 0.89 against 0.895
        ([0.88], [0.86], 0.1),  # 0.89 against 0.8775
        ([0.9, 0.9, 0.9], [], 0.1),
        ([0.9, 0.9, 0.9], [0.99], 0.2),
        ([0.895], [0.9], 0.1),  # 0.8975 both: who was better in the search
        ([0.99, None], [], 0.2),  # it failed on a seed
        ([0.99, None], [0.1, None], 0.1),
    ],
)
def test_who_leads_goes_on(
    first: list[float | None], second: list[float | None], leader: float
) -> None:
    for direction, sign in ((MAXIMIZE, 1), (MINIMIZE, -1)):
        trials = ran(0.1, first, sign) + ran(0.2, second, sign)
        leading = Race("seed").leading(given(sign, x1=0.9, x2=0.895), trials, direction)
        assert [(each.params["x"], each.params["seed"]) for each in leading] == [
            (leader, seed) for seed in range(N_SEEDS)
        ]


def test_trials_of_other_settings_change_nothing() -> None:
    """Such as those of an earlier start, before the search went on and found better ones."""
    leading = Race("seed").leading(given(x1=0.9, x2=0.8), ran(0.5, [0.99] * 3), MAXIMIZE)
    assert {each.params["x"] for each in leading} == {0.1}
    assert Race("seed").leading([], ran(0.5, [0.99] * 3), MAXIMIZE) == []


@pytest.mark.parametrize(
    ("value", "n_trained"),
    [
        (lambda x: 1 - x, {0.1: 3}),  # as the search said: the others are never trained
        (lambda x: x, {0.1: 1, 0.2: 1, 0.3: 3}),  # the other way round
    ],
)
def test_a_race_ends_when_the_leader_has_all_its_seeds(
    value: Callable[[float], float], n_trained: dict[float, int]
) -> None:
    settings = given(x1=0.5, x2=0.47, x3=0.46)
    trials: list[FrozenTrial] = []
    while left := [
        each
        for each in Race("seed").leading(settings, trials, MAXIMIZE)
        if each.params not in [trial.params for trial in trials]
    ]:
        chosen = left[0].params
        seen = ran(chosen["x"], [value(chosen["x"])] * N_SEEDS)
        trials += [trial for trial in seen if trial.params == chosen]
    counts = {x: sum(trial.params["x"] == x for trial in trials) for x in (0.1, 0.2, 0.3)}
    assert {x: n for x, n in counts.items() if n} == n_trained
