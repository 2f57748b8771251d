"""Fixtures of the sweeper's tests that need MLflow."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from hydrasweep.trial_runs import NAME, URI


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store. Creating one takes MLflow seconds, so tests copy this one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(
    tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    """A client of a new store, which the environment names."""
    shutil.copy(mlflow_store, tmp_path)
    monkeypatch.setenv(URI, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(NAME, "tests")
    # MLflow caches connections by URI. Another spelling keeps forked apps from sharing this one.
    yield MlflowClient(f"sqlite:///{tmp_path}/./mlflow.db")
    mlflow.set_tracking_uri(None)
