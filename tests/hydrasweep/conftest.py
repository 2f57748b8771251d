"""What the sweeper's tests share. Nothing of the application in this repository is needed here."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import apps
import pytest

# Before mlflow is imported anywhere: no telemetry, no store of the caller's.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT"):
    os.environ.pop(name, None)

# A suite started in the background ignores Ctrl-C, and so would every process it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., apps.App]:
    """``app(body)`` writes an app with that task function and gives the command that runs it."""
    return lambda *args, **kwargs: apps.write(tmp_path, *args, **kwargs)
