"""Optuna's studies and MLflow's runs are put into one database.

They: gave Optuna the address of MLflow's database; both keep a schema's version in the table
``alembic_version``, and each takes the other's tables for an old version of its own.
Source: github.com/mlflow/mlflow/issues/3374, github.com/optuna/optuna/issues/2866
Right: refused in a sentence; the file is as it was.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import App

RELATIVE = ("sqlite:///mlflow.db", "sqlite:///./mlflow.db", "sqlite:///mlflow.db?timeout=60")


def refuse(task: App, url: str) -> None:
    done = task(f"hydra.sweeper.storage='{url}'")
    assert done.code == 1
    assert done.err.startswith("Error: hydra.sweeper.storage=")
    assert "is the database of MLflow" in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()
    assert not list(done.folder.glob("*.lock"))


@pytest.mark.parametrize("is_named", [True, False])
def test_mlflows_own_file_is_left_alone(
    app: Callable[..., App],
    tmp_path: Path,
    mlflow_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_named: bool,
) -> None:
    """Whether a variable names it, or MLflow takes the file in the working directory."""
    path = tmp_path / "mlflow.db"
    shutil.copy(mlflow_store, path)
    if is_named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    before = path.read_bytes()
    task = app("return cfg.x")
    for url in (*RELATIVE, f"sqlite:///{path}"):
        refuse(task, url)
    assert path.read_bytes() == before


def test_file_that_mlflow_would_make_is_not_made(app: Callable[..., App], tmp_path: Path) -> None:
    refuse(app("return cfg.x"), RELATIVE[0])
    assert not (tmp_path / "mlflow.db").exists()
