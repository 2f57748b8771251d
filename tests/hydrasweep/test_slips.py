"""Frequent mistakes that Hydra or the stock sweeper refuse: the message says what was meant."""

import re
from importlib.metadata import version

import pytest
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
def test_slip_is_answered_with_what_was_meant(app, slip, texts):
    done = app("return cfg.x")(slip, in_process=True)
    assert done.err.startswith("Error: ")
    for text in texts:
        assert text in done.err


def test_plain_exit_answers_slips_in_the_app_itself(app):
    done = app("return cfg.x", main=WITH_PLAIN_EXIT)("n_trials=3", code=1)
    assert "hydra.sweeper.n_trials=3" in done.err
    assert "Traceback" not in done.err


def test_sweep_without_its_flag_is_refused_with_the_command(app, tmp_path):
    task = app("return cfg.x", main=WITH_PLAIN_EXIT)
    (tmp_path / "conf" / "hparams").mkdir()
    (tmp_path / "conf" / "hparams" / "search.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
    )
    done = task("+hparams=search", "x=interval(0, 1)", multirun=False, code=1)
    assert done.err.startswith("Error: ")
    assert "python app.py -m +hparams=search 'x=interval(0, 1)'\n" in done.err


def test_override_without_its_slash_in_a_file_of_a_group_is_answered_with_it():
    message = (
        "In 'search/mine': Could not override 'search/hydra/sweeper/pruner'. No earlier Group "
        "Default for 'search/hydra/sweeper/pruner@search.hydra.sweeper.pruner' found"
    )
    assert "`override /hydra/sweeper/pruner: " in advice(MissingConfigException(message))


@pytest.mark.parametrize("name", ["submitit_slurm", "submitit_local", "ray"])
def test_launcher_that_is_not_installed_is_refused_with_its_package(name):
    message = (
        f"Could not find 'hydra/launcher/{name}'\n\nAvailable options in 'hydra/launcher':\n\tbasic"
    )
    package = f"hydra-{name.partition('_')[0]}-launcher=={version('hydra-core')}"
    text = advice(MissingConfigException(message))
    assert f"hydra/launcher={name}" in text
    assert f'python -m pip install "{package}"' in text


def test_typo_is_answered_with_hydras_guess(app):
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


def write_experiment(app, folder, config, text):
    task = app("return cfg.degrees", config)
    (folder / "conf" / "experiment").mkdir()
    (folder / "conf" / "experiment" / "hot.yaml").write_text(text)
    return task


THIS = "hydra.sweeper._target_=hydrasweep.plugin.HydraSweepSweeper"


@pytest.mark.parametrize(
    ("config", "text", "overrides", "found"),
    [
        # The class of the stock sweeper, with the settings of this one
        (BARE, CHOSEN, [], ["experiment/hot", "hydra.sweeper._target_", STOCK]),
        (CHOOSING, NOT_CHOSEN, [], ["experiment/hot", "hydra.sweeper._target_", STOCK]),
        (BARE, NOT_CHOSEN, ["hydra/sweeper=hydrasweep"], ["experiment/hot", STOCK]),
        (BARE, EXPERIMENT, ["hydra/sweeper=hydrasweep"], ["experiment/hot", STOCK]),
        (CHOOSING, "", [f"hydra.sweeper._target_={STOCK}"], [STOCK]),
        # The class of this sweeper, with the settings of another
        (BARE, "", [THIS, "degrees=90,91"], ["hydra.sweeper._target_"]),
        (CHOOSING.replace(": hydrasweep", ": optuna"), "", [THIS], ["hydra.sweeper._target_"]),
        # Settings of this sweeper for another
        (BARE, NOT_CHOSEN, [], ["hydra.sweeper.direction"]),
        (BARE, ONLY_PARAMS, [], ["hydra.sweeper._target_"]),
        (BARE, EXPERIMENT, ["hydra.sweeper.stratify=x"], ["hydra.sweeper.stratify"]),
        (BARE, EXPERIMENT, ["hydra/sweeper/pruner=median"], ["hydra/sweeper/pruner"]),
    ],
)
def test_class_and_settings_of_two_sweepers_are_refused_with_how_to_choose_this_one(
    app, tmp_path, config, text, overrides, found
):
    task = write_experiment(app, tmp_path, config, text)
    done = task("+experiment=hot", *overrides, in_process=True)
    assert done.err.startswith("Error: ")
    for each in [*found, OVERRIDE]:
        assert each in done.err
    assert "TypeError" not in done.err


def test_class_of_the_stock_sweeper_ends_the_command_until_it_is_removed(app, tmp_path):
    task = write_experiment(app, tmp_path, BARE, CHOSEN)
    done = task("+experiment=hot", code=1)
    assert STOCK in done.err
    assert "Traceback" not in done.err
    text = CHOSEN.replace(f"    _target_: {STOCK}\n", "")
    (tmp_path / "conf" / "experiment" / "hot.yaml").write_text(text)
    done = task("+experiment=hot", code=0)
    assert done.states("coffee") == ["COMPLETE"] * 3
