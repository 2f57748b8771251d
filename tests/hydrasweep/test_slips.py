"""What Hydra refuses in words of its own gets the one thing that helps."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from apps import App
from hydra.errors import MissingConfigException

from hydrasweep.slips import advice

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
