"""An epoch of LeNet5 on 12,000 images beside other processes, with the threads that it chooses.

Two trainings that start at the same time, one that starts while another runs, and one beside as
many busy processes as there are cores.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
from common import N_TRAIN, ROOT, SMALLEST, Rows, size
from omegaconf import OmegaConf

COMMAND = ("src/train.py", "model=lenet5", f"data.n_train={N_TRAIN}", "tracking=none",
           "artifacts=false", "score_test=false", "checkpoint=false")  # fmt: skip
EPOCHS, LATER = size((6, 12), (2, 3))  # a first training lasts until a later one has ended
BUSY = (sys.executable, "-c", "while True: pass")


def start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *COMMAND, f"hydra.run.dir={folder}", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def seconds(folder: Path) -> float:
    """The median time of an epoch, without the first, which includes imports."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()[1:])
    return statistics.median(line["time/epoch_seconds"] for line in lines)


def trained(
    *words: str, n: int = 1, n_busy: int = 0, one_by_one: bool = False
) -> tuple[float, str]:
    """Train ``n`` times at once, or each after the first epoch of the one before; return the
    seconds of the slowest one's epoch, and the threads of each."""
    others = [subprocess.Popen(BUSY) for _ in range(n_busy)]
    try:
        with tempfile.TemporaryDirectory() as path:
            folders = [Path(path, str(i)) for i in range(n)]
            runs = []
            for folder in folders:
                is_first = one_by_one and folder != folders[-1]
                runs.append(start(folder, f"epochs={LATER if is_first else EPOCHS}", *words))
                while is_first and not (folder / "metrics.jsonl").exists():
                    assert runs[-1].poll() is None, "the training did not start"
                    time.sleep(0.1)
            assert not any(run.wait() for run in runs)
            return max(map(seconds, folders)), threads(folders)
    finally:
        for other in others:
            other.kill()


def threads(folders: Sequence[Path]) -> str:
    return ", ".join(str(OmegaConf.load(each / "config.yaml").n_threads) for each in folders)


def measure() -> Rows:
    found = {"alone, one thread": trained("n_threads=1")}
    if not SMALLEST:
        found["alone"] = trained()
        found["two at once"] = trained(n=2)
        found["two at once, one thread each"] = trained("n_threads=1", n=2)
    found["one, then another"] = trained(n=2, one_by_one=True)
    found["beside busy processes"] = trained(n_busy=size(joblib.cpu_count(), 1))
    least = found["alone, one thread"][0]
    return [
        {"training": name, "threads": n, "s an epoch": took, "times one thread": took / least}
        for name, (took, n) in found.items()
    ]
