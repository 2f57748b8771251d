"""The memory of a worker after its 10th and its 210th trial without epochs: MiB."""

import os
import tempfile
from pathlib import Path

import psutil
from common import Rows, python, size
from overhead import NO_TRAINING
from torch import nn

N_TRIALS = size(210, 12)


class Witness(nn.Identity):
    """Replaces an augmentation, and writes down the memory of the process that makes it."""

    def __init__(self) -> None:
        super().__init__()
        with Path(os.environ["WITNESS"]).open("a") as file:
            file.write(f"{psutil.Process().memory_info().rss / 2**20}\n")


def measure() -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        python(
            "src/train.py", "-m", "hparams_search=optuna", f"hydra.sweeper.n_trials={N_TRIALS}",
            "hydra.sweeper.n_workers=1", *NO_TRAINING, "augmentation._target_=memory.Witness",
            store=Path(folder), WITNESS=f"{folder}/witness",
        )  # fmt: skip
        resident = [float(line) for line in Path(folder, "witness").read_text().split()]
    early, late = resident[9], resident[-1]
    return [{"after 10": early, f"after {N_TRIALS}": late, "ratio": late / early}]
