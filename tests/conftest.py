"""Settings that all tests share. Nothing here imports torch, MLflow or the application."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

# Set before MLflow is imported anywhere: tests send no telemetry and never use the caller's store.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT"):
    os.environ.pop(name, None)
# A shell lets background commands ignore Ctrl-C, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_connections: list[Any] = []
event.listen(Pool, "connect", lambda _, entry: _connections.append(entry))


@pytest.fixture(autouse=True)
def close_databases() -> Iterator[None]:
    """Close the connections that Optuna and MLflow keep open as long as the process lives."""
    yield
    while _connections:
        _connections.pop().close()


@pytest.fixture(autouse=True)
def restore_mlflow_environment() -> Iterator[None]:
    """Undo what a test changes in MLflow's environment variables."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects tests by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "field" in item.path.parts:
            item.add_marker("field")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[1]
