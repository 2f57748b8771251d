"""Helpers of the benchmarks: composed jobs, timing in turns, the entrypoint with its own stores."""

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
from typing import TypeVar

import joblib
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from hydrasweep.compose import Composer
from mnist.accelerate import cpu
from mnist.assembly import Assembly, assemble

T = TypeVar("T")
Rows = list[dict[str, str | float]]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Set by run.py --smallest: benchmarks only show that they work, and write no results.
SMALLEST = "BENCHMARKS_SMALLEST" in os.environ
os.environ.setdefault("HYDRASWEEP_ROOT", str(ROOT))


def size(full: T, smallest: T) -> T:
    """A number or setting of a benchmark, and what replaces it at the smallest size."""
    return smallest if SMALLEST else full


# Small enough for a comparison to be over in minutes; every epoch costs the same.
N_TRAIN, N_VAL = size((12_000, 2_000), (600, 200))
PART = (
    *(f"data.n_train={N_TRAIN}", f"data.n_val={N_VAL}"),
    *("data.batch_size=100", "n_threads=1"),
)
MODELS = size(("baseline", "cnn", "lenet5"), ("lenet5",))
PACKAGES = ("torch", "torchvision", "hydra-core", "optuna", "mlflow")


def job(*overrides: str) -> Assembly:
    """What ``fit`` needs, from a config that is composed as in a worker of a sweep."""
    return assemble(_composer().compose(overrides, label="benchmark", number=0))


@functools.cache
def _composer() -> Composer:
    with initialize_config_dir(str(ROOT / "conf")):
        loader = GlobalHydra.instance().config_loader()
    return Composer(loader, loader.load_configuration("train", [], RunMode.MULTIRUN))


def machine() -> dict[str, str | int]:
    """What the results depend on besides the code."""
    return {
        "cpu": cpu(),
        "cores": joblib.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(n: int, **sides: Callable[[], object]) -> Mapping[str, list[float]]:
    """The seconds that each side takes in ``n`` rounds, after a round to warm up."""
    rounds = [[seconds(side) for side in sides.values()] for _ in range(n + 1)][1:]
    return {name: [row[i] for row in rounds] for i, name in enumerate(sides)}


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' own ratios: what slows a round slows both of its sides."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def python(*words: str, store: Path | None = None, code: int = 0, **environment: str) -> str:
    """Run Python in the repository's root, which ends with an exit code, and return its output.
    With ``store``, MLflow's store and all outputs are in that folder."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)])}
    if store:
        env |= {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
        words = (*words, f"paths.outputs={store}")
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env | environment, capture_output=True, text=True
    )
    if done.returncode != code:
        raise RuntimeError(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout
