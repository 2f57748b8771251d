"""Configs for hydra-optuna-sweeper work after the change that the documentation describes."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import OmegaConf

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


def ours(config):
    """The config after the change that the document describes."""
    before, after = (re.search(rf"^\{sign}(.*)$", DOCUMENT, re.MULTILINE) for sign in "-+")
    assert before
    assert after
    assert config.count(before[1]) == 1
    return config.replace(before[1], after[1])


def results(folder):
    return OmegaConf.load(folder / "sweep" / "optimization_results.yaml")


def test_document_has_every_field_of_the_stock_sweeper():
    table = DOCUMENT.partition("## Its fields")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    fields = [field.name for field in dataclasses.fields(OptunaSweeperConf)]
    assert sorted(named) == sorted(set(fields) - {"_target_", "defaults"})


def test_line_that_the_document_removes_is_refused(app):
    (line,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    config = OmegaConf.merge(OmegaConf.create(ours(COFFEE)), OmegaConf.create(line))
    done = app(TASTE, OmegaConf.to_yaml(config))(in_process=True, code=1)
    assert "hydra.sweeper._target_" in done.err


def test_space_in_the_config_is_searched_and_the_study_resumes(app):
    task = app(TASTE, ours(COFFEE))
    sampler = ("hydra.sweeper.sampler.seed=7", "hydra.sweeper.sampler.n_startup_trials=3")
    for n_trials in (6, 7):
        done = task(*sampler, f"hydra.sweeper.n_trials={n_trials}", code=0)
        assert done.states("coffee") == ["COMPLETE"] * n_trials
        study, found = done.study("coffee"), results(done.folder)
        assert found.name == "optuna"
        assert found.best_params == study.best_params
        assert found.best_value == study.best_value == max(t.value for t in study.trials)
    assert (done.folder / "sweep" / "006").is_dir()
    assert (done.folder / "sweep" / "study.db").exists()  # the stock default is memory


def test_space_on_the_command_line_replaces_that_of_the_config(app):
    sampler = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=7")
    overrides = ("grind=choice(2,4)", "degrees=90", "~beans", "hydra.job.chdir=true")
    done = app(TASTE, ours(COFFEE))(*sampler, *overrides, code=0)
    params = [trial.params for trial in done.trials("coffee")]
    assert {each["grind"] for each in params} == {2, 4}
    assert all(each.keys() == {"grind", "method"} for each in params)
    assert results(done.folder).best_params.keys() == {"grind", "method"}
    applied = OmegaConf.load(done.folder / "sweep" / "000" / ".hydra" / "overrides.yaml")
    assert {"degrees=90", "~beans"} <= set(applied)


@pytest.mark.parametrize("n_trials", [1, 20])
def test_all_points_of_a_grid_run_whatever_n_trials_is(app, n_trials):
    overrides = ("hydra/sweeper/sampler=grid", "grind=range(1,3)", "degrees=90,93")
    done = app(TASTE, ours(COFFEE))(*overrides, f"hydra.sweeper.n_trials={n_trials}", code=0)
    points = [tuple(trial.params.values()) for trial in done.trials("coffee")]
    assert len(points) == len(set(points)) == 2 * 2 * 2
    assert results(done.folder).best_params == {"grind": 2, "degrees": 93, "method": "press"}


def test_several_objectives_have_a_pareto_front(app):
    done = app("return cfg.workers * cfg.timeout, cfg.workers / cfg.timeout", ours(SERVER))()
    assert done.code == 0, done.err
    front = sorted(trial.values for trial in done.study("server").best_trials)
    assert sorted(solution["values"] for solution in results(done.folder).solutions) == front
    assert all(set(s.params) == {"workers", "timeout"} for s in results(done.folder).solutions)


def test_custom_search_space_suggests_further_settings(app):
    task = app("return cfg.outer - cfg.inner + cfg.layers", ours(PIPE), FITS)
    done = task("wall=4", code=0)
    for trial in done.trials("pipe"):
        params = trial.params
        assert 1 <= params["inner"] <= params["outer"] - 4
        assert trial.value == params["outer"] - params["inner"] + params["+layers"]


@pytest.mark.parametrize(("limit", "n_failed"), [("0.0", 1), ("1.0", 6)])
def test_max_failure_rate_is_the_largest_share_that_is_accepted(app, limit, n_failed):
    task = app("raise RuntimeError('no water')", ours(COFFEE))
    done = task(f"hydra.sweeper.max_failure_rate={limit}", code=1)
    assert [trial.state.name for trial in done.trials("coffee")] == ["FAIL"] * n_failed
    assert ("RuntimeError: no water" in done.err) == (n_failed == 1)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["cmaes", "gp", "nsgaii", "qmc"])
def test_samplers_work_by_their_names(app, sampler):
    if sampler == "cmaes" and not importlib.util.find_spec("cmaes"):
        pytest.skip("the package cmaes is not installed")
    few = {"gp": ("hydra.sweeper.sampler.n_startup_trials=3",)}.get(sampler, ())
    done = app(TASTE, ours(COFFEE))(f"hydra/sweeper/sampler={sampler}", "~method", *few, code=0)
    assert done.states("coffee") == ["COMPLETE"] * 6
    # A model may propose the best corner of the space twice.
    assert len({str(trial.params) for trial in done.trials("coffee")}) >= 5
