"""What the sweeper's tests share: a pytest plugin, which test modules name.

No conftest.py: of two modules with that name, the application's tests would import from this one.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apps
import pytest

from hydrasweep import __main__ as command
from hydrasweep.trial_runs import CONTEXT, NAME, URI

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Before mlflow is imported anywhere: no telemetry, no store of the caller's.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in (URI, NAME, CONTEXT):
    os.environ.pop(name, None)
# A suite started in the background ignores Ctrl-C, and so would every process it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., apps.App]:
    """``app(body)`` writes an app with that task function and gives the command that runs it."""
    return lambda *args, **kwargs: apps.write(tmp_path, *args, **kwargs)


@pytest.fixture
def verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """``verb("show", "s")`` does what ``python -m hydrasweep show s`` does where the app is; gives
    what that prints, and the error that it ends with or ""."""

    def run(*words: str, at: Path = tmp_path) -> tuple[str, str]:
        monkeypatch.chdir(at)
        monkeypatch.setattr(sys, "argv", ["hydrasweep", *words])
        capsys.readouterr()
        error = ""
        try:
            command.main()
        except SystemExit as end:
            error = str(end.code or "")
        return capsys.readouterr().out, error

    return run


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds no runs; made once, because that takes MLflow seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    assert MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(
    tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["MlflowClient"]:
    """A client of a store of the test's own, which the environment names."""
    import mlflow

    shutil.copy(mlflow_store, tmp_path)
    monkeypatch.setenv(URI, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(NAME, "tests")
    # Another spelling of it: MLflow keeps connections by the name, and forks share none.
    yield mlflow.MlflowClient(f"sqlite:///{tmp_path}/./mlflow.db")
    mlflow.set_tracking_uri(None)
