"""Fixtures of the examples' tests."""

from contextlib import chdir
from pathlib import Path

import pytest
import shared


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store. Creating one takes MLflow seconds, so apps get a copy of this one, which the
    sweeper's tests with MLflow use as well."""

    def create(folder: Path) -> None:
        from mlflow import MlflowClient  # takes seconds, and may not be installed

        with chdir(folder):
            assert MlflowClient("sqlite:///mlflow.db").search_experiments()

    return shared.folder(tmp_path_factory, "store", create) / "mlflow.db"
