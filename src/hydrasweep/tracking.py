"""The sweep in MLflow: a run whose children are the runs that its trials begin.

Where it is recorded, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say, as everywhere in MLflow.
"""

import logging
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from filelock import FileLock

from hydrasweep.errors import Outage, environment, root_cause, without_password
from hydrasweep.trial_runs import (
    NAME,
    PRUNED,
    TRIAL,
    URI,
    Context,
    children,
    clean,
    end_run,
    settings,
)

LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves
RETRY_SECONDS = 1.0  # after which a call to MLflow is tried a second time, and no more
log = logging.getLogger(__name__)


class SweepRun:
    """The sweep's own run; without ``run_id`` it records nothing.

    What fails while the sweep runs is told at its end, so that MLflow never ends a sweep.
    """

    lost: str | None = None  # why MLflow is left alone

    def __init__(self, run_id: str = "", experiment_id: str = "") -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.uri = ""  # of its store, whichever a task function of this process may choose
        if run_id:
            import mlflow

            self.uri = mlflow.get_tracking_uri()

    @classmethod
    def open(cls, known: str | None, name: str, params: Mapping[str, Any]) -> "SweepRun":
        """Make the sweep's run, or open again the one with the id ``known``.

        Raises:
            Outage: MLflow's store can't be used.
        """
        try:
            with environment(**settings()):
                run = _run(known, name, params)
        except Outage:
            raise
        except Exception as error:
            raise Outage(
                f"MLflow's store at {shown_uri()} can't be used ({root_cause(error)}): make it "
                f"answer, point {URI} to another, or sweep with hydra.sweeper.mlflow=false"
            ) from error
        return cls(run.info.run_id, run.info.experiment_id)

    @property
    def context(self) -> Context | None:
        """What workers must know of it."""
        if not self.run_id:
            return None
        shown = self.uri if without_password(self.uri) == self.uri else None
        return Context(self.run_id, shown, self.experiment_id)

    @property
    def shown_uri(self) -> str:
        """The address of its store without a password; "" of a run that records nothing."""
        return without_password(self.uri)

    def send(self, call: Callable[[Any], object]) -> None:
        """Do something with MLflow, of which ``call`` is given a client."""
        if not self.run_id or self.lost:
            return
        import mlflow

        try:
            with environment(**settings()):
                client = mlflow.MlflowClient(self.uri)
                try:
                    call(client)
                except Exception:  # a lock, or a server that is just started again
                    time.sleep(RETRY_SECONDS)
                    call(client)
        except Exception as error:
            self.lost = root_cause(error)
            log.warning("MLflow stopped answering (%s)", self.lost)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers."""

        def log_batch(client: Any) -> None:
            from mlflow.entities import Metric

            now = int(1000 * time.time())
            points = [Metric(clean(key), value, now, step) for key, value in metrics.items()]
            client.log_batch(self.run_id, points)

        self.send(log_batch)

    def keep(self, paths: Sequence[Path], tags: Mapping[str, str]) -> None:
        """Keep files and tags with the run."""

        def keep(client: Any) -> None:
            for key, value in tags.items():
                client.set_tag(self.run_id, clean(key), value)
            for path in paths:
                client.log_artifact(self.run_id, str(path))

        self.send(keep)

    def settle(self, ended: Mapping[str, str]) -> None:
        """Close the runs of trials that ended with their process, in the states given."""

        def mark(client: Any) -> None:
            for run in children(client, self.run_id, "attributes.status = 'RUNNING'"):
                if state := ended.get(run.data.tags.get(TRIAL, "")):
                    status = "FINISHED" if state == PRUNED else "FAILED"
                    end_run(client, run, status, state == PRUNED)

        self.send(mark)

    def end(self, status: str) -> None:
        """Close the run.

        Raises:
            Outage: MLflow went away from a sweep that is otherwise fine.
        """
        lost, self.lost = self.lost, None  # it may be back
        true = "FAILED" if lost else status
        self.send(lambda client: client.set_terminated(self.run_id, true))
        if lost and status == "FINISHED":
            raise Outage(
                f"MLflow at {self.shown_uri} stopped answering ({lost}). Nothing is lost: the "
                "trials and their results are in the sweep's folder"
            )

    def link(self, study: str, objective: str, direction: str) -> str | None:
        """Where the UI charts the sweep's search, side by side, the best first, where trials log
        ``objective``.

        The UI applies a filter only beside all the other parts of its address. Ordered by time,
        it would show the sweep's run, and its trials folded under it.
        """
        if not self.run_id:
            return None
        uri = self.shown_uri.rstrip("/")
        words = {
            "workflowType": "machine_learning", "compareRunsMode": "CHART", "startTime": "ALL",
            "searchFilter": f"tags.study = '{study}' AND tags.phase = 'search'",
            "orderByKey": f"metrics.`{objective}`",
            "orderByAsc": str(direction == "minimize").lower(),
            "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
            "datasetsFilter": "W10=",  # none, as the UI writes it
        }  # fmt: skip
        found: list[Any] = []  # the app may have chosen another experiment
        self.send(lambda client: found.extend(children(client, self.run_id)[:1]))
        shown = found[0].info.experiment_id if found else self.experiment_id
        base = uri if uri.startswith("http") else LOCAL_UI
        return f"{base}/#/experiments/{shown}/runs?{urlencode(words, quote_via=quote)}"


def _run(known: str | None, name: str, params: Mapping[str, Any]) -> Any:
    """The sweep's run: the one that is known, where it is there, or a new one."""
    import mlflow

    experiment_id = _experiment()
    client, run = mlflow.MlflowClient(), None
    try:
        run = client.get_run(known) if known else None
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    if run is None or run.info.lifecycle_stage == "deleted":
        tags = {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
        run = client.create_run(experiment_id, tags=tags, run_name=f"sweep {name}")
        cleaned = {clean(key): value for key, value in params.items()}
        mlflow.log_params(cleaned, run_id=run.info.run_id)
    client.update_run(run.info.run_id, "RUNNING")
    client.set_tag(run.info.run_id, "n_trials", params["n_trials"])
    return run


def shown_uri() -> str:
    """MLflow's address without a password."""
    import mlflow

    return without_password(mlflow.get_tracking_uri())


def _experiment() -> str:
    """The id of the experiment, whose artifacts are beside an SQLite store wherever the app is
    started. One process makes the store where several come at once."""
    from mlflow import MlflowClient

    name, found = os.environ.get(NAME) or "Default", re.match(r"sqlite:///([^?]+)", shown_uri())
    database = Path(found[1]).resolve() if found else None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with FileLock(f"{database}.lock") if database else nullcontext():
        if database:
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                # Readers and one writer work side by side, which the file remembers.
                connection.execute("PRAGMA journal_mode=WAL")
        client = MlflowClient()  # makes the store, and would try to open it for two minutes
        if experiment := client.get_experiment_by_name(name):
            if experiment.lifecycle_stage == "deleted":
                raise Outage(
                    f"MLflow's experiment {name} was deleted: restore it by {URI}={shown_uri()} "
                    f"mlflow experiments restore --experiment-id {experiment.experiment_id}, or "
                    f"set {NAME} to another name"
                )
            return str(experiment.experiment_id)
        place = (database.parent / "mlruns" / name).as_uri() if database else None
        return str(client.create_experiment(name, place))
