"""Runs apps in new interpreters as users do, each in a copy of its own: the examples of this
repository, and the apps beside this file."""

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

APPS = Path(__file__).parent
EXAMPLES = APPS.parents[1] / "examples"
OURS = ("MLFLOW_", "HYDRA_", "HYDRASWEEP_")  # variables that the caller may have set
STATE = {"COMPLETE": None, "PRUNED": "PRUNED"}  # the tag in MLflow for each state in a table
MADE_BY_RUNS = ("__pycache__", "multirun", "outputs", "sweeps", "logs", "mlruns", "mlflow.db")


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if not find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@dataclass
class Project:
    """A copy of an app."""

    folder: Path
    python: str = sys.executable

    def run(self, *words: str, app: str = "app.py", fails: bool = False, **variables: str) -> str:
        """Run ``python app.py WORDS`` and return its output, with stderr if it ``fails``."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        done = subprocess.run(
            [self.python, app, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            env=kept | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"} | variables,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + (done.stderr if fails else "")

    def run_readme(self, *smaller: str, **variables: str) -> list[str]:
        """Run the commands of the README and return their outputs. ``smaller`` are overrides of
        the sweep."""
        text = (self.folder / "README.md").read_text()
        commands = re.findall(r"^python (\S+\.py\b.*)$", text, re.MULTILINE)
        each = [shlex.split(command, comments=True) for command in commands]
        return [
            self.run(*words, *(smaller if "-m" in words else ()), app=app, **variables)
            for app, *words in each
        ]

    def sweep(self, study: str = "*") -> Path:
        """Return the folder of a sweep, by default of the only one."""
        found = self.folder.rglob(f"{study}/trials.csv")
        (table,) = (path for path in found if "mlruns" not in path.parts)
        return table.parent

    def trials(self, name: str = "trials.csv", study: str = "*") -> list[dict[str, str]]:
        """Return the rows of a table of a sweep."""
        with (self.sweep(study) / name).open() as lines:
            return list(csv.DictReader(lines))

    def runs(self) -> "list[Run]":
        """Return the runs in the project's MLflow store, the oldest first."""
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
    """Return the run of the sweep and those of its trials, which must be its children."""
    (parent,) = (run for run in runs if run.name.startswith("sweep "))
    others = [run for run in runs if run is not parent]
    assert others
    assert {run.parent for run in others} == {parent.id}
    assert {run.experiment for run in others} == {parent.experiment}
    return parent, others


def steps(rows: list[dict[str, str]]) -> dict[str, set[int]]:
    """The numbers of steps of the trials of each state."""
    return {
        state: {int(row["steps"]) for row in rows if row["state"] == state}
        for state in ("COMPLETE", "PRUNED")
    }


def copy(name: str, where: Path, source: Path = APPS) -> Project:
    """Copy an app into a folder of its own."""
    shutil.copytree(source / name, where / name, ignore=_made_by_runs)
    return Project(where / name)


def example(name: str, where: Path) -> Project:
    """Copy an example of this repository."""
    return copy(name, where, EXAMPLES)


def _made_by_runs(folder: str, names: Iterable[str]) -> set[str]:
    del folder
    return set(MADE_BY_RUNS) & set(names)
