"""MLflow's store: where it is, and what is asked of it that MLflow has no word for."""

import getpass
import os
import re
import socket
import sqlite3
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

SETTINGS = {
    "MLFLOW_EXPERIMENT_NAME": "hydrasweep",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own seven tries of two minutes would hold a training up for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # MLflow resets its logger's level
    # It would print addresses with the password that may be in them.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def use(root: Path) -> None:
    """Let MLflow keep runs in ``root``, where the environment names no other place."""
    for name, value in {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", **SETTINGS}.items():
        os.environ[name] = os.environ.get(name) or value
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name, which MLflow asks for
        os.environ["LOGNAME"] = str(os.getuid())


def log_metrics(mlflow: Any, metrics: Mapping[str, float], step: int) -> None:
    """``mlflow.log_metrics`` without its reading the run for each of them."""
    now, run = int(1000 * time.time()), mlflow.active_run()
    points = [mlflow.entities.Metric(clean(n), v, now, step) for n, v in metrics.items()]
    mlflow.MlflowClient().log_batch(run.info.run_id, points)


def log_model(mlflow: Any, model: Any, example: Any, register_as: str | None = None) -> Any:
    """``mlflow.pytorch.log_model`` from raw inputs, of which ``example`` are some, to outputs."""
    with warnings.catch_warnings():
        # Weights with their channels last are kept as they should be; torch warns all the same.
        warnings.filterwarnings("ignore", "No complete tensor found")
        return mlflow.pytorch.log_model(
            model,
            name="model",
            input_example=example,
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch")],
            # A graph, not a pickle: loading it runs no code and needs none of ours.
            serialization_format="pt2",
            registered_model_name=register_as,
        )


def is_deleted(mlflow: Any, run_id: str) -> bool:
    """Whether a run is in MLflow's bin, or in MLflow no more."""
    try:
        return bool(mlflow.get_run(run_id).info.lifecycle_stage == "deleted")
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return True


def deleted_experiment(database: sqlite3.Connection) -> str:
    """The id of the experiment where it is in the bin of MLflow's database, else "". To ask MLflow
    would take the seconds of its import."""
    try:
        found = database.execute(
            "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'",
            (os.environ["MLFLOW_EXPERIMENT_NAME"],),
        ).fetchone()
    except sqlite3.OperationalError:  # a database without tables as yet
        return ""
    return str(found[0]) if found else ""


def clean(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ :-]", "_", name)


def identity() -> dict[str, str]:
    """Host, pid and start time of this process; the time tells a reused pid from its owner."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": str(pid), "process_started": f"{_started(pid)}"}


def _started(pid: int) -> float:
    """In seconds since the machine began; -1 where there is no such process."""
    try:
        return psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return -1.0


def fail_dead(mlflow: Any) -> None:
    """Mark the runs FAILED whose process on this machine has died without a word."""
    words = f"attributes.status = 'RUNNING' AND tags.host = '{socket.gethostname()}'"
    for run in mlflow.search_runs(filter_string=words, output_format="list"):
        pid, began = run.data.tags.get("pid"), run.data.tags.get("process_started")
        if pid and began and abs(_started(int(pid)) - float(began)) > 1.5:
            mlflow.MlflowClient().set_terminated(run.info.run_id, "FAILED")
