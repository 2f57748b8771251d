"""One run, recorded: in the output folder always, in MLflow when that is asked for."""

import functools
import getpass
import json
import logging
import os
import platform
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hydrasweep import files
from hydrasweep.errors import Outage, UserError, root_cause
from hydrasweep.processes import identity, is_dead

log = logging.getLogger(__name__)

STEP_METRICS_FILE = "metrics.jsonl"
SCORE, BEST_SCORE = "val/accuracy", "best/val_accuracy"
RUN_ID_FILE = "mlflow_run_id"
TRACEBACK_FILE = "traceback.txt"
RETRY_SECONDS = 1.0  # after which a call to MLflow is tried a second time, and no more
LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves
REPORTED_PACKAGES = ("torch", "torchvision", "hydra-core", "optuna", "mlflow")


@dataclass(frozen=True)
class Description:
    """What a run is: known before it starts."""

    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: tuple[str, str, str] | None  # name, digest, where it is read from
    files: Sequence[Path]
    unique: str | None = None  # a tag: a run that has the same value is gone on with


class StoppedEarly(Exception):
    """Ends a run before its last epoch, on purpose; the message says why."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class Run:
    """A run that is recorded in its output folder alone."""

    id: str | None = None
    link: str | None = None
    store: "Store | None" = None

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._file = output_dir / STEP_METRICS_FILE
        if self._file.exists():  # a kill may have cut the last line short
            os.truncate(self._file, self._file.read_bytes().rfind(b"\n") + 1)
        past = self.history()
        self._steps = {line["step"] for line in past}
        self._best = max((line[SCORE] for line in past if SCORE in line), default=0.0)

    def history(self) -> list[dict[str, float]]:
        """The metrics of each epoch recorded so far, under their names and ``step``."""
        if not self._file.exists():
            return []
        try:
            lines = map(json.loads, self._file.read_text().splitlines())
            return [{key: float(line[key]) for key in ("step", *line)} for line in lines]
        except Exception as error:  # each kind of damage has its own
            why = root_cause(error)
            raise UserError(f"{self._file} is damaged ({why}): delete what follows it") from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of an epoch, once: a resumed run may come by it again."""
        if step in self._steps:
            return
        if SCORE in metrics:
            self._best = max(self._best, metrics[SCORE])
            metrics = {**metrics, BEST_SCORE: self._best}
        self._steps.add(step)
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.log_once(metrics, step)

    def log_once(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values that the run has once, such as its test accuracy."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Mark the run."""

    def save_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file of the output folder with the run."""

    def save_model(self, model: Any, example: Any) -> None:
        """Keep the model: a torch module from ``example``'s kind of array to logits."""

    def settle(self, lost: Collection[str]) -> None:
        """Set right the runs whose process has died, and the child runs whose folders are
        called as in ``lost``."""

    def sweep_link(self, study: str) -> str | None:
        """Where the runs of a sweep are compared."""
        del study
        return None


class NullTracker:
    """Keeps a run in its output folder and nowhere else."""

    @contextmanager
    def run(self, output_dir: Path, description: Description) -> Iterator[Run]:
        del description
        yield Run(output_dir)


class MLflowTracker:
    """Records runs in one experiment of an MLflow store.

    The store is the one that MLFLOW_TRACKING_URI names, and else ``root``'s ``mlflow.db``
    and ``mlruns/``, which a plain ``mlflow ui`` in that folder opens.
    """

    def __init__(
        self, root: str, experiment: str, run_name: str | None, parent_run_id: str | None
    ) -> None:
        self.root = Path(root).resolve()
        self.experiment = str(experiment)
        self.run_name = run_name and str(run_name)
        self.parent_run_id = parent_run_id

    @contextmanager
    def run(self, output_dir: Path, description: Description) -> Iterator[Run]:
        """Open the run that ``output_dir`` belongs to, or a new one, and close it with the
        status that tells what happened.

        Raises:
            UserError: the store can't be used; or it went away and results wait in
                ``output_dir``.
        """
        store = open_store(self.root)
        with _in_words(store.shown_uri):
            experiment_id = store.experiment(self.experiment)
            if self.parent_run_id is None:
                store.bury_orphans(experiment_id)
        run = MLflowRun(store, experiment_id, output_dir)
        try:
            run.open(description, self)
            yield run
        except StoppedEarly as stop:
            run.tag({"pruned": "true", "pruned.epoch": str(stop.epoch), "pruned.why": str(stop)})
            run.end("KILLED")
            run.refuse_loss()
            raise
        except Exception as error:
            run.end("FAILED", error)
            raise
        except BaseException:  # Ctrl-C, SIGTERM
            run.end("KILLED")
            raise
        run.end("FINISHED")
        run.refuse_loss()


class Store:
    """An MLflow store, opened and known to answer."""

    def __init__(self, uri: str, artifact_root: Path | None, shown_uri: str) -> None:
        from mlflow import MlflowClient

        self.uri = uri
        self.shown_uri = shown_uri
        self.artifact_root = artifact_root
        self.client = MlflowClient(uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment, which is made where there is none."""
        from mlflow.exceptions import MlflowException

        folder = self.artifact_root / name if self.artifact_root else None
        if folder and Path(os.path.normpath(folder)).parent != self.artifact_root:
            raise UserError(f"tracking.experiment={name}: it names a folder, so no slash, no '..'")
        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = folder.as_uri() if folder else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another process was faster
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"tracking.experiment={name}: this experiment was deleted in MLflow; "
                "restore it there or take another name"
            )
        return str(found.experiment_id)

    def bury_orphans(self, experiment_id: str) -> None:
        """Mark runs of this machine FAILED whose process has died without a word."""
        where = f"tags.host = '{socket.gethostname()}'"
        self._bury(experiment_id, where, lambda run: is_dead(run.data.tags))

    def bury_lost(self, experiment_id: str, parent_id: str, lost: Collection[str]) -> None:
        """Mark child runs FAILED whose folder is called so, for their machine is silent."""
        where = f"tags.`mlflow.parentRunId` = '{parent_id}'"
        self._bury(experiment_id, where, lambda run: Path(run.data.tags["output_dir"]).name in lost)

    def _bury(self, experiment_id: str, where: str, has_died: Callable[[Any], bool]) -> None:
        found = self.client.search_runs(
            [experiment_id], f"attributes.status = 'RUNNING' and {where}"
        )
        for run in filter(has_died, found):
            pid = run.data.tags["pid"]
            self.client.set_tag(run.info.run_id, "ended", f"process {pid} died")
            self.client.set_terminated(run.info.run_id, "FAILED")

    def run_like(self, experiment_id: str, tag: str, value: str) -> str | None:
        """The id of the run that has this tag, if there is one."""
        found = self.client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'")
        return found[0].info.run_id if found else None

    def runs_link(self, experiment_id: str) -> str:
        """Where the UI shows the experiment's runs as a table."""
        base = self.shown_uri if self.uri.startswith("http") else LOCAL_UI
        page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        return base.rstrip("/") + page

    def sweep_link(self, experiment_id: str, study: str) -> str:
        """Where the UI charts the search of one sweep, side by side and without their parent.

        The UI applies a filter only beside all the other parts of its address.
        """
        words = {
            "compareRunsMode": "CHART",
            "searchFilter": f"tags.study = '{study}' AND tags.phase = 'search'",
            "orderByKey": f"metrics.`{BEST_SCORE}`",
            "orderByAsc": "false",
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": "W10=",  # none, as the UI writes it
        }
        return f"{self.runs_link(experiment_id)}&{urlencode(words, quote_via=quote)}"


class MLflowRun(Run):
    """A run in MLflow. From the first failed call on it only writes to the output folder,
    so that a store that goes away never ends a training."""

    def __init__(self, store: Store, experiment_id: str, output_dir: Path) -> None:
        super().__init__(output_dir)
        self.store: Store = store
        self.experiment_id = experiment_id
        self.client = store.client
        self.link = store.runs_link(experiment_id)
        self.lost: str | None = None
        self.in_sweep = False

    def open(self, description: Description, tracker: MLflowTracker) -> None:
        """Make the run, or open it again where the output folder belongs to one."""
        self.in_sweep = tracker.parent_run_id is not None
        id_file = self.output_dir / RUN_ID_FILE
        if description.unique and not id_file.exists():
            unique = description.unique, description.tags[description.unique]
            if known := self.store.run_like(self.experiment_id, *unique):
                id_file.write_text(known)
        if id_file.exists():
            self.id = id_file.read_text()
            self._send(self._reopen, description)
        else:
            tags = {
                **environment_tags(),
                **identity(),
                **description.tags,
                "mlflow.user": getpass.getuser(),
                "mlflow.source.name": sys.argv[0],
                "mlflow.source.type": "LOCAL",
                "output_dir": str(self.output_dir),
            }
            if tracker.parent_run_id:
                tags["mlflow.parentRunId"] = tracker.parent_run_id
            name = tracker.run_name or description.name
            with _in_words(self.store.shown_uri):
                run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
            self.id = str(run.info.run_id)
            files.write(id_file, self.id)
            self._send(self._describe, description)

    def _describe(self, description: Description) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        for path in description.files:
            self.client.log_artifact(self.id, str(path))
        if description.dataset is not None:
            name, digest, source = description.dataset
            dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
            self.client.log_inputs(
                self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
            )
        # Last, so that their presence says that all is told.
        params = [Param(key, str(value)) for key, value in description.params.items()]
        for start in range(0, len(params), 100):  # as many as MLflow takes at once
            self.client.log_batch(self.id, params=params[start : start + 100])

    def _reopen(self, description: Description) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.client.update_run(self.id, status="RUNNING")
        run = self.client.get_run(self.id)
        if len(run.data.params) < len(description.params):
            self._describe(description)
        if any(file.path == TRACEBACK_FILE for file in self.client.list_artifacts(self.id)):
            kept = get_artifact_repository(run.info.artifact_uri, self.store.uri)
            kept.delete_artifacts(TRACEBACK_FILE)
        for key, value in identity().items():
            self.client.set_tag(self.id, key, value)
        sent = {m.step for m in self.client.get_metric_history(self.id, "train/loss")}
        for line in self.history():
            step = int(line.pop("step"))
            if step not in sent:
                self._log_metrics(line, step)

    def log_once(self, metrics: Mapping[str, float], step: int) -> None:
        self._send(self._log_metrics, metrics, step)
        if self.in_sweep:  # it can be tried again; a single training goes on without MLflow
            self.refuse_loss()

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(
            self.id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
        )

    def tag(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._send(self.client.set_tag, self.id, key, value)

    def save_artifact(self, path: Path, folder: str | None = None) -> None:
        self._send(self.client.log_artifact, self.id, str(path), folder)

    def save_model(self, model: Any, example: Any) -> None:
        self._send(self._log_model, model, example)

    def _log_model(self, model: Any, example: Any) -> None:
        """By the client: ``mlflow.pytorch.log_model`` writes to the experiment and the store
        that are current in this process, which are not always this run's."""
        import mlflow
        import numpy as np
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        outputs = self.client.get_run(self.id).outputs
        if outputs and outputs.model_outputs:  # of a finished run that was resumed
            return
        inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
        outputs = TensorSpec(np.dtype(np.float32), (-1, model(_as_tensor(example)).shape[1]))
        logged = self.client.create_logged_model(self.experiment_id, "model", self.id)
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pytorch.save_model(
                model,
                f"{folder}/model",
                mlflow_model=Model(run_id=self.id, model_id=logged.model_id),
                signature=ModelSignature(Schema([inputs]), Schema([outputs])),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch")],
                # A graph, not a pickle: loading it runs no code and needs none of ours.
                serialization_format="pt2",
            )
            self.client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(self.id, [LoggedModelOutput(logged.model_id, step=0)])

    def settle(self, lost: Collection[str]) -> None:
        self._send(self.store.bury_orphans, self.experiment_id)
        self._send(self.store.bury_lost, self.experiment_id, self.id, lost)

    def sweep_link(self, study: str) -> str:
        return self.store.sweep_link(self.experiment_id, study)

    def end(self, status: str, error: Exception | None = None) -> None:
        """Close the run, in MLflow too if it can be."""
        if self.id is None:
            return
        if error is not None:
            path = self.output_dir / TRACEBACK_FILE
            with suppress(OSError):  # a full disk may be the error
                path.write_text("".join(traceback.format_exception(error)))
                self.save_artifact(path)
        if not self.lost:
            self._send(self.client.set_terminated, self.id, status)
        else:  # it may be back, and the run is no longer RUNNING
            with suppress(Exception):
                self.client.set_terminated(self.id, "FAILED")

    def refuse_loss(self) -> None:
        """Tell that the store went away.

        Raises:
            Outage: it did.
        """
        if self.lost:
            where = (
                ""
                if self.in_sweep
                else (f". Nothing is lost: metrics, pictures and weights are in {self.output_dir}")
            )
            raise Outage(f"MLflow at {self.store.shown_uri} stopped answering ({self.lost}){where}")

    def _send(self, call: Callable[..., Any], *args: Any) -> None:
        if self.lost:
            return
        try:
            try:
                call(*args)
            except Exception:  # a lock, or a server that is just started again
                time.sleep(RETRY_SECONDS)
                call(*args)
        except Exception as error:  # whatever the store's failure is, training goes on
            self.lost = _reason(error)
            log.warning("MLflow stopped answering (%s): keeping results locally", self.lost)


@functools.lru_cache(maxsize=1)
def open_store(root: Path) -> Store:
    """Open the MLflow store, made ready by one process where several come at once.

    Raises:
        UserError: it can't be reached or is locked.
    """
    from filelock import FileLock
    from sqlalchemy.engine import make_url

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # It would print addresses with the password that may be in them.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own seven tries of two minutes would hold a training up for a quarter of an hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # MLflow resets its logger's level
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for name in ("urllib3", "mlflow.store.db.utils"):  # what fails is told in our words
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    shown = without_password(uri)
    with _in_words(shown):
        if not (uri.startswith("sqlite:") and (file := make_url(uri).database)):
            store = Store(uri, None, shown)
            store.client.search_experiments(max_results=1)
            return store
        database = Path(file).resolve()
        with FileLock(f"{database}.lock"):
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                # Readers and one writer side by side; the database remembers it.
                connection.execute("PRAGMA journal_mode=WAL")
                # One that is locked or read-only shows it here; MLflow would try for minutes.
                connection.execute("BEGIN IMMEDIATE")
            return Store(uri, database.parent / "mlruns", shown)


@contextmanager
def _in_words(shown_uri: str) -> Iterator[None]:
    """Turn whatever fails in MLflow into a sentence.

    Raises:
        Outage: in place of any error but a user's.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise Outage(
            f"MLflow's store at {shown_uri} can't be used ({_reason(error)}): make it answer, "
            "point MLFLOW_TRACKING_URI to another, or train with tracking=none"
        ) from error


def _reason(error: Exception) -> str:
    return without_password(root_cause(error))[:300]


@functools.cache
def environment_tags() -> dict[str, str]:
    """Versions, and the commit of the code where it stands in a git checkout."""
    tags = {f"version.{name}": version(name) for name in REPORTED_PACKAGES}
    tags["version.python"] = platform.python_version()
    here = Path(__file__).parent
    try:
        git = functools.partial(subprocess.check_output, cwd=here, text=True, stderr=-3)
        tags["mlflow.source.git.commit"] = git(["git", "rev-parse", "HEAD"]).strip()
        tags["git_dirty"] = str(bool(git(["git", "status", "--porcelain"]).strip())).lower()
    except (OSError, subprocess.CalledProcessError):
        pass  # not a checkout, or no git
    return tags


def without_password(text: str) -> str:
    return re.sub(r"(?<=\w:)//[^/\s]*@", "//", text)


def _as_tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)
