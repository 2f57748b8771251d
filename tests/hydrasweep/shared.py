"""Folders and sweeps that a test session creates once, also with several workers of xdist."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import apps
import pytest
from filelock import FileLock

# Trial a-001 is pruned at its second step, trial b-001 fails at its end, and a has the best values.
BODY = """
trial = hydrasweep.trial()
hydrasweep.record(size=7)
for step in range(1, 4):
    hydrasweep.report(cfg.x + 1 / step, step)
    if trial.name == "a-001" and step == 2:
        raise optuna.TrialPruned
if trial.name == "b-001":
    raise ValueError("no luck")
return cfg.x + cfg.seed / 100 + (cfg.kind == "b")
"""
OVERRIDES = (
    "kind=choice(a,b)",
    "hydra.sweeper.stratify=kind",
    "hydra.sweeper.n_trials=6",
    "hydra.sweeper.report=true",
    "hydra/sweeper/confirm=two_seeds",
    "hydra.sweeper.confirm.final=['y=1.0']",
)


def root(factory: pytest.TempPathFactory) -> Path:
    """The session's temporary folder, which all workers of pytest-xdist share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return the folder ``name``. The first worker that asks for it calls ``fill``; others wait."""
    path = root(factory) / name
    filled = path.with_suffix(".filled")
    with FileLock(path.with_suffix(".lock")):
        if not filled.exists():
            path.mkdir()
            fill(path)
            filled.touch()
    return path


def sweep(
    factory: pytest.TempPathFactory,
    name: str,
    *overrides: str,
    body: str = BODY,
    files: Sequence[Path] = (),
    **kwargs: str,
) -> apps.Ended:
    """A finished sweep of two strata and all phases: study ``s`` in the folder ``sweep``, beside
    copies of ``files``. ``kwargs`` are those of ``apps.write``."""

    def run(path: Path) -> None:
        for file in files:
            shutil.copy(file, path)
        done = apps.write(path, body, **kwargs)(*OVERRIDES, *overrides)
        assert done.code == 0, done.err

    path = folder(factory, name, run)
    return apps.Ended(0, (path / "out.txt").read_text(), (path / "err.txt").read_text(), path)
