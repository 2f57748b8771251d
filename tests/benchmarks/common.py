"""What the benchmarks share: composed jobs, sides that take turns, the entrypoint with stores
of its own."""

import functools
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import joblib
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydrasweep.compose import Composer
from mnist.accelerate import cpu
from mnist.assembly import Assembly, assemble

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Small enough for a comparison to be over in minutes; every epoch costs the same.
PART = ("data.n_train=12000", "data.n_val=2000", "data.batch_size=100", "n_threads=1")
OPTIMIZERS = {"baseline": "sgd", "cnn": "adam", "lenet5": "adam"}
PACKAGES = ("torch", "torchvision", "hydra-core", "optuna", "mlflow")
DROPOUT = {"baseline": 0.0, "cnn": 0.2, "lenet5": 0.0}

os.environ.setdefault("HYDRASWEEP_ROOT", str(ROOT))


def job(*overrides: str) -> Assembly:
    """What ``fit`` needs for a config, which is composed as a worker of a sweep does it."""
    return assemble(_composer().compose(overrides, label="benchmark", number=0))


@functools.cache
def _composer() -> Composer:
    with initialize_config_dir(str(ROOT / "conf")):
        loader = GlobalHydra.instance().config_loader()
    return Composer(loader, loader.load_configuration("train", [], RunMode.MULTIRUN))


def machine() -> dict[str, str | int]:
    """What the figures depend on besides the code."""
    return {
        "cpu": cpu(),
        "cores": joblib.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def recipe(model: str) -> list[str]:
    """The settings that a plain loop is compared by."""
    chosen = (f"model={model}", f"optimizer={OPTIMIZERS[model]}", "scheduler=constant")
    return [*chosen, f"model.dropout={DROPOUT[model]}"]


def plain_optimizer(model: torch.nn.Module, name: str) -> torch.optim.Optimizer:
    """The optimizer of ``recipe(name)`` as a plain loop makes it: not fused."""
    if OPTIMIZERS[name] == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1)
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(n: int, **sides: Callable[[], object]) -> Mapping[str, list[float]]:
    """The seconds of ``n`` rounds in which each side has its turn, after a round to warm up."""
    rounds = [[seconds(side) for side in sides.values()] for _ in range(n + 1)][1:]
    return {name: [row[i] for row in rounds] for i, name in enumerate(sides)}


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' own ratios: what slows a round slows both of its sides."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def python(*words: str, store: Path | None = None, **environment: str) -> str:
    """Run Python in the repository's root, MLflow's store and all outputs in a folder; give
    what it printed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)])}
    if store:
        env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
        words = (*words, f"paths.outputs={store}")
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env | environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
