"""Tiny apps that the tests sweep through Hydra's command line."""

import contextlib
import csv
import gc
import importlib
import io
import multiprocessing
import os
import runpy
import sqlite3
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import DictConfig
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial
from sqlalchemy import NullPool, event
from sqlalchemy.pool import Pool

from hydrasweep import plain_exit
from hydrasweep.stratum import FOLLOWS, N_TRIALS

fork = multiprocessing.get_context("fork")

# Modules that sweeps import. Forked apps inherit them, which saves each of them seconds.
for name in ("hydrasweep.sweep", "alembic.command", "joblib", "numpy.random", "psutil"):
    importlib.import_module(name)
importlib.import_module("optuna.storages._rdb.models")
Plugins.instance()

APP = """
import hydra
import hydrasweep
import math
import optuna
import os
import signal
import sys
import time

MAIN = os.getpid()

def end_sweep(signum):
    # To the sweep's own process. Then wait for what it does with its trials.
    os.kill(MAIN, signum)
    time.sleep(60)

def meet(n):
    # Wait until so many trials have begun.
    open(f"begun-{{hydrasweep.trial().number}}", "w").close()
    until = time.monotonic() + 30
    while len([name for name in os.listdir() if name.startswith("begun-")]) < n:
        assert time.monotonic() < until
        time.sleep(0.01)

@hydra.main(config_path="conf", config_name="config")
def task(cfg):
{body}

{more}

if __name__ == "__main__":
    {main}
"""
# Its trials have x=0.79, -0.34, 0.64 and -0.92. Tests of databases add the override SQLITE.
SQLITE = "hydra/sweeper/storage=sqlite"
CONFIG = """
defaults:
  - override hydra/sweeper: hydrasweep
  - override hydra/sweeper/sampler: random
  - override hydra/sweeper/storage: journal
hydra:
  sweep:
    dir: sweep
  sweeper:
    sampler:
      seed: 6
    study_name: s
    n_trials: 4
    params:
      x: interval(-1.0, 1.0)
x: 0.0
y: 0.0
kind: a
seed: 0
"""


@dataclass
class Ended:
    """The exit code and the output of a command, and the folder that it ran in."""

    code: int | None
    out: str
    err: str
    folder: Path

    def names(self) -> list[str]:
        """Return the names of all studies."""
        return optuna.get_all_study_names(self._storage())

    def study(self, name: str = "s", folder: str = "*") -> Study:
        return optuna.load_study(study_name=name, storage=self._storage(folder))

    def _storage(self, folder: str = "*") -> BaseStorage:
        names = ("study.journal", "study.db")
        (path,) = [path for name in names for path in self.folder.rglob(f"{folder}/{name}")]
        if path.suffix == ".journal":
            return JournalStorage(JournalFileBackend(str(path)))
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"poolclass": NullPool})

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        """Return the trials that no later trial repeats or continues."""
        trials = self.study(name).trials
        followed = {t.user_attrs[key] for t in trials for key in FOLLOWS if key in t.user_attrs}
        return [trial for trial in trials if trial.number not in followed]

    def lost(self, name: str = "s") -> list[FrozenTrial]:
        """Return the trials that a later trial repeats or continues."""
        kept = self.trials(name)
        return [trial for trial in self.study(name).trials if trial not in kept]

    def states(self, name: str = "s") -> list[str]:
        """Return the states of ``trials``, and WAITING for each trial that has not begun."""
        states = [trial.state.name for trial in self.trials(name)]
        return states + ["WAITING"] * (self.study(name).user_attrs.get(N_TRIALS, 0) - len(states))

    def table(self, name: str = "trials", folder: str = "sweep") -> list[dict[str, str]]:
        with (self.folder / folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def log(self, trial: str) -> str:
        return (self.folder / "sweep" / trial / "app.log").read_text()


App = Callable[..., Ended]  # what runs an app with the overrides that are its arguments
Write = Callable[..., App]  # the type of the fixture ``app``


def write(
    folder: Path, body: str, config: str = CONFIG, more: str = "", main: str = "task()"
) -> App:
    """Write an app with that task function. Return the function that runs it: ``run`` with the
    app's folder filled in, called as ``task("x=1", "y=2", fresh=True)``."""
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(config)
    text = APP.format(body=textwrap.indent(textwrap.dedent(body), "    "), more=more, main=main)
    (folder / "app.py").write_text(text)
    return lambda *arguments, **how: run(folder, arguments, **how)


def run(
    folder: Path,
    arguments: tuple[str, ...],
    *,
    fresh: bool = False,
    in_process: bool = False,
    multirun: bool = True,
    code: int | None = None,
) -> Ended:
    """Run ``python app.py -m ARGUMENTS`` in a fork of this process, which saves the imports.

    Args:
        fresh: Start a Python interpreter instead, which joblib's workers need.
        in_process: Start no process at all. This is for sweeps that are refused before their
            first trial: the app's module is not imported, and its task function never runs.
        multirun: Whether to pass ``-m``.
        code: The exit code that is expected. With another one, an error shows the app's.
    """
    done = _run(folder, arguments, fresh, in_process, multirun)
    assert code in (None, done.code), done.err
    return done


def _run(
    folder: Path, arguments: tuple[str, ...], fresh: bool, in_process: bool, multirun: bool
) -> Ended:
    words = ["app.py", *(["-m"] if multirun else []), *arguments]
    if in_process:
        return _run_in_process(folder, arguments)
    if fresh:
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
        return Ended(done.returncode, done.stdout, done.stderr, folder)
    process = start(folder, words)
    process.join()
    out, err = ((folder / name).read_text() for name in ("out.txt", "err.txt"))
    return Ended(process.exitcode, out, err, folder)


def start(folder: Path, words: list[str]) -> multiprocessing.process.BaseProcess:
    """Start a Python script of a folder in a fork. Its output goes to out.txt and err.txt."""

    def body() -> None:
        gc.freeze()  # or each collection would scan all objects of the test process
        _never_sync()
        for name, fd in (("out.txt", 1), ("err.txt", 2)):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        warnings.simplefilter("default")
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = words
        try:
            runpy.run_path(words[0], run_name="__main__")
        finally:
            sys.stdout.flush()

    process = fork.Process(target=body)
    process.start()
    return process


def _never_sync() -> None:
    """Let the system write files when it likes, which takes most of a sweep's time on a busy disk.
    Processes that are killed lose nothing by this."""
    os.fsync = lambda _: None  # type: ignore[assignment]

    @event.listens_for(Pool, "connect")
    def connected(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")


def _run_in_process(folder: Path, arguments: tuple[str, ...]) -> Ended:
    def task(cfg: DictConfig) -> None:
        raise AssertionError(f"the sweep began a trial: {cfg}")

    out, error = io.StringIO(), ""
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        initialize_config_dir(str(folder / "conf"), job_name="app"),
    ):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            with plain_exit():
                hydra.multirun("config", task, list(arguments), with_log_configuration=False)
        except SystemExit as end:
            error = str(end.code)
    return Ended(int(bool(error)), out.getvalue(), error, folder)
