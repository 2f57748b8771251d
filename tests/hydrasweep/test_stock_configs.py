"""Configs for hydra-optuna-sweeper, after the change that the document tells of."""

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import App
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import OmegaConf
from optuna.trial import TrialState

DOCUMENT = (Path(__file__).parents[2] / "docs" / "from_hydra_optuna_sweeper.md").read_text()

COFFEE = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe
hydra:
  sweep:
    dir: sweep
  sweeper:
    direction: maximize
    study_name: coffee
    storage: null
    n_trials: 6
    n_jobs: 1
    max_failure_rate: 0.0
    params:
      grind: range(1, 11)
      degrees: interval(85, 98)
      method: choice(press, drip)
grind: 5
degrees: 92.0
method: press
beans: null
"""
TASTE = """
    assert isinstance(cfg.grind, int)
    return -(cfg.grind - 6) ** 2 - abs(cfg.degrees - 93) - (cfg.method == "drip")
"""
SERVER = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: nsgaii
hydra:
  sweep: {dir: sweep}
  sweeper:
    direction: [minimize, maximize]
    study_name: server
    n_trials: 6
    n_jobs: 1
    sampler: {seed: 7}
    params:
      workers: range(1, 9)
      timeout: interval(0.1, 5)
workers: 1
timeout: 1.0
"""
PIPE = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: random
hydra:
  sweep: {dir: sweep}
  sweeper:
    study_name: pipe
    n_trials: 5
    n_jobs: 1
    sampler: {seed: 7}
    params:
      outer: range(10, 20)
    custom_search_space: app.fits
outer: 10
inner: 0.0
wall: 2
"""
FITS = """
def fits(cfg, trial):
    trial.suggest_float("inner", 1, trial.params["outer"] - cfg.wall)
    trial.suggest_int("+layers", 1, 3)
"""


def ours(config: str) -> str:
    """The config after the change that the document tells of."""
    before, after = (re.search(rf"^\{sign}(.*)$", DOCUMENT, re.MULTILINE) for sign in "-+")
    assert before
    assert after
    assert config.count(before[1]) == 1
    return config.replace(before[1], after[1])


def results(folder: Path) -> Any:
    return OmegaConf.load(folder / "sweep" / "optimization_results.yaml")


def test_the_document_has_every_field_of_the_stock_sweeper() -> None:
    table = DOCUMENT.partition("## Its fields")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    fields = [field.name for field in dataclasses.fields(OptunaSweeperConf)]
    assert sorted(named) == sorted(set(fields) - {"_target_", "defaults"})


def test_line_that_must_go_is_refused(app: Callable[..., App]) -> None:
    (line,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    config = OmegaConf.merge(OmegaConf.create(ours(COFFEE)), OmegaConf.create(line))
    done = app(TASTE, OmegaConf.to_yaml(config))()
    assert done.code == 1
    assert "remove this line" in done.err


def test_space_in_the_config(app: Callable[..., App]) -> None:
    words = ("hydra.sweeper.sampler.seed=7", "hydra.sweeper.sampler.n_startup_trials=3")
    done = app(TASTE, ours(COFFEE))(*words)
    assert done.code == 0, done.err
    assert done.states("coffee") == ["COMPLETE"] * 6
    study, found = done.study("coffee"), results(done.folder)
    assert found.name == "optuna"
    assert found.best_params == study.best_params
    assert found.best_value == study.best_value == max(t.value for t in study.trials)


def test_space_on_the_command_line_counts_before_the_config_s(app: Callable[..., App]) -> None:
    sampler = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=7")
    words = ("grind=choice(2,4)", "degrees=90", "~beans", "hydra.job.chdir=true")
    done = app(TASTE, ours(COFFEE))(*sampler, *words)
    assert done.code == 0, done.err
    params = [trial.params for trial in done.trials("coffee")]
    assert {each["grind"] for each in params} == {2, 4}
    assert all(each.keys() == {"grind", "method"} for each in params)
    assert results(done.folder).best_params.keys() == {"grind", "method"}
    overrides = OmegaConf.load(done.folder / "sweep" / "000" / ".hydra" / "overrides.yaml")
    assert {"degrees=90", "~beans"} <= set(overrides)


@pytest.mark.parametrize("n_trials", [1, 20])
def test_grid_is_tried_whole(app: Callable[..., App], n_trials: int) -> None:
    words = ("hydra/sweeper/sampler=grid", "grind=range(1,4)", "degrees=90,93")
    done = app(TASTE, ours(COFFEE))(*words, f"hydra.sweeper.n_trials={n_trials}")
    assert done.code == 0, done.err
    points = [tuple(trial.params.values()) for trial in done.trials("coffee")]
    assert len(points) == len(set(points)) == 3 * 2 * 2
    assert results(done.folder).best_params == {"grind": 3, "degrees": 93, "method": "press"}


def test_several_objectives(app: Callable[..., App]) -> None:
    done = app("return cfg.workers * cfg.timeout, cfg.workers / cfg.timeout", ours(SERVER))()
    assert done.code == 0, done.err
    front = sorted(trial.values for trial in done.study("server").best_trials)
    assert sorted(solution["values"] for solution in results(done.folder).solutions) == front
    assert all(set(s.params) == {"workers", "timeout"} for s in results(done.folder).solutions)


def test_custom_search_space(app: Callable[..., App]) -> None:
    task = app("return cfg.outer - cfg.inner + cfg.layers", ours(PIPE), FITS)
    done = task("wall=4")
    assert done.code == 0, done.err
    for trial in done.trials("pipe"):
        params = trial.params
        assert 1 <= params["inner"] <= params["outer"] - 4
        assert trial.value == params["outer"] - params["inner"] + params["+layers"]


@pytest.mark.parametrize(("limit", "n_failed"), [("0.0", 1), ("0.9", 1), ("1.0", 6)])
def test_failures_within_the_limit_that_was_set_end_nothing(
    app: Callable[..., App], limit: str, n_failed: int
) -> None:
    task = app("raise RuntimeError('no water')", ours(COFFEE))
    done = task(f"hydra.sweeper.max_failure_rate={limit}")
    assert done.code == 1
    states = [trial.state for trial in done.trials("coffee")]
    assert states == [TrialState.FAIL] * n_failed
    assert ("RuntimeError: no water" in done.err) == (n_failed < 6)
    assert ("no trial came to its end" in done.err) == (n_failed == 6)


def test_finished_study_runs_no_more_and_a_higher_n_trials_does(app: Callable[..., App]) -> None:
    task = app(TASTE, ours(COFFEE))
    assert task().code == 0
    assert "is finished: 6 trials" in task().out
    done = task("hydra.sweeper.n_trials=7")
    assert len(done.trials("coffee")) == 7
    assert (done.folder / "sweep" / "006").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["cmaes", "gp", "nsgaii", "qmc"])
def test_samplers_work_by_name(app: Callable[..., App], sampler: str) -> None:
    if sampler == "cmaes" and not importlib.util.find_spec("cmaes"):
        pytest.skip("the package cmaes is not installed")
    few = {"gp": ("hydra.sweeper.sampler.n_startup_trials=3",)}.get(sampler, ())
    done = app(TASTE, ours(COFFEE))(f"hydra/sweeper/sampler={sampler}", "~method", *few)
    assert done.code == 0, done.err
    assert done.states("coffee") == ["COMPLETE"] * 6
    # A model may propose the best corner of the space twice.
    assert len({str(trial.params) for trial in done.trials("coffee")}) >= 5
