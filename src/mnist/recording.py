"""One run, recorded: in its output folder always, and in MLflow where that is asked for.

MLflow takes seconds to import, and its active run belongs to one thread: so a thread of its own
makes all calls of MLflow, in order, and training does not wait for them.
"""

import json
import logging
import os
import re
import socket
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from hydrasweep import Outage, UserError
from mnist import files
from mnist.text import root_cause, without_password

log = logging.getLogger(__name__)

LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves
TRACEBACK = "traceback.txt"
RETRY_SECONDS = 1.0  # after which a call of MLflow is tried a second time, and no more
SETTINGS = {
    "MLFLOW_EXPERIMENT_NAME": "hydrasweep",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It would print addresses with the password that may be in them.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own seven tries of two minutes would hold a training up for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # MLflow resets its logger's level
}


def use_store(root: Path) -> None:
    """Let MLflow keep runs in ``root``, where the environment names no other place."""
    for name, value in {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", **SETTINGS}.items():
        os.environ[name] = os.environ.get(name) or value


@dataclass(frozen=True)
class Description:
    """What a run is: known before it starts."""

    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: tuple[str, str, str]  # name, digest, where it is read from


class Run:
    """A run that is recorded in its output folder."""

    link: str | None = None  # to the table of runs in MLflow

    def __init__(self, output_dir: Path) -> None:
        self.output_dir, self._file = output_dir, output_dir / "metrics.jsonl"
        self.history: list[dict[str, float]] = []  # metrics of each epoch, and its "step"
        if not self._file.exists():
            return
        os.truncate(self._file, self._file.read_bytes().rfind(b"\n") + 1)  # a kill's half line
        try:
            for line in map(json.loads, self._file.read_text().splitlines()):
                self.history.append({key: float(line[key]) for key in ("step", *line)})
        except Exception as error:  # each kind of damage has its own
            why = root_cause(error)
            raise UserError(f"{self._file} is damaged ({why}): delete what follows it") from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch, once: a resumed run may come by it again."""
        if step not in {line["step"] for line in self.history}:
            self.history.append({"step": step, **metrics})
            with self._file.open("a") as file:
                file.write(json.dumps(self.history[-1]) + "\n")
            self.log_once(metrics, step)

    def log_once(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values that the run has once, such as its test accuracy."""
        self.send(lambda mlflow: mlflow.log_metrics(dict(metrics), step))

    def send(self, call: Callable[[Any], object]) -> None:
        """Have ``call(mlflow)`` done in MLflow, where the run is recorded there."""


class MLflowRun(Run):
    """A run that is recorded in MLflow too.

    From the first failure of MLflow on it only writes to the folder, so that a store that goes
    away never ends a training.

    Raises:
        Outage: the store can't be used.
    """

    def __init__(self, output_dir: Path, about: Description, thread: ThreadPoolExecutor) -> None:
        super().__init__(output_dir)
        uri = os.environ["MLFLOW_TRACKING_URI"]
        file = re.match(r"sqlite:///([^?]+)", uri)
        self.uri, self.database = without_password(uri), file and Path(file[1]).resolve()
        self._thread, self._id, self._id_file = thread, "", output_dir / "mlflow_run_id"
        self._lost = ""  # why MLflow is left alone
        if self.database:
            self._try_database(self.database)
        self.send(lambda mlflow: self._open(mlflow, about))
        self.send(lambda mlflow: self._describe(mlflow, about))
        if not self.database:  # a server may not answer
            self._wait()
            if self._lost:
                raise Outage(self._unusable(self._lost))

    def send(self, call: Callable[[Any], object]) -> None:
        self._thread.submit(self._attempt, call)

    def _wait(self) -> None:
        self._thread.submit(str).result()

    def _attempt(self, call: Callable[[Any], object]) -> None:
        if self._lost:
            return
        try:
            import mlflow

            try:
                call(mlflow)
            except Exception:  # a lock, or a server that is just started again
                time.sleep(RETRY_SECONDS)
                call(mlflow)
        except Exception as error:  # whatever the store's failure is, training goes on
            self._lost = root_cause(error)
            log.warning("MLflow stopped answering (%s): keeping results locally", self._lost)

    def _unusable(self, why: str) -> str:
        return (
            f"MLflow's store at {self.uri} can't be used: make it answer, point "
            f"MLFLOW_TRACKING_URI to another, or train with tracking=none ({why})"
        )

    def _lock(self) -> AbstractContextManager[Any]:
        """One process makes the store where several come at once."""
        return FileLock(f"{self.database}.lock") if self.database else nullcontext()

    def _try_database(self, path: Path) -> None:
        """Find out at once that it is locked, which MLflow would try for minutes."""
        try:
            with self._lock(), closing(sqlite3.connect(path, timeout=20)) as opened:
                # Readers and one writer side by side; the database remembers it.
                opened.execute("PRAGMA journal_mode=WAL")
                opened.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, OSError) as error:
            raise Outage(self._unusable(root_cause(error))) from error

    def _open(self, mlflow: Any, about: Description) -> None:
        """Make the run in MLflow, or open it again where the output folder belongs to one."""
        for library in ("urllib3", "alembic", "mlflow.store.db.utils", "mlflow.utils.git_utils"):
            logging.getLogger(library).setLevel(logging.CRITICAL)  # we tell what fails
        experiment = os.environ["MLFLOW_EXPERIMENT_NAME"]
        with self._lock():
            if not mlflow.get_experiment_by_name(experiment):
                root = self.database and (self.database.parent / "mlruns").as_uri()
                mlflow.create_experiment(experiment, root)
        known = self._id_file.read_text() if self._id_file.exists() else None
        # A sweep has a name for each run.
        name = None if known or "MLFLOW_RUN_CONTEXT" in os.environ else about.name
        run = mlflow.start_run(known, run_name=name, tags={**_identity(), **about.tags})
        self._id = run.info.run_id
        base = self.uri.rstrip("/") if self.uri.startswith("http") else LOCAL_UI
        self.link = f"{base}/#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning"

    def _describe(self, mlflow: Any, about: Description) -> None:
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        if self._id_file.exists():
            self._catch_up(mlflow)
        files.write(self._id_file, self._id)
        name, digest, place = about.dataset
        dataset = MetaDataset(resolve_dataset_source(place), name, digest[:8])
        mlflow.log_input(dataset, context="training")
        mlflow.log_params(dict(about.params))
        mlflow.log_artifact(str(self.output_dir / "config.yaml"))
        if "MLFLOW_RUN_CONTEXT" not in os.environ:  # a sweep looks after its own
            _fail_dead(mlflow)

    def _catch_up(self, mlflow: Any) -> None:
        """Send a resumed run the epochs that it lacks, and take back how it failed."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        kept = get_artifact_repository(mlflow.get_artifact_uri())
        if any(file.path == TRACEBACK for file in kept.list_artifacts()):
            kept.delete_artifacts(TRACEBACK)
        history = mlflow.MlflowClient().get_metric_history(self._id, "train/loss")
        sent = {point.step for point in history}
        for line in self.history:
            if line["step"] not in sent:
                metrics = {key: value for key, value in line.items() if key != "step"}
                mlflow.log_metrics(metrics, int(line["step"]))

    def close(self, error: BaseException | None = None) -> None:
        """End the run with the status that tells what happened.

        Raises:
            Outage: MLflow went away from a run that is otherwise fine.
        """
        status = "FINISHED" if error is None else "KILLED"  # by Ctrl-C or a signal
        if isinstance(error, Exception):
            status, path = "FAILED", self.output_dir / TRACEBACK
            with suppress(OSError):  # a full disk may be the error
                path.write_text(without_password("".join(traceback.format_exception(error))))
                self.send(lambda mlflow: mlflow.log_artifact(str(path)))
        self._wait()

        def end(mlflow: Any) -> None:
            # Not mlflow.end_run, which forgets the run first and could not be tried again.
            mlflow.MlflowClient().set_terminated(self._id, "FAILED" if self._lost else status)

        if self._lost and self._id:  # MLflow may be back
            ...
        self.send(end)
        self._wait()
        if self._lost and error is None:
            raise Outage(
                f"MLflow at {self.uri} stopped answering ({self._lost}). Nothing is lost: metrics, "
                f"pictures and weights are in {self.output_dir}"
            )


@dataclass(frozen=True)
class Recorder:
    """Records runs; with ``mlflow`` there too, in ``root`` where the environment says nothing."""

    root: str
    mlflow: bool

    @contextmanager
    def run(self, output_dir: Path, about: Description) -> Iterator[Run]:
        """Open the run that ``output_dir`` belongs to, or a new one, and close it at the end.

        Raises:
            Outage: MLflow can't be used; or it went away, and results wait in ``output_dir``.
        """
        if not self.mlflow:
            yield Run(output_dir)
            return
        use_store(Path(self.root).resolve())
        with ThreadPoolExecutor(1) as thread:
            run = MLflowRun(output_dir, about, thread)
            try:
                yield run
                run.wait()
            except BaseException as error:
                run.close(error)
                raise
            run.close()
