"""Runs apps as their users would, each in a copy of its own: those under ``examples/`` of this
repository, and odder ones beside this file."""

import csv
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APPS = Path(__file__).parent
EXAMPLES = APPS.parents[1] / "examples"
OURS = ("MLFLOW_", "HYDRA_", "HYDRASWEEP_")  # what a caller's shell may have set


@dataclass
class Project:
    """A copy of an app."""

    folder: Path
    python: str = sys.executable

    def run(self, *words: str, app: str = "app.py", fails: bool = False, **variables: str) -> str:
        """What ``python app.py …`` prints; where it fails, with what it complains about."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        done = subprocess.run(
            [self.python, app, *words],
            cwd=self.folder, capture_output=True, text=True, timeout=240,
            env=kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"} | variables,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + (done.stderr if fails else "")

    def run_readme(self, **variables: str) -> list[str]:
        """What the commands of its README print, one after the other."""
        text = (self.folder / "README.md").read_text()
        commands = re.findall(r"^python (\S+\.py\b.*)$", text, re.MULTILINE)
        each = [shlex.split(words, comments=True) for words in commands]
        return [self.run(*words, app=app, **variables) for app, *words in each]

    def sweep(self, study: str = "*") -> Path:
        """The folder of a sweep, by default the only one."""
        found = self.folder.rglob(f"{study}/trials.csv")
        (table,) = (path for path in found if "mlruns" not in path.parts)
        return table.parent

    def trials(self, name: str = "trials.csv", study: str = "*") -> list[dict[str, str]]:
        """A table of a sweep."""
        with (self.sweep(study) / name).open() as lines:
            return list(csv.DictReader(lines))

    def runs(self) -> "list[Run]":
        """What MLflow has recorded, the oldest first."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            known = "SELECT run_uuid, name, status, experiment_id FROM runs ORDER BY start_time"
            rows = database.execute(known).fetchall()

            def of_run(table: str, run: str) -> dict[str, Any]:
                read = f"SELECT key, value FROM {table} WHERE run_uuid = ?"
                return dict(database.execute(read, (run,)).fetchall())

            tables = ("tags", "params", "latest_metrics")
            return [Run(*row, *(of_run(table, row[0]) for table in tables)) for row in rows]


@dataclass
class Run:
    """A run in MLflow."""

    id: str
    name: str
    status: str
    experiment: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]

    @property
    def parent(self) -> str | None:
        return self.tags.get("mlflow.parentRunId")


def children(runs: list[Run]) -> tuple[Run, list[Run]]:
    """The sweep's run, and those of its trials."""
    (parent,) = (run for run in runs if run.name.startswith("sweep "))
    others = [run for run in runs if run is not parent]
    assert others
    assert {run.parent for run in others} == {parent.id}
    assert {run.experiment for run in others} == {parent.experiment}
    return parent, others


def copy(name: str, where: Path, source: Path = APPS) -> Project:
    """A copy of an app in a folder of its own."""
    shutil.copytree(source / name, where / name, ignore=_made_by_running)
    return Project(where / name)


def example(name: str, where: Path) -> Project:
    """A copy of one of this repository's examples."""
    return copy(name, where, EXAMPLES)


def _made_by_running(folder: str, names: Iterable[str]) -> set[str]:
    del folder
    return {"__pycache__", "multirun", "outputs", "sweeps", "logs", "mlruns", "mlflow.db"} & set(
        names
    )
