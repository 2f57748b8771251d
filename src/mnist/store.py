"""The MLflow store: the database or server that runs and models are kept in."""

import functools
import logging
import os
import re
import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist.errors import UserError, in_words, without_password

LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # It would print addresses with the password that may be in them.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own seven tries of two minutes would hold a training up for a quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # MLflow resets its logger's level
}


class Store:
    """The store that MLFLOW_TRACKING_URI names, and else ``root``'s ``mlflow.db`` and
    ``mlruns/``, which a plain ``mlflow ui`` in that folder opens.

    Raises:
        Outage: it is an SQLite file that can't be used; others are tried by ``client``.
    """

    def __init__(self, root: Path) -> None:
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        self.shown_uri = without_password(self.uri)
        file = re.match(r"sqlite:///([^?]+)", self.uri)
        self.database = Path(file[1]).resolve() if file else None
        if not self.database:
            return
        with self.in_words(), self._lock(), closing(sqlite3.connect(self.database, 20)) as opened:
            # Readers and one writer side by side; the database remembers it.
            opened.execute("PRAGMA journal_mode=WAL")
            # One that is locked or read-only shows it here; MLflow would try for minutes.
            opened.execute("BEGIN IMMEDIATE")

    def _lock(self) -> AbstractContextManager[Any]:
        return FileLock(f"{self.database}.lock") if self.database else nullcontext()

    @functools.cached_property
    def client(self) -> Any:
        """An ``MlflowClient``: its first use takes seconds, which import MLflow.

        One process makes the store ready where several come at once.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        for name in ("urllib3", "mlflow.store.db.utils"):  # what fails is told in our words
            logging.getLogger(name).setLevel(logging.CRITICAL)
        from mlflow import MlflowClient

        with self.in_words(), self._lock():
            return MlflowClient(self.uri)

    def location(self, experiment: str) -> str | None:
        """Where an experiment's artifacts go; None: where a server wants them.

        Raises:
            UserError: it would not be a folder of their own.
        """
        if not self.database:
            return None
        root = self.database.parent / "mlruns"
        if Path(os.path.normpath(root / experiment)).parent != root:
            raise UserError(
                f"tracking.experiment={experiment}: it names a folder, so no slash, no '..'"
            )
        return (root / experiment).as_uri()

    def link(self, experiment_id: str) -> str:
        """Where the UI shows an experiment's runs as a table."""
        base = LOCAL_UI if self.database else self.shown_uri.rstrip("/")
        return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"

    def in_words(self) -> AbstractContextManager[None]:
        """Turns whatever fails in the store into a sentence."""
        return in_words(
            f"MLflow's store at {self.shown_uri} can't be used: make it answer, point "
            "MLFLOW_TRACKING_URI to another, or train with tracking=none"
        )


open_store = functools.lru_cache(maxsize=1)(Store)


@functools.cache
def experiment_id(store: Store, name: str) -> str:
    """The id of an experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(store.client.create_experiment(name, store.location(name)))
    except MlflowException:  # it is there
        return str(store.client.get_experiment_by_name(name).experiment_id)
