"""One run, recorded: in the output folder always, in MLflow when that is asked for."""

import functools
import getpass
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mnist import files
from mnist.errors import Outage, UserError, root_cause
from hydrasweep.processes import identity, is_dead
from mnist.store import Store, experiment_id, open_store

log = logging.getLogger(__name__)

STEP_METRICS_FILE = "metrics.jsonl"
SCORE, BEST_SCORE = "val/accuracy", "best/val_accuracy"
RUN_ID_FILE = "mlflow_run_id"
TRACEBACK_FILE = "traceback.txt"
PARENT = "mlflow.parentRunId"  # a tag
RETRY_SECONDS = 1.0  # after which a call to MLflow is tried a second time, and no more
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


class NullTracker:
    """Keeps a run in its output folder and nowhere else."""

    @contextmanager
    def run(self, output_dir: Path, description: Description) -> Iterator["Run"]:
        del description
        yield Run(output_dir)


@dataclass(frozen=True)
class MLflowTracker:
    """Records runs in one experiment of the MLflow store for ``root``."""

    root: str
    experiment: str
    run_name: str | None
    parent_run_id: str | None

    def store(self) -> Store:
        """The MLflow store; its ``client`` takes seconds to import."""
        return open_store(Path(self.root).resolve())

    @contextmanager
    def run(self, output_dir: Path, description: Description) -> Iterator["Run"]:
        """Open the run that ``output_dir`` belongs to, or a new one, and close it with the
        status that tells what happened.

        A thread opens it, because MLflow takes seconds to import; what needs it waits.

        Raises:
            UserError: the store can't be used; or it went away and results wait in
                ``output_dir``.
        """
        store, experiment = self.store(), str(self.experiment)
        store.location(experiment)  # which may refuse it
        name = str(self.run_name or description.name)
        tags = {**environment_tags(), **identity(), "output_dir": str(output_dir)}
        if self.parent_run_id:
            tags[PARENT] = self.parent_run_id
        about = replace(description, name=name, tags={**tags, **description.tags})
        run = Run(output_dir, store)
        with ThreadPoolExecutor(1) as thread:
            run.opening = thread.submit(run.open, experiment, about, int(time.time() * 1000))
            if not self.parent_run_id:  # once for a sweep
                thread.submit(run.settle)
            try:
                # A run of its own, where the store is known to answer, begins meanwhile.
                if self.parent_run_id or about.unique or not store.database:
                    run.opening.result()
                yield run
                run.opening.result()
            except BaseException as error:
                run.end(error)
                raise
            run.end()


def sent(method: Callable[..., None]) -> Callable[..., None]:
    """What a run does in MLflow, where it is recorded there."""

    @functools.wraps(method)
    def send(run: "Run", *args: Any, **kwargs: Any) -> None:
        if not run.lost and run.id:
            run.attempt(functools.partial(method, run, *args, **kwargs))

    return send


