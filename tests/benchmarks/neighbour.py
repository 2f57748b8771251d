"""LeNet5 beside others: an epoch on 12,000 images, with the threads that it takes itself.

Two trainings that begin at the same time, one that begins while another is at work, and one beside
as many busy processes as there are cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import joblib
from common import ROOT

COMMAND = ("src/train.py", "model=lenet5", "data.n_train=12000", "tracking=none", "artifacts=false",
           "score_test=false", "checkpoint=false")  # fmt: skip
EPOCHS, LATER = 6, 12  # the other's training goes on for as long as it takes
BUSY = (sys.executable, "-c", "while True: pass")


def start(folder: Path, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *COMMAND, f"hydra.run.dir={folder}", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ)


def seconds(folder: Path) -> float:
    """Of the median epoch without the first, which imports."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()[1:])
    return statistics.median(line["time/epoch_seconds"] for line in lines)


def trained(n: int, *words: str, neighbours: Sequence[Sequence[str]] = ()) -> tuple[float, str]:
    """So many trainings at once: the seconds of an epoch of the slowest, and their threads."""
    others = [subprocess.Popen(command) for command in neighbours]
    try:
        with tempfile.TemporaryDirectory() as path:
            folders = [Path(path, str(i)) for i in range(n)]
            runs = [start(folder, f"epochs={EPOCHS}", *words) for folder in folders]
            assert not any(run.wait() for run in runs)
            return max(map(seconds, folders)), ", ".join(map(threads, folders))
    finally:
        for other in others:
            other.kill()


def threads(folder: Path) -> str:
    (line,) = [
        line
        for line in (folder / "config.yaml").read_text().splitlines()
        if line.startswith("n_threads")
    ]
    return line.rpartition(" ")[2]


def one_after_another() -> tuple[float, str]:
    """The slower of a training and one that begins when it has done its first epoch."""
    with tempfile.TemporaryDirectory() as path:
        first, second = Path(path, "first"), Path(path, "second")
        runs = [start(first, f"epochs={LATER}")]
        while not (first / "metrics.jsonl").exists():
            time.sleep(0.1)
        runs.append(start(second, f"epochs={EPOCHS}"))
        assert not any(run.wait() for run in runs)
        return max(seconds(first), seconds(second)), f"{threads(first)}, {threads(second)}"


def measure() -> list[dict[str, str | float]]:
    busy = [BUSY] * joblib.cpu_count()
    found = {
        "alone, one thread": trained(1, "n_threads=1"),
        "alone": trained(1),
        "two at once": trained(2),
        "two at once, one thread each": trained(2, "n_threads=1"),
        "one, then another": one_after_another(),
        "beside busy processes": trained(1, neighbours=busy),
    }
    least = found["alone, one thread"][0]
    return [
        {"training": name, "threads": n, "s an epoch": took, "times one thread": took / least}
        for name, (took, n) in found.items()
    ]
