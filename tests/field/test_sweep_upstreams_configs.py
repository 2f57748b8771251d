"""Configs for the stock sweeper, with its name changed.

They: followed the documentation of hydra-optuna-sweeper, with one objective and with two, and a
key of a later version that ended the sweep.
Source: hydra.cc/docs/plugins/optuna_sweeper, github.com/facebookresearch/hydra/issues/2313
Right: they work as they stand, with ``n_jobs`` and ``max_failure_rate`` in their old meaning.
"""

from collections.abc import Callable
from typing import Any

import pytest
from apps import App
from omegaconf import OmegaConf

pytest_plugins = ["sweep_fixtures"]

ONE = """
defaults:
  - override hydra/sweeper: hydrasweep
  - override hydra/sweeper/sampler: tpe
hydra:
  sweeper:
    sampler:
      seed: 123
      n_startup_trials: 2
      n_ei_candidates: 24
      multivariate: false
    direction: minimize
    storage: null
    study_name: sphere
    n_trials: 4
    n_jobs: 2
    max_failure_rate: 0.0
    params:
      x: range(-5.5, 5.5, step=0.5)
      y: choice(-5, 0, 5)
x: 1
y: 1
"""
TWO = """
defaults:
  - override hydra/sweeper: hydrasweep
  - override hydra/sweeper/sampler: nsgaii
hydra:
  sweeper:
    sampler:
      seed: 123
    direction: [minimize, maximize]
    study_name: two
    storage: null
    n_trials: 4
    n_jobs: 1
    params:
      x: interval(0, 5)
      y: interval(0, 3)
x: 1
y: 1
"""


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [(ONE, "sphere", "cfg.x**2 + cfg.y**2"), (TWO, "two", "(cfg.x**2, cfg.y - cfg.x)")],
)
def test_config_of_the_documentation_works(
    app: Callable[..., App], config: str, name: str, value: str
) -> None:
    done = app(f"return {value}", config)()
    assert done.code == 0, done.err
    assert done.states(name) == ["COMPLETE"] * 4
    (path,) = done.folder.rglob("optimization_results.yaml")
    found: Any = OmegaConf.load(path)
    assert found.name == "optuna"
    if name == "two":
        fronts = sorted(trial.values for trial in done.study(name).best_trials)
        assert sorted(solution["values"] for solution in found.solutions) == fronts
    else:
        assert found.best_value == done.study(name).best_value


def test_whole_numbers_stay_whole(app: Callable[..., App]) -> None:
    done = app("assert isinstance(cfg.y, int)\nreturn cfg.y", ONE)("~x", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