class Run:
    """A run that is recorded in its output folder, and in MLflow once it is opened there.

    From the first failure of MLflow on it only writes to the folder, so that a store that goes
    away never ends a training.
    """

    opening: Any = None  # a future
    link: str | None = None  # to the table of runs in MLflow
    lost: str | None = None  # why MLflow is left alone
    _id: str | None = None

    def __init__(self, output_dir: Path, store: Store | None = None) -> None:
        self.output_dir = output_dir
        self.store: Any = store
        self._file = output_dir / STEP_METRICS_FILE
        if self._file.exists():  # a kill may have cut the last line short
            os.truncate(self._file, self._file.read_bytes().rfind(b"\n") + 1)
        self._past = self.history()
        self._steps = {line["step"] for line in self._past}
        self._best = max((line[SCORE] for line in self._past if SCORE in line), default=0.0)

    @property
    def id(self) -> str | None:
        """In MLflow, when the run is open there.

        Raises:
            UserError: it can't be opened.
        """
        if self.opening:
            self.opening.result()
        return self._id

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

    @sent
    def log_once(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values that the run has once, such as its test accuracy."""
        self._client.log_batch(self._id, metrics=as_metrics(metrics, step))

    @sent
    def tag(self, tags: Mapping[str, str]) -> None:
        """Mark the run."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(*tag) for tag in tags.items()])

    @sent
    def save_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file of the output folder with the run."""
        self._artifacts.log_artifact(str(path), folder)

    @sent
    def save_model(self, model: Any, example: Any) -> None:
        """Keep the model: a torch module from ``example``'s kind of array to logits.

        By the client: ``mlflow.pytorch.log_model`` writes to the experiment and the store that
        are current in this process, which are not always this run's.
        """
        import mlflow
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        outputs = self._client.get_run(self._id).outputs
        if outputs and outputs.model_outputs:  # of a finished run that was resumed
            return
        logged = self._client.create_logged_model(self._experiment, "model", self._id)
        with tempfile.TemporaryDirectory() as folder:
            mlflow.pytorch.save_model(
                model,
                f"{folder}/model",
                mlflow_model=Model(run_id=self._id, model_id=logged.model_id),
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch")],
                # A graph, not a pickle: loading it runs no code and needs none of ours.
                serialization_format="pt2",
            )
            self._client.log_model_artifacts(logged.model_id, f"{folder}/model")
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(self._id, [LoggedModelOutput(logged.model_id, step=0)])

    @sent
    def settle(self, lost: Collection[str] = ()) -> None:
        """Mark the runs FAILED whose process has died without a word, and the child runs whose
        folders are called as in ``lost``: their machine is silent."""
        running = "attributes.status = 'RUNNING'"
        for run in self._client.search_runs([self._experiment], running):
            tags = run.data.tags
            is_child = tags.get(PARENT) == self._id
            if is_dead(tags) or (is_child and Path(tags["output_dir"]).name in lost):
                self._client.set_tag(run.info.run_id, "ended", f"process {tags['pid']} died")
                self._client.set_terminated(run.info.run_id, "FAILED")

    def open(self, experiment: str, about: Description, started: int) -> None:
        """Make the run in MLflow, or open it again where the output folder belongs to one.

        Raises:
            Outage: the store or the folder can't be used.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        file = self.output_dir / RUN_ID_FILE
        known = file.read_text() if file.exists() else None
        with self.store.in_words():
            self._client = client = self.store.client
            self._experiment = experiment_id(self.store, experiment)
            self.link = self.store.link(self._experiment)
            if about.unique and not known:
                words = f"tags.`{about.unique}` = '{about.tags[about.unique]}'"
                found = client.search_runs([self._experiment], words)
                known = found[0].info.run_id if found else None
            if known:
                run = client.get_run(known)
            else:
                run = client.create_run(self._experiment, started, about.tags, about.name)
            self._id = run.info.run_id
            self._artifacts = get_artifact_repository(run.info.artifact_uri, self.store.uri)
        files.write(file, run.info.run_id)
        if known:
            self.attempt(self._reopen)
        if not known or len(run.data.params) < len(about.params):
            self.attempt(lambda: self._describe(about))

    def _reopen(self) -> None:
        self._client.update_run(self._id, status="RUNNING")
        for key, value in identity().items():
            self._client.set_tag(self._id, key, value)
        if any(file.path == TRACEBACK_FILE for file in self._artifacts.list_artifacts()):
            self._artifacts.delete_artifacts(TRACEBACK_FILE)
        sent = {m.step for m in self._client.get_metric_history(self._id, "train/loss")}
        for line in self._past:
            metrics, step = {k: v for k, v in line.items() if k != "step"}, int(line["step"])
            if step not in sent:
                self._client.log_batch(self._id, metrics=as_metrics(metrics, step))

    def _describe(self, about: Description) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        for path in about.files:
            self._artifacts.log_artifact(str(path))
        if about.dataset is not None:
            name, digest, source = about.dataset
            dataset = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
            context = InputTag("mlflow.data.context", "training")
            self._client.log_inputs(self._id, [DatasetInput(dataset, [context])])
        # Last, so that their presence says that all is told.
        params = [Param(key, str(value)) for key, value in about.params.items()]
        self._client.log_batch(self._id, params=params)

    def attempt(self, call: Callable[[], None]) -> None:
        """Do something in MLflow."""
        try:
            try:
                call()
            except Exception:  # a lock, or a server that is just started again
                time.sleep(RETRY_SECONDS)
                call()
        except Exception as error:  # whatever the store's failure is, training goes on
            self.lost = self.lost or root_cause(error)
            log.warning("MLflow stopped answering (%s): keeping results locally", self.lost)

    def end(self, error: BaseException | None = None) -> None:
        """Close the run with the status that tells what happened.

        Raises:
            Outage: MLflow went away from a run that is otherwise fine.
        """
        if failure := self.opening.exception():
            self.lost = str(failure)
        status = "FINISHED" if error is None else "KILLED"  # by a pruner, Ctrl-C or SIGTERM
        if isinstance(error, StoppedEarly):
            marks = {"pruned": "true", "pruned.epoch": str(error.epoch), "pruned.why": str(error)}
            self.tag(marks)
        elif isinstance(error, Exception):
            status = "FAILED"
            path = self.output_dir / TRACEBACK_FILE
            with suppress(OSError):  # a full disk may be the error
                path.write_text("".join(traceback.format_exception(error)))
                self.save_artifact(path)
        if self._id:  # MLflow may be back
            status = "FAILED" if self.lost else status
            self.attempt(lambda: self._client.set_terminated(self._id, status))
        if self.lost and (error is None or isinstance(error, StoppedEarly)):
            raise Outage(
                f"MLflow at {self.store.shown_uri} stopped answering ({self.lost}). Nothing is "
                f"lost: metrics, pictures and weights are in {self.output_dir}"
            )

    def sweep_link(self, study: str) -> str | None:
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
        return self.link and f"{self.link}&{urlencode(words, quote_via=quote)}"


def as_metrics(metrics: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, value, now, step) for key, value in metrics.items()]


@functools.cache
def environment_tags() -> dict[str, str]:
    """Versions, user, script, and the commit of the code where it stands in a git checkout."""
    tags = {f"version.{name}": version(name) for name in REPORTED_PACKAGES}
    tags |= {"version.python": platform.python_version(), "mlflow.source.name": sys.argv[0]}
    tags |= {"mlflow.user": getpass.getuser(), "mlflow.source.type": "LOCAL"}
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    with suppress(OSError, subprocess.CalledProcessError):  # not a checkout, or no git
        here = Path(__file__).parent
        commit = subprocess.check_output(command, cwd=here, text=True, stderr=-3).strip()
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
        tags["git_dirty"] = str(commit.endswith("-dirty")).lower()
    return tags
