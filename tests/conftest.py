"""What the tests share: composed configs, a store of their own, runs of the real entrypoints."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

# Before mlflow is imported anywhere: no telemetry, no store of the caller's.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from hydrasweep import search
from hydrasweep.assembly import assemble
from hydrasweep.data import Split
from hydrasweep.training import Training

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = ("data.n_train=600", "data.n_val=200", "n_threads=1", "device=cpu")

Compose = Callable[..., DictConfig]
Script = Callable[..., "subprocess.CompletedProcess[str]"]

torch.set_num_threads(1)
search.register()
# A suite started in the background ignores Ctrl-C, and so would every process it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds no runs; made once, because that takes MLflow seconds."""
    from hydrasweep.tracking import open_store

    root = tmp_path_factory.mktemp("store")
    open_store(root)
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A folder that stands for the repository where runs are recorded."""
    folder = tmp_path / "root"
    folder.mkdir()
    with (
        closing(sqlite3.connect(empty_store)) as source,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        source.backup(copy)
    return folder


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """``compose(*overrides)`` gives the config of a small run that stays in ``tmp_path``."""

    def composed(*overrides: str, small: bool = True, **kwargs: Any) -> DictConfig:
        paths = (
            f"paths.root={tmp_path / 'root'}",
            f"paths.data={REPOSITORY / 'data'}",
            f"paths.outputs={tmp_path / 'outputs'}",
        )
        with initialize_config_dir(str(REPOSITORY / "conf")):
            kwargs = {"config_name": "train", **kwargs}
            return hydra_compose(
                overrides=[*paths, *(SMALL if small else ()), *overrides], **kwargs
            )

    return composed


def parts(cfg: DictConfig) -> tuple[Training, Split, Split]:
    """What ``cfg`` trains, and the images that it trains and validates on."""
    job = assemble(cfg)
    return job.training, job.train, job.val


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def command_line(script: str, *arguments: str) -> list[str]:
    return [
        sys.executable,
        str(REPOSITORY / "src" / script),
        f"paths.data={REPOSITORY / 'data'}",
        *SMALL,
        *arguments,
    ]


def environment(root: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "HYDRASWEEP_ROOT": str(root), **extra}


@pytest.fixture
def script(root: Path, tmp_path: Path) -> Script:
    """``script("train.py", *overrides)`` runs an entrypoint as a user does, from elsewhere."""

    def run(name: str, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command_line(name, *arguments),
            cwd=tmp_path,
            env=environment(root, **extra),
            text=True,
            capture_output=True,
        )

    return run


@pytest.fixture
def stopped(root: Path, tmp_path: Path) -> Callable[..., "tuple[int, str, str]"]:
    """``stopped(signum, line, *overrides)`` trains until ``line`` is printed, sends the signal
    and gives exit code, stdout and stderr."""

    def run(signum: int, line: str, *arguments: str) -> tuple[int, str, str]:
        process = subprocess.Popen(
            command_line("train.py", *arguments),
            cwd=tmp_path,
            env=environment(root),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            seen = []
            for text in process.stdout:
                seen.append(text)
                if line in text:
                    process.send_signal(signum)
                    break
            out, err = process.communicate()
        return process.returncode, "".join(seen) + out, err

    return run
