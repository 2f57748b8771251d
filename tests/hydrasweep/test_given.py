"""A race: which queued settings lead, by the search and by the seeds that they have run on."""

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from planted import trial

from hydrasweep.given import Given, Race

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
SPACE = {"x": FloatDistribution(0, 1), "seed": IntDistribution(0, 9)}
N_SEEDS = 3


def queued(scores, sign=1):
    """Settings with each x on three seeds. ``scores`` has the value of each in the search."""
    return [
        Given({"x": x, "seed": seed}, SPACE, score=sign * score)
        for x, score in scores.items()
        for seed in range(N_SEEDS)
    ]


def ran(x, values, sign=1):
    """A trial of x on each seed. Those whose value is None failed."""
    return [
        trial(state=TrialState.FAIL, space=SPACE, x=x, seed=seed)
        if value is None
        else trial(sign * value, space=SPACE, x=x, seed=seed)
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("first", "second", "leader"),
    [
        ([], [], 0.1),  # the values in the search decide
        ([0.88], [], 0.2),  # 0.89 and 0.895
        ([0.88], [0.86], 0.1),  # 0.89 and 0.8775
        ([0.9, 0.9, 0.9], [], 0.1),
        ([0.9, 0.9, 0.9], [0.99], 0.2),
        ([0.895], [0.9], 0.1),  # both 0.8975: the better one in the search leads
        ([0.99, None], [], 0.2),  # the first failed on a seed
        ([0.99, None], [0.1, None], 0.1),
    ],
)
def test_best_mean_of_search_and_seeds_leads(first, second, leader):
    for direction, sign in ((MAXIMIZE, 1), (MINIMIZE, -1)):
        trials = ran(0.1, first, sign) + ran(0.2, second, sign)
        leading = Race("seed").leading(queued({0.1: 0.9, 0.2: 0.895}, sign), trials, direction)
        assert [each.params for each in leading] == [
            {"x": leader, "seed": seed} for seed in range(N_SEEDS)
        ]


def test_trials_of_other_settings_are_ignored():
    """An earlier start may have confirmed them before the search found better ones."""
    others = ran(0.5, [0.99] * 3)
    leading = Race("seed").leading(queued({0.1: 0.9, 0.2: 0.8}), others, MAXIMIZE)
    assert {each.params["x"] for each in leading} == {0.1}
    assert Race("seed").leading([], others, MAXIMIZE) == []


@pytest.mark.parametrize(
    ("value", "n_trained"),
    [
        (lambda x: 1 - x, {0.1: 3}),  # as in the search: the others are never trained
        (lambda x: x, {0.1: 1, 0.2: 1, 0.3: 3}),  # the opposite of the search
    ],
)
def test_race_ends_when_the_leader_has_run_on_all_seeds(value, n_trained):
    settings = queued({0.1: 0.5, 0.2: 0.47, 0.3: 0.46})
    trials: list[FrozenTrial] = []
    while left := [
        each
        for each in Race("seed").leading(settings, trials, MAXIMIZE)
        if each.params not in [other.params for other in trials]
    ]:
        chosen = left[0].params
        trials.append(trial(value(chosen["x"]), space=SPACE, **chosen))
    xs = [each.params["x"] for each in trials]
    assert {x: xs.count(x) for x in set(xs)} == n_trained
