"""A grid has hundreds of points.

They: searched a grid that Optuna writes out in full before the first trial, and whose trials take
longer the more of them there were.
Source: github.com/optuna/optuna/issues/4726, github.com/optuna/optuna/issues/6071
Right: each point is tried once, as many trials as the grid has points, whatever ``n_trials`` says;
the last ones begin as soon after the one before as the first ones.
"""

import statistics
from collections.abc import Callable
from itertools import pairwise

import pytest
from apps import App

GRID = ("~x", "hydra/sweeper/sampler=grid", "seed=range(0,20)", "kind=range(0,20)")


def test_plan_counts_the_points(app: Callable[..., App]) -> None:
    done = app("return cfg.seed")(*GRID, "hydra.sweeper.dry_run=true")
    assert done.code == 0, done.err
    assert "400 trials" in done.out


@pytest.mark.slow
def test_each_point_is_tried_once_and_none_waits_longer(app: Callable[..., App]) -> None:
    done = app("return cfg.seed + cfg.kind")(*GRID)
    assert done.code == 0, done.err
    trials = done.trials()
    points = {(trial.params["seed"], trial.params["kind"]) for trial in trials}
    assert len(trials) == len(points) == 400
    begun = sorted(trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert statistics.median(pauses[-100:]) < 3 * statistics.median(pauses[:100])
