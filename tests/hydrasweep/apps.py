"""Tiny apps that the tests sweep, each run as a process of its own through Hydra's command line."""

import csv
import gc
import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from hydra.core.plugins import Plugins
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial
from sqlalchemy import NullPool

from hydrasweep.stratum import FOLLOWS, N_TRIALS

fork = multiprocessing.get_context("fork")

# What sweeps import on their way: apps inherit it, and would each take seconds for it.
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
    """How a command ended, and the folder that it ran in."""

    code: int | None
    out: str
    err: str
    folder: Path

    def names(self) -> list[str]:
        """Of the studies that there are."""
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
        """Those that count."""
        trials = self.study(name).trials
        followed = {t.user_attrs[key] for t in trials for key in FOLLOWS if key in t.user_attrs}
        return [trial for trial in trials if trial.number not in followed]

    def lost(self, name: str = "s") -> list[FrozenTrial]:
        """Those that were tried again or gone on with."""
        kept = self.trials(name)
        return [trial for trial in self.study(name).trials if trial not in kept]

    def states(self, name: str = "s") -> list[str]:
        """Of the trials that count, those still to begin as WAITING."""
        states = [trial.state.name for trial in self.trials(name)]
        return states + ["WAITING"] * (self.study(name).user_attrs.get(N_TRIALS, 0) - len(states))

    def table(self, name: str = "trials", folder: str = "sweep") -> list[dict[str, str]]:
        with (self.folder / folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    def log(self, trial: str) -> str:
        return (self.folder / "sweep" / trial / "app.log").read_text()


App = Callable[..., Ended]


def write(
    folder: Path, body: str, config: str = CONFIG, more: str = "", main: str = "task()"
) -> App:
    """Write an app with that task function; give the command that runs it."""
    (folder / "conf").mkdir()
    (folder / "conf" / "config.yaml").write_text(config)
    text = APP.format(body=textwrap.indent(textwrap.dedent(body), "    "), more=more, main=main)
    (folder / "app.py").write_text(text)
    return lambda *arguments, fresh=False: run(folder, arguments, fresh)


def run(folder: Path, arguments: tuple[str, ...], fresh: bool = False) -> Ended:
    """``python app.py -m ARGUMENTS``.

    But for the time that imports take, unless ``fresh``, which joblib's workers need.
    """
    out, err = folder / "out.txt", folder / "err.txt"
    if fresh:
        done = subprocess.run(
            [sys.executable, "app.py", "-m", *arguments], cwd=folder, capture_output=True, text=True
        )
        return Ended(done.returncode, done.stdout, done.stderr, folder)

    def body() -> None:
        gc.freeze()  # else it looks through all that the tests have made, again and again
        for path, fd in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        warnings.simplefilter("default")
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = ["app.py", "-m", *arguments]
        try:
            runpy.run_path("app.py", run_name="__main__")
        finally:
            sys.stdout.flush()

    process = fork.Process(target=body)
    process.start()
    process.join()
    return Ended(process.exitcode, out.read_text(), err.read_text(), folder)
