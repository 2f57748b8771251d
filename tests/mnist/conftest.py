"""Fixtures of the application's tests."""

import logging
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from application import (
    REPOSITORY,
    SMALL,
    Compose,
    Done,
    Refusal,
    Script,
    Trained,
    client_of,
    command_line,
    copy_store,
    environment,
    run,
    run_here,
    runs_of,
    train_once,
)
from composing import composed
from omegaconf import DictConfig
from sweeps import Sweep, run_whole

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store. Creating one takes MLflow seconds, so tests copy this one."""
    import shared  # it imports what only the tests of sweeps need

    def fill(folder: Path) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with chdir(folder):
            assert client_of(folder)  # its first use creates the database

    return shared.folder(tmp_path_factory, "application-store", fill) / "mlflow.db"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    """A finished training that is recorded in MLflow, which tests only read."""
    import shared  # it imports what only the tests of sweeps need

    def fill(root: Path) -> None:
        copy_store(empty_store, root)
        train_once(
            root, "epochs=3", "data.n_val=50", "seed=7", "score_train=all/accuracy", "+mine=0.1"
        )

    return Trained(shared.folder(tmp_path_factory, "application-run", fill))


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Sweep:
    """A finished sweep of the application, which tests only read."""
    return run_whole(tmp_path_factory, empty_store)


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A folder that stands for the repository in which runs are recorded."""
    folder = tmp_path / "root"
    folder.mkdir()
    copy_store(empty_store, folder)
    return folder


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """``compose(*overrides)`` returns the config of a small run whose outputs stay in
    ``tmp_path``."""

    paths = {
        "root": str(tmp_path / "root"),
        "data": str(REPOSITORY / "data"),
        "outputs": str(tmp_path / "outputs"),
    }

    def compose_small(*overrides: str, small: bool = True, **kwargs: Any) -> DictConfig:
        return composed([*(SMALL if small else ()), *overrides], paths, **kwargs)

    return compose_small


@pytest.fixture
def script(root: Path, tmp_path: Path) -> Script:
    """``script("train.py", *overrides)`` runs an entrypoint from another folder."""

    def entrypoint(name: str, *arguments: str, **extra: str) -> Done:
        return run(command_line(name, *arguments), cwd=tmp_path, env=environment(root, **extra))

    return entrypoint


@pytest.fixture
def refusal(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """``refusal(*overrides)`` runs train.py in this process, which must refuse these settings,
    and returns the error message."""
    monkeypatch.setenv("HYDRASWEEP_ROOT", str(root))
    monkeypatch.chdir(tmp_path)

    def message(*overrides: str) -> str:
        with pytest.raises(SystemExit) as end:
            run_here([str(REPOSITORY / "src" / "train.py"), *overrides])
        assert runs_of(client_of(root)) == []
        return str(end.value.code)

    return message
