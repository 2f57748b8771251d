"""Figures of parameters, which compare trials after the same step."""

import math
import random
import re
from statistics import stdev
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from planted import plant, searched, sweep_of, trial

from hydrasweep import budgets, page
from hydrasweep.budgets import Budget

DRAWN = {"parallel", "slices", "importances", "contours"}
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def values(budget):
    return sorted(trial.value for trial in budget.study.trials)


def test_trials_are_compared_after_the_first_step_that_all_of_them_have(tmp_path):
    sweep = sweep_of(tmp_path, searched(9), searched(3))
    assert budgets.steps(sweep) == [1, 3]
    first, last = (Budget(sweep, 0, step) for step in (1, 3))
    trials = [*searched(9), *searched(3)]
    assert values(first) == sorted(t.intermediate_values[1] for t in trials)
    complete = [t for t in trials if t.state == COMPLETE]
    assert values(last) == sorted(t.values[0] for t in complete)
    assert re.search(r"\b1\b.*\b12\b", first.label)
    assert re.search(r"\b3\b.*\b8\b", last.label)
    assert first.target == "val/accuracy after step 1"
    assert [t.params["model"] for t in first.study.trials].count("1") == 3


def test_long_trials_do_not_make_their_setting_look_better(tmp_path):
    """The pruner continues trials with large batches, though dropout alone decides the value."""
    rng, trials = random.Random(0), []
    for i in range(40):
        dropout, lr = rng.uniform(0, 0.5), 10 ** rng.uniform(-4, -1)
        size = rng.choice([32, 64, 128])
        n_steps = 9 if size == 128 else 1
        reports = [step / 10 - dropout / 20 for step in range(1, n_steps + 1)]
        state = COMPLETE if n_steps == 9 else PRUNED
        settings = {"lr": lr, "dropout": dropout, "batch_size": size}
        trials.append(trial(reports[-1], state=state, reports=reports, minute=i, **settings))
    sweep = sweep_of(tmp_path, trials)
    assert budgets.steps(sweep) == [1, 9]
    figures = Budget(sweep, 0, 1).figures
    assert figures["importances"][0].data[0].y[-1] == "model.dropout"
    seen = [list(trace.y) for trace in figures["slices"][0].data]
    assert {round(y, 3) for ys in seen for y in ys} <= {round(0.1 - i / 1000, 3) for i in range(26)}


def test_budget_has_trials_with_a_value_that_did_not_fail(tmp_path):
    some = {"lr": 0.1, "dropout": 0.1}
    sweep = sweep_of(
        tmp_path,
        [
            trial(0.5, reports=[0.1, 0.2, 0.5], **some),
            trial(0.3, state=PRUNED, reports=[0.15, 0.3], **some),
            trial(state=TrialState.RUNNING, reports=[0.4], **some),
            trial(state=FAIL, reports=[0.9], **some),
            trial(0.9, **some),
            trial(state=TrialState.WAITING),
        ],
    )
    assert budgets.steps(sweep) == [2, 3]
    shown = [values(Budget(sweep, 0, step)) for step in (1, 2, 3)]
    assert shown == [[0.1, 0.15, 0.4], [0.2, 0.3], [0.5]]


def test_without_a_common_step_final_values_are_compared(tmp_path):
    ended = [trial(0.5, lr=0.1), trial(0.7, lr=0.01), trial(0.6, state=PRUNED, lr=0.1)]
    apart = [trial(0.5, reports=[0.4, 0.5], lr=0.1), trial(0.7, lr=0.01)]
    apart[1].intermediate_values = {10: 0.7}
    apart += [trial(0.6, state=PRUNED, reports=[0.6], lr=0.1)]
    for name, trials in (("none", ended), ("apart", apart)):
        sweep = sweep_of(tmp_path / name, trials)
        (step,) = budgets.steps(sweep)
        assert step is None
        budget = Budget(sweep, 0, step)
        assert values(budget) == [0.5, 0.7]
        assert budget.target == "val/accuracy"
        assert re.search(r"[Ff]inal\b.*\b2\b", budget.label)


def test_several_objectives_are_compared_by_their_final_values(tmp_path):
    trials = [trial(0.5, 3.0, lr=0.1), trial(0.7, 4.0, lr=0.01)]
    objective = {"objective": ["val/accuracy", "seconds"]}
    folder = plant(tmp_path / "s", {"": trials}, ["maximize", "minimize"], objective)
    ((one, two),) = budgets.budgets(page.read(folder))
    assert (one.step, one.target, values(one)) == (None, "val/accuracy", [0.5, 0.7])
    assert (two.step, two.target, values(two)) == (None, "seconds", [3.0, 4.0])


