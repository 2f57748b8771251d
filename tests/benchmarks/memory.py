"""The memory of a sweep: of the process of its 10th and its 210th trial without epochs, and of all
its processes while two trials run: MiB."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from common import ROOT, Rows, python, size
from overhead import BARE, NO_TRAINING
from torch import nn

N_TRIALS = size(210, 12)
TRAINING = size(("hydra.sweeper.n_trials=9", "data.n_train=6000"),
                ("hydra.sweeper.n_trials=3", "data.n_train=300", "epochs=1"))  # fmt: skip


class Witness(nn.Identity):
    """Replaces an augmentation, and writes down the memory of the process that makes it."""

    def __init__(self) -> None:
        super().__init__()
        with Path(os.environ["WITNESS"]).open("a") as file:
            file.write(f"{psutil.Process().memory_info().rss / 2**20}\n")


def of_all_processes(folder: str) -> float:
    """The median over the time of a sweep; pages that processes share are counted once."""
    words = ("src/train.py", "-m", "hparams_search=optuna", "hydra.sweeper.n_workers=2",
             f"paths.outputs={folder}", *BARE, *TRAINING)  # fmt: skip
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    env |= {"PYTHONPATH": str(ROOT / "src")}
    sweep, seen = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=env), []
    while sweep.poll() is None:
        total = 0
        main = psutil.Process(sweep.pid)
        for process in [main, *main.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # it has ended
                continue
        seen.append(total / 2**20)
        time.sleep(0.3)
    return statistics.median(seen)


def measure() -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        python(
            "src/train.py", "-m", "hparams_search=optuna", f"hydra.sweeper.n_trials={N_TRIALS}",
            "hydra.sweeper.n_workers=1", *NO_TRAINING, "augmentation._target_=memory.Witness",
            store=Path(folder), WITNESS=f"{folder}/witness",
        )  # fmt: skip
        resident = [float(line) for line in Path(folder, "witness").read_text().split()]
    with tempfile.TemporaryDirectory() as folder:
        total = of_all_processes(folder)
    early, late = resident[9], resident[-1]
    return [{"10th trial": early, f"trial {N_TRIALS}": late, "ratio": late / early, "sweep": total}]
