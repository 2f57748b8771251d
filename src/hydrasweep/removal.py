"""Deletes a sweep: its files, its studies and its runs in MLflow."""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.progress import track

from hydrasweep import output, page, starts, storage
from hydrasweep.errors import Outage, UserError, environment, root_cause, without_password
from hydrasweep.liveness import OWNER, is_dead
from hydrasweep.plots import Sweep
from hydrasweep.studies import RUN, RUN_URI
from hydrasweep.trial_runs import URI, children, settings
from hydrasweep.trials import PHASES

# What a sweep writes into its folder, beside a folder for each trial.
OWN = re.compile(
    r"best|workers|\.submitit|\.starts|\.study|study\.(db|journal).*|(multirun|environment|results|"
    r"optimization_results)\.yaml|(trials|confirmation)\.csv|(report|mlflow)\.html|\..*\.tmp"
)


@dataclass(frozen=True)
class Removal:
    """What is to go, and what stays."""

    sweep: Sweep
    paths: list[Path]
    others: list[Path]  # in the same folder, which the sweep did not write
    runs: list[Any]
    uri: str  # of the store that has the runs
    kept_runs: str  # why none are to go, though there may be some
    original: Path | None = None  # of which the folder is a copy: studies and runs are its

    @classmethod
    def of(cls, folder: Path) -> "Removal":
        """All that belongs to the sweep in a folder.

        Raises:
            UserError: it may be running, or has no mark of a sweep.
            Outage: MLflow's store can't be used.
        """
        if not (folder / starts.CLAIM).exists():
            raise UserError(f"{folder}: is no folder that a sweep has made")
        sweep = page.read(folder)
        if alive := _processes(sweep):
            raise UserError(
                f"{folder}: its sweep is running, or may be ({', '.join(alive)}): stop it first; a "
                "process of another machine can be looked up there alone"
            )
        names = {
            stratum.label(trial)
            for studies in sweep.phases.values()
            for stratum in studies.strata
            for trial in stratum.study.get_trials(deepcopy=False)
        }
        entries = sorted(sweep.folder.iterdir())
        paths = [path for path in entries if path.name in names or OWN.fullmatch(path.name)]
        others = [path for path in entries if path not in paths]
        attrs = sweep.search.head.user_attrs
        uri, run_id = attrs.get(RUN_URI, ""), attrs.get(RUN)
        if original := starts.original(folder):
            why = f"they are those of {original}, of which this is a copy"
            return cls(sweep, paths, others, [], uri, why if run_id else "", original)
        if run_id and not importlib.util.find_spec("mlflow"):
            return cls(sweep, paths, others, [], uri, "MLflow is not installed here")
        runs = _runs(run_id, uri) if run_id else []
        why = "they are not there" if run_id and not runs else ""
        return cls(sweep, paths, others, runs, uri, why)

    def __str__(self) -> str:
        files = [file for path in self.paths for file in _files(path)]
        size = sum(file.lstat().st_size for file in files) / 1e6
        state, folder = starts.state(starts.last(self.sweep.folder)), self.sweep.folder
        lines = [
            f"Sweep {self.sweep.name}: {state}, {output.counts(self.sweep.search)}",
            f"  deletes {len(files)} files of {size:.1f} MB in {os.path.relpath(folder)}",
        ]
        if self.others:
            lines.append(f"  leaves, as it is not the sweep's: {', '.join(_names(self.others))}")
        if self.runs:
            n = f"{len(self.runs)} run{'s' * (len(self.runs) > 1)}"
            lines.append(f"  moves {n} to the trash of {self.uri}, which `mlflow gc` empties")
        if self.kept_runs:
            lines.append(f"  leaves its runs at {self.uri}: {self.kept_runs}")
        return "\n".join(lines)

    def execute(self) -> None:
        """Delete it: the folder last, so that what fails can be tried again.

        Raises:
            Outage: a store or the disk can't be used.
        """
        is_silent = not sys.stdout.isatty()
        if self.runs:
            with _reached(self.uri) as client:
                for run in track(self.runs, "MLflow", disable=is_silent):
                    client.delete_run(run.info.run_id)
        with storage.in_words():
            opened = page.storage_of(self.sweep.folder)
            bases = {self.sweep.name, *(f"{self.sweep.name}@{phase}" for phase in PHASES)}
            for name in [] if self.original else optuna.get_all_study_names(opened):
                if name.partition("/")[0] in bases:
                    optuna.delete_study(study_name=name, storage=opened)
        storage.close_storages()
        for path in track(self.paths, "Files", disable=is_silent):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # an SQLite database's two others go with it
        if not self.others:
            self.sweep.folder.rmdir()


def _processes(sweep: Sweep) -> list[str]:
    """Those that may work on it: of its starts, and workers whose sweep has died."""
    owners = [
        trial.user_attrs.get(OWNER)
        for studies in sweep.phases.values()
        for stratum in studies.strata
        for trial in stratum.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    ]
    working = [starts.in_words(owner) for owner in owners if owner and not is_dead(owner)]
    return list(dict.fromkeys([*starts.processes(sweep.folder), *working]))


def _runs(run_id: str, uri: str) -> list[Any]:
    """The run of a sweep, and those of its trials, that are in the store."""
    file = re.match(r"sqlite:///([^?]+)", uri)
    if file and not Path(file[1]).exists():  # to look into it would make it
        return []
    with _reached(uri) as client:
        import mlflow

        try:
            run = client.get_run(run_id)
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return []
        return [run] * (run.info.lifecycle_stage == "active") + children(client, run_id)


@contextmanager
def _reached(uri: str) -> Iterator[Any]:
    """A client of the store at an address, whose password the environment may have.

    Raises:
        Outage: in place of what it raises.
    """
    known = os.environ.get(URI, "")
    chosen = known if known and without_password(known) == uri else uri
    with environment(**{URI: chosen}, **settings()):
        import mlflow

        try:
            yield mlflow.MlflowClient()
        except Exception as error:
            raise Outage(
                f"MLflow's store at {uri} can't be used ({root_cause(error)}): make it answer, or "
                "delete the sweep's folder by hand and its runs later"
            ) from error


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() or path.is_symlink() else list(path.rglob("*"))
    return [each for each in found if each.is_symlink() or not each.is_dir()]


def _names(paths: list[Path]) -> list[str]:
    return [path.name + "/" * path.is_dir() for path in paths]
