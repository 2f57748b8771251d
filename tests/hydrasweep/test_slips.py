"""Frequent mistakes that Hydra or the stock sweeper refuse: the message says what was meant."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from apps import App
from hydra.errors import MissingConfigException

from hydrasweep.slips import advice

STOCK = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
OVERRIDE = "override hydra/sweeper: hydrasweep"  # in the defaults list
WITH_PLAIN_EXIT = "with hydrasweep.plain_exit(): task()"


@pytest.mark.parametrize(
    ("slip", "texts"),
    [
        ("n_trials=3", ["hydra.sweeper.n_trials=3"]),
        ("pruner=median", ["hydra/sweeper/pruner=median"]),
        ("lr=0.1", ["lr: ", "--cfg job", "+lr=0.1"]),
        ("hydra/launcher=jobilb", ["hydra/launcher/jobilb"]),
    ],
)
def test_slip_is_answered_with_what_was_meant(
    app: Callable[..., App], slip: str, texts: list[str]
) -> None:
    done = app("return cfg.x")(slip, in_process=True)
    assert done.err.startswith("Error: ")
    for text in texts:
        assert text in done.err


def test_plain_exit_answers_slips_in_the_app_itself(app: Callable[..., App]) -> None:
    done = app("return cfg.x", main=WITH_PLAIN_EXIT)("n_trials=3")
    assert done.code == 1
    assert "hydra.sweeper.n_trials=3" in done.err
    assert "Traceback" not in done.err


def test_sweep_without_its_flag_is_refused_with_the_command(
    app: Callable[..., App], tmp_path: Path
) -> None:
    task = app("return cfg.x", main=WITH_PLAIN_EXIT)
    (tmp_path / "conf" / "hparams").mkdir()
    (tmp_path / "conf" / "hparams" / "search.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
    )
    done = task("+hparams=search", "x=interval(0, 1)", multirun=False)
    assert done.code == 1
    assert done.err.startswith("Error: ")
    assert "python app.py -m +hparams=search 'x=interval(0, 1)'\n" in done.err


def test_override_without_its_slash_in_a_file_of_a_group_is_answered_with_it() -> None:
    message = (
        "In 'search/mine': Could not override 'search/hydra/sweeper/pruner'. No earlier Group "
        "Default for 'search/hydra/sweeper/pruner@search.hydra.sweeper.pruner' found"
    )
    assert "`override /hydra/sweeper/pruner: " in advice(MissingConfigException(message))


@pytest.mark.parametrize("name", ["submitit_slurm", "submitit_local", "ray"])
def test_launcher_that_is_not_installed_is_refused_with_its_package(name: str) -> None:
    message = (
        f"Could not find 'hydra/launcher/{name}'\n\nAvailable options in 'hydra/launcher':\n\tbasic"
    )
    package = f"hydra-{name.partition('_')[0]}-launcher=={version('hydra-core')}"
    text = advice(MissingConfigException(message))
    assert f"hydra/launcher={name}" in text
    assert f'python -m pip install "{package}"' in text


def test_typo_is_answered_with_hydras_guess(app: Callable[..., App]) -> None:
    done = app("return cfg.x", "seeds: 0\n")("seed=1", in_process=True)
    assert "seeds" in done.err


# The stock sweeper's class in configs for this sweeper

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
NOT_CHOSEN = re.sub(r"defaults:\n.*\n", "", EXPERIMENT)
ONLY_PARAMS = re.sub(r"    (direction|study_name|n_trials): .*\n", "", NOT_CHOSEN)
BARE = "hydra: {sweep: {dir: sweep}}\ndegrees: 92.0\n"
CHOOSING = "defaults: [override hydra/sweeper: hydrasweep]\n" + BARE


@pytest.fixture
def experiment(app: Callable[..., App], tmp_path: Path) -> Callable[..., Any]:
    """``experiment(config, text, *overrides)`` sweeps with a file for an experiment."""

    def run(config: str, text: str, *overrides: str, in_process: bool = True) -> Any:
        task = app("return cfg.degrees", config)
        (tmp_path / "conf" / "experiment").mkdir()
        (tmp_path / "conf" / "experiment" / "hot.yaml").write_text(text)
        return task("+experiment=hot", *overrides, in_process=in_process)

    return run


@pytest.mark.parametrize(
    ("config", "text", "overrides", "in_process"),
    [
        (BARE, CHOSEN, (), False),
        (CHOOSING, NOT_CHOSEN, (), True),
        (BARE, NOT_CHOSEN, ("hydra/sweeper=hydrasweep",), True),
        (BARE, EXPERIMENT, ("hydra/sweeper=hydrasweep",), True),
    ],
)
def test_class_of_the_stock_sweeper_is_refused_with_its_file(
    experiment: Callable[..., Any],
    config: str,
    text: str,
    overrides: tuple[str, ...],
    in_process: bool,
) -> None:
    done = experiment(config, text, *overrides, in_process=in_process)
    assert done.code == 1
    for found in ("experiment/hot", "hydra.sweeper._target_", STOCK, OVERRIDE):
        assert found in done.err
    assert "TypeError" not in done.err
    assert "Traceback" not in done.err


def test_experiment_without_that_class_works(experiment: Callable[..., Any]) -> None:
    text = CHOSEN.replace(f"    _target_: {STOCK}\n", "")
    done = experiment(BARE, text, in_process=False)
    assert done.code == 0, done.err
    assert done.states("coffee") == ["COMPLETE"] * 3


def test_class_of_the_stock_sweeper_on_the_command_line_is_refused(
    app: Callable[..., App],
) -> None:
    done = app("return cfg.x")(f"hydra.sweeper._target_={STOCK}", in_process=True)
    assert done.code == 1
    assert STOCK in done.err


@pytest.mark.parametrize("config", [BARE, CHOOSING.replace(": hydrasweep", ": optuna")])
def test_class_of_this_sweeper_with_settings_of_another_is_refused(
    app: Callable[..., App], config: str
) -> None:
    target = "hydra.sweeper._target_=hydrasweep.plugin.HydraSweepSweeper"
    done = app("return cfg.degrees", config)(target, "degrees=90,91", in_process=True)
    assert done.err.startswith("Error: hydra.sweeper._target_ ")
    assert OVERRIDE in done.err


@pytest.mark.parametrize(
    ("text", "overrides", "setting"),
    [
        (NOT_CHOSEN, (), "hydra.sweeper.direction"),
        (ONLY_PARAMS, (), "hydra.sweeper._target_"),
        (EXPERIMENT, ("hydra.sweeper.stratify=x",), "hydra.sweeper.stratify"),
        (EXPERIMENT, ("hydra/sweeper/pruner=median",), "hydra/sweeper/pruner"),
    ],
)
def test_settings_of_this_sweeper_for_another_are_refused_with_how_to_choose_it(
    experiment: Callable[..., Any], text: str, overrides: tuple[str, ...], setting: str
) -> None:
    done = experiment(BARE, text, *overrides)
    assert done.err.startswith(f"Error: {setting} ")
    assert OVERRIDE in done.err
    assert len(done.err.splitlines()) == 1
