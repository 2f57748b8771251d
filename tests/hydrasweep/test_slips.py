"""What Hydra refuses in words of its own gets the one thing that helps."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from apps import App
from hydra.errors import MissingConfigException

from hydrasweep.slips import advice

STOCK = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
PLAIN = "with hydrasweep.plain_exit(): task()"
SEARCH = "# @package _global_\nhydra:\n  mode: MULTIRUN\n"


@pytest.mark.parametrize(
    ("slip", "words"),
    [
        ("n_trials=3", "Error: n_trials is a setting of the sweep: hydra.sweeper.n_trials=3"),
        ("pruner=median", "pruner is a group of the sweep: hydra/sweeper/pruner=median"),
        ("lr=0.1", "Error: lr: the app has no such setting. "),
        ("hydra/launcher=jobilb", "Could not find 'hydra/launcher/jobilb'"),
        ("x={a: 1}", "Error: "),
        ("hydra.sweeper.pruner=median", "are chosen by hydra/sweeper/pruner=median"),
        ("hydra.sweeper.study_name=a/b", "hydra.sweeper.study_name=a/b: must be"),
    ],
)
def test_slip_is_answered_by_what_was_meant(app: Callable[..., App], slip: str, words: str) -> None:
    done = app("return cfg.x", main=PLAIN)(slip)
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err


def test_sweep_without_its_flag_is_told_with_the_whole_command(
    app: Callable[..., App], tmp_path: Path
) -> None:
    app("return cfg.x", main=PLAIN)
    (tmp_path / "conf" / "hparams").mkdir()
    (tmp_path / "conf" / "hparams" / "search.yaml").write_text(SEARCH)
    words = ["app.py", "+hparams=search", "x=interval(0, 1)"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: these are the settings of a sweep, which takes -m: "
        "python app.py -m +hparams=search 'x=interval(0, 1)'\n"
    )


def test_override_without_its_slash_in_a_groups_file_is_told() -> None:
    told = (
        "In 'search/mine': Could not override 'search/hydra/sweeper/pruner'. No earlier Group "
        "Default for 'search/hydra/sweeper/pruner@search.hydra.sweeper.pruner' found"
    )
    assert advice(MissingConfigException(told)).endswith(
        ": in a group's file it is `override /hydra/sweeper/pruner: …`"
    )


@pytest.mark.parametrize("name", ["submitit_slurm", "submitit_local", "ray"])
def test_launcher_that_is_not_installed_is_told_with_its_package(name: str) -> None:
    told = (
        f"Could not find 'hydra/launcher/{name}'\n\nAvailable options in 'hydra/launcher':\n\tbasic"
    )
    package = name.partition("_")[0]
    assert advice(MissingConfigException(told)) == (
        f"hydra/launcher={name}: needs a package: python -m pip install "
        f'"hydra-{package}-launcher=={version("hydra-core")}"'
    )


def test_typo_keeps_hydras_guess(app: Callable[..., App]) -> None:
    done = app("return cfg.x", "seeds: 0\n", main=PLAIN)("seed=1")
    assert "Did you mean" in done.err


# The class of the stock sweeper, in a config for this one

EXPERIMENT = f"""
# @package _global_
defaults:
  - override /hydra/sweeper: optuna
hydra:
  sweeper:
    _target_: {STOCK}
    direction: maximize
    study_name: coffee
    n_trials: 3
    params:
      degrees: interval(85, 98)
"""
CHOSEN = EXPERIMENT.replace("sweeper: optuna", "sweeper: hydrasweep")
UNCHOSEN = re.sub(r"defaults:\n.*\n", "", EXPERIMENT)
BARE = "hydra: {sweep: {dir: sweep}}\ndegrees: 92.0\n"
CHOOSING = "defaults: [override hydra/sweeper: hydrasweep]\n" + BARE


@pytest.fixture
def searching(app: Callable[..., App], tmp_path: Path) -> Callable[..., Any]:
    """``searching(config, experiment, *words)`` sweeps with an experiment's file."""

    def run(config: str, experiment: str, *words: str, main: str = "task()") -> Any:
        task = app("return cfg.degrees", config, main=main)
        (tmp_path / "conf" / "experiment").mkdir()
        (tmp_path / "conf" / "experiment" / "hot.yaml").write_text(experiment)
        return task("+experiment=hot", *words)

    return run


@pytest.mark.parametrize(
    ("config", "experiment", "words"),
    [
        (BARE, CHOSEN, ()),
        (CHOOSING, UNCHOSEN, ()),
        (BARE, UNCHOSEN, ("hydra/sweeper=hydrasweep",)),
        (BARE, EXPERIMENT, ("hydra/sweeper=hydrasweep",)),
    ],
)
def test_class_of_the_stock_sweeper_is_refused_with_its_file_and_what_to_do(
    searching: Callable[..., Any], config: str, experiment: str, words: tuple[str, ...]
) -> None:
    done = searching(config, experiment, *words)
    assert done.code == 1
    assert "In 'experiment/hot': " in done.err
    assert f"hydra.sweeper._target_ names another sweeper, {STOCK}: remove this line" in done.err
    assert "`override hydra/sweeper: hydrasweep`" in done.err
    assert "TypeError" not in done.err
    assert "Traceback" not in done.err


def test_experiment_without_that_line_works(searching: Callable[..., Any]) -> None:
    done = searching(BARE, CHOSEN.replace(f"    _target_: {STOCK}\n", ""))
    assert done.code == 0, done.err
    assert done.states("coffee") == ["COMPLETE"] * 3


def test_class_on_the_command_line_is_refused(app: Callable[..., App]) -> None:
    done = app("return cfg.x")(f"hydra.sweeper._target_={STOCK}")
    assert done.code == 1
    assert f"names another sweeper, {STOCK}: remove this line" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("config", [BARE, CHOOSING.replace(": hydrasweep", ": optuna")])
def test_this_sweeper_s_class_with_other_settings_is_refused(
    app: Callable[..., App], config: str
) -> None:
    words = ("hydra.sweeper._target_=hydrasweep.plugin.HydraSweepSweeper", "degrees=90,91")
    done = app("return cfg.degrees", config)(*words)
    assert done.code == 1
    assert done.err.startswith("Error: hydra.sweeper._target_ names this sweeper, but its settings")
    assert "`override hydra/sweeper: hydrasweep`" in done.err
    assert len(done.err.splitlines()) == 1


ONLY_PARAMS = f"""
# @package _global_
hydra:
  sweeper:
    _target_: {STOCK}
    params:
      degrees: interval(85, 98)
"""


@pytest.mark.parametrize(
    ("experiment", "words", "told"),
    [
        (UNCHOSEN, (), "hydra.sweeper.direction is a setting of hydrasweep"),
        (ONLY_PARAMS, (), "hydra.sweeper._target_ names the stock sweeper: replace this line by"),
        (EXPERIMENT, ("hydra.sweeper.stratify=x",), "hydra.sweeper.stratify is a setting of"),
        (EXPERIMENT, ("hydra/sweeper/pruner=median",), "hydra/sweeper/pruner is a group of"),
    ],
)
def test_app_that_ends_in_words_is_told_how_this_sweeper_is_chosen(
    searching: Callable[..., Any], experiment: str, words: tuple[str, ...], told: str
) -> None:
    done = searching(BARE, experiment, *words, main=PLAIN)
    assert done.code == 1
    assert done.err.startswith(f"Error: {told}")
    assert "`override hydra/sweeper: hydrasweep` in the defaults list" in done.err
    assert len(done.err.splitlines()) == 1
