"""One run, recorded: in its output folder always, and in MLflow where that is asked for.

MLflow takes seconds to import, and its active run belongs to one thread: so a thread of its own
makes all calls of MLflow, in order, and training does not wait for them.
"""

import json
import logging
import os
import re
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hydrasweep import Outage, UserError
from mnist import store
from mnist.text import root_cause, without_password

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # after which a call of MLflow is tried a second time, and no more


@dataclass(frozen=True)
class Description:
    """What a run is: known before it starts."""

    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: tuple[str, str, str]  # name, digest, where it is read from


@dataclass(frozen=True)
class Recorder:
    """Records runs; with ``mlflow`` there too, in ``root`` where the environment says nothing."""

    root: str
    mlflow: bool

    @contextmanager
    def run(self, output_dir: Path, about: Description) -> Iterator["Run"]:
        """Open the run that ``output_dir`` belongs to, or a new one, and close it at its end.

        Raises:
            Outage: MLflow can't be used; or it went away, and results wait in ``output_dir``.
        """
        if not self.mlflow:
            yield Run(output_dir)
            return
        store.use(Path(self.root).resolve())
        with ThreadPoolExecutor(1) as thread:
            run = MLflowRun(output_dir, thread)
            try:
                run.open(about)
                yield run
                run.wait()
            except BaseException as error:
                run.close(error)
                raise
            run.close()


class Run:
    """A run that is recorded in its output folder."""

    links: Mapping[str, str] = {}  # to MLflow, for people

    def __init__(self, output_dir: Path) -> None:
        self.output_dir, self._file = output_dir, output_dir / "metrics.jsonl"
        self.history: dict[int, dict[str, float]] = {}  # the metrics of each epoch
        if not self._file.exists():
            return
        os.truncate(self._file, self._file.read_bytes().rfind(b"\n") + 1)  # a kill's half line
        try:
            for line in map(json.loads, self._file.read_text().splitlines()):
                step = int(line.pop("step"))
                self.history[step] = {name: float(value) for name, value in line.items()}
        except Exception as error:  # each kind of damage has its own
            why = root_cause(error)
            raise UserError(f"{self._file} is damaged ({why}): delete what follows it") from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch, once: a resumed run may come by it again."""
        if step not in self.history:
            self.history[step] = dict(metrics)
            with self._file.open("a") as file:
                file.write(json.dumps({"step": step, **metrics}) + "\n")
            self.log_once({**metrics, "epochs": step}, step)  # to sort the runs by

    def log_once(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values that the run has once, such as its test accuracy."""
        self.send(lambda mlflow: store.log_metrics(mlflow, metrics, step))

    def send(self, call: Callable[[Any], object]) -> None:
        """Have ``call(mlflow)`` done, where the run is recorded in MLflow."""