def test_steps_to_choose_from_are_few_and_include_the_last(tmp_path):
    trials = [
        trial(0.5, state=PRUNED, reports=[0.5] * n, lr=0.1 / n, minute=n) for n in range(2, 40)
    ]
    first, *others = budgets.steps(sweep_of(tmp_path, trials))
    assert first == 2
    assert len(others) == budgets.MAX_STEPS - 1
    assert others == sorted(others, key=int)
    assert others[-1] == 39


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_trial_that_diverged_does_not_flatten_the_others(tmp_path, direction, sign):
    ends = [sign * value for value in (0.90, 0.91, 0.92, 0.93, 0.94, -1e6)]
    trials = [trial(value, lr=10 ** -(i + 1)) for i, value in enumerate(ends[:4])]
    trials += [trial(value, lr=0.05) for value in (*ends[4:], math.inf)]
    sweep = sweep_of(tmp_path, trials, direction=direction)
    shown = values(Budget(sweep, 0, None))
    assert len(shown) == 6
    assert 0.5 < min(sign * value for value in shown) < 0.9
    axis = sweep.views[0].range
    assert axis is not None
    low, high = sorted(sign * end for end in axis)
    assert 0.5 < low < 0.9
    assert 0.94 < high < 1.1


def drawn(rng, n):
    """A random search in which the learning rate matters, with noise."""
    trials = []
    for i in range(n):
        lr, dropout = 10 ** rng.uniform(-4, -1), rng.uniform(0, 0.5)
        value = -((math.log10(lr) + 2.3) ** 2) + rng.gauss(0, 0.3)
        size = rng.choice([32, 64, 128])
        trials.append(trial(value, minute=i, lr=lr, dropout=dropout, batch_size=size))
    return trials


def importances(folder, seed):
    sweep = sweep_of(folder, drawn(random.Random(seed), 30))
    return Budget(sweep, 0, None).figures["importances"][0]


def test_importance_has_a_standard_error(tmp_path):
    """The standard error is how much importance differs between searches."""
    found, errors, figures = [], [], []
    for i in range(4):
        figures.append(importances(tmp_path / str(i), i))
        (bars,) = figures[i].data
        assert sum(bars.x) == pytest.approx(1)
        assert all("±" in text for text in figures[i].layout.yaxis.ticktext)
        row = bars.y.index("optimizer.lr")
        found.append(bars.x[row])
        errors.append(bars.error_x.array[row])
    assert stdev(found) == pytest.approx(sum(errors) / len(errors), rel=0.5)
    same = importances(tmp_path / "same", 0)
    assert same.to_json() == figures[0].to_json()


def test_importance_and_contours_need_enough_trials(tmp_path):
    few = sweep_of(tmp_path / "few", searched(9), searched(8))
    enough = sweep_of(tmp_path / "enough", searched(12), searched(10))
    assert set(Budget(few, 0, 1).figures) == {"parallel", "slices"}
    assert set(Budget(enough, 0, 1).figures) == DRAWN
    assert set(Budget(enough, 0, 3).figures) == {"parallel", "slices"}  # 15 came so far


def test_strata_may_search_different_things(tmp_path):
    here: dict[str, Any] = {
        "lr": FloatDistribution(1e-4, 1e-1, log=True),
        "width": CategoricalDistribution([16, 64]),
        "only_here": FloatDistribution(0, 1),
    }
    there: dict[str, Any] = {
        "lr": FloatDistribution(-1.0, 1.0),
        "width": IntDistribution(8, 64),
        "elsewhere": CategoricalDistribution([None, True, "x"]),
    }
    strata: list[list[FrozenTrial]] = [[], []]
    for i in range(15):
        value, odd = i / 100 + i % 7, i % 2
        params = {"lr": (1e-4, 1e-1)[odd], "width": (16, 64)[odd], "only_here": odd}
        strata[0].append(trial(value, space=here, minute=i, **params))
        params = {"lr": (-1, 1)[odd], "width": (8, 64)[odd], "elsewhere": (None, True, "x")[i % 3]}
        strata[1].append(trial(value, space=there, minute=i, **params))
    sweep = sweep_of(tmp_path, *strata)
    assert set(sweep.views[0].figures) == {"history", "curves"}
    budget = Budget(sweep, 0, None)
    assert set(budget.figures) == DRAWN
    names = {name for t in budget.study.trials for name in t.params}
    assert names == {"model", "lr", "width", "only_here", "elsewhere"}
    assert all(isinstance(t.params["width"], str) for t in budget.study.trials)


def test_contours_show_the_most_important_parameters_and_few_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(budgets, "MAX_CONTOUR_TRIALS", 25)
    space = {f"p{i}": FloatDistribution(0, 1) for i in range(7)}
    trials = [
        trial(
            i / 60,
            space=space,
            minute=i,
            **{name: (i * (7 + k) % 60) / 60 for k, name in enumerate(space)},
        )
        for i in range(60)
    ]
    figures = Budget(page.read(plant(tmp_path / "many", {"": trials})), 0, None).figures
    (contours,) = figures["contours"]
    points = [trace for trace in contours.data if trace.type == "scatter" and trace.x]
    assert len(points) == budgets.MAX_PARAMS * (budgets.MAX_PARAMS - 1)
    assert all(0 < len(trace.x) <= 25 for trace in points)
    assert len(figures["slices"]) == 2