class MLflowRun(Run):
    """A run that is recorded in MLflow too.

    From the first failure of MLflow on it only writes to the folder, so that a store that goes
    away never ends a training.
    """

    _id = _lost = ""  # in MLflow; why that is left alone
    _deleted = ""  # its experiment, which the UI has deleted

    def __init__(self, output_dir: Path, thread: ThreadPoolExecutor) -> None:
        super().__init__(output_dir)
        self._thread, self._id_file = thread, output_dir / "mlflow_run_id"
        self._past = dict(self.history)
        uri = os.environ["MLFLOW_TRACKING_URI"]
        file = re.match(r"sqlite:///([^?]+)", uri)
        self._uri, self._database = without_password(uri), file and Path(file[1]).resolve()
        # One process makes the store where several come at once.
        self._lock: Any = FileLock(f"{self._database}.lock") if file else nullcontext()

    def open(self, about: Description) -> None:
        """Make the run in MLflow, or open it again where the output folder belongs to one.

        Raises:
            Outage: the store can't be used, as is known at once.
        """
        if self._database:  # MLflow itself would find out in minutes that it is locked
            try:
                with self._lock, closing(sqlite3.connect(self._database, timeout=20)) as opened:
                    # Readers and one writer side by side; the database remembers it.
                    opened.execute("PRAGMA journal_mode=WAL")
                    opened.execute("BEGIN IMMEDIATE")
                    self._deleted = self._lost = store.deleted_experiment(opened)
            except (sqlite3.Error, OSError) as error:
                self._lost = root_cause(error)
        self.send(lambda mlflow: self._start(mlflow, about))
        self.send(lambda mlflow: self._describe(mlflow, about))
        if not self._database:  # a server may not answer
            self.wait()
        if self._deleted:
            name = os.environ["MLFLOW_EXPERIMENT_NAME"]
            raise Outage(
                f"MLflow's experiment {name} was deleted: restore it by "
                f"MLFLOW_TRACKING_URI={self._uri} mlflow experiments restore --experiment-id "
                f"{self._deleted}, set MLFLOW_EXPERIMENT_NAME to another name, or train with "
                "tracking=none"
            )
        if self._lost:
            raise Outage(
                f"MLflow's store at {self._uri} can't be used: make it answer, point "
                f"MLFLOW_TRACKING_URI to another, or train with tracking=none ({self._lost})"
            )

    def send(self, call: Callable[[Any], object]) -> None:
        self._thread.submit(self._attempt, call)

    def wait(self) -> None:
        """Wait until MLflow has been told all so far."""
        self._thread.submit(str).result()

    def _attempt(self, call: Callable[[Any], object], is_retry: bool = False) -> None:
        if self._lost:
            return
        try:
            import mlflow

            call(mlflow)
        except Exception as error:
            if is_retry:  # whatever it is, training goes on
                self._lost = root_cause(error)
                log.warning("MLflow stopped answering (%s): keeping results locally", self._lost)
            else:  # a lock, or a server that is just started again
                time.sleep(RETRY_SECONDS)
                self._attempt(call, is_retry=True)

    def _start(self, mlflow: Any, about: Description) -> None:
        for library in ("urllib3", "alembic", "mlflow.store.db.utils", "mlflow.utils.git_utils"):
            logging.getLogger(library).setLevel(logging.CRITICAL)  # we tell what fails
        experiment = os.environ["MLFLOW_EXPERIMENT_NAME"]
        with self._lock:
            found = mlflow.get_experiment_by_name(experiment)
            if found and found.lifecycle_stage == "deleted":
                self._deleted = self._lost = found.experiment_id
                return
            if not found:
                place = self._database and self._database.parent / "mlruns" / experiment
                mlflow.create_experiment(experiment, place and place.as_uri())
        known = self._id_file.read_text() if self._id_file.exists() else None
        if known and store.is_deleted(mlflow, known):
            log.warning("The run %s was deleted in MLflow: recording a new one", known)
            known = None
        # A sweep has a name for the run.
        name = None if known or "MLFLOW_RUN_CONTEXT" in os.environ else about.name
        run = mlflow.start_run(known, run_name=name, tags={**store.identity(), **about.tags})
        self._id, is_server = run.info.run_id, self._uri.startswith("http")
        base = self._uri.rstrip("/") if is_server else "http://127.0.0.1:5000"
        page = f"#/experiments/{run.info.experiment_id}/runs/{self._id}"
        command = {} if is_server else {"Compare": f"mlflow ui --backend-store-uri {self._uri}"}
        self.links = {**command, "Open": f"{base}/{page}"}

    def _describe(self, mlflow: Any, about: Description) -> None:
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        if self._past or self._id_file.exists():
            self._catch_up(mlflow)
        self._id_file.write_text(self._id)
        name, digest, path = about.dataset
        dataset = MetaDataset(CodeDatasetSource({"path": path}), name, digest[:8])
        mlflow.log_input(dataset, context="training")
        mlflow.log_params({store.clean(name): value for name, value in about.params.items()})
        mlflow.log_artifact(str(self.output_dir / "config.yaml"))
        if "MLFLOW_RUN_CONTEXT" not in os.environ:  # a sweep looks after its own
            store.fail_dead(mlflow)

    def _catch_up(self, mlflow: Any) -> None:
        """Send a resumed run the epochs that it lacks, and take back how it failed."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(mlflow.get_artifact_uri()).delete_artifacts("traceback.txt")
        points = mlflow.MlflowClient().get_metric_history(self._id, "train/loss")
        for step in self._past.keys() - {point.step for point in points}:
            store.log_metrics(mlflow, {**self._past[step], "epochs": step}, step)

    def close(self, error: BaseException | None = None) -> None:
        """End the run with the status that tells what happened.

        Raises:
            Outage: MLflow went away from a run that is otherwise fine.
        """
        status = "FINISHED" if error is None else "KILLED"  # by Ctrl-C or a signal
        if isinstance(error, Exception):
            status, path = "FAILED", self.output_dir / "traceback.txt"
            with suppress(OSError):  # a full disk may be the error
                path.write_text(without_password("".join(traceback.format_exception(error))))
                self.send(lambda mlflow: mlflow.log_artifact(str(path)))
        self.wait()
        lost, self._lost = self._lost, ""  # MLflow may be back
        if self._id:
            # mlflow.end_run forgets the run first, and could not be tried again.
            end = "FAILED" if lost else status
            self.send(lambda mlflow: mlflow.MlflowClient().set_terminated(self._id, end))
            self.wait()
        if (lost := lost or self._lost) and error is None:
            raise Outage(
                f"MLflow at {self._uri} stopped answering ({lost}). Nothing is lost: metrics, "
                f"pictures and weights are in {self.output_dir}"
            )
