"""A sweep of short trainings whose workers are killed: nothing may be lost, no memory may grow.

python tests/soak/run.py                         500 trials, a worker killed every 20 s
python tests/soak/run.py --trials 30             a try
python tests/soak/run.py --trials 100 --every 0  without the killer, to compare the pace
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import TrialState

from hydrasweep.output import environment as machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
# A few seconds each, and more than one epoch.
SHORT = ("data.n_train=6000", "data.n_val=2000", "epochs=3", "hydra/sweeper/confirm=none")
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "FINISHED"}
GROWTH = 1.1  # flat memory may differ by this factor between the two halves of the run


class Memory:
    """The memory of processes in MiB, sampled each second."""

    def __init__(self) -> None:
        self.samples: list[float] = []

    def look(self, *processes: psutil.Process) -> None:
        with suppress(psutil.NoSuchProcess, ValueError):
            self.samples.append(max(p.memory_info().rss for p in processes) / 2**20)

    def medians(self) -> list[float]:
        """The medians of the two halves of the run, without its first fifth (the start-up)."""
        begun = self.samples[len(self.samples) // 5 :]
        middle = len(begun) // 2
        return [round(statistics.median(half)) for half in (begun[:middle], begun[middle:])]


def workers_of(sweep: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [p for p in sweep.children() if any("LokyProcess" in w for w in p.cmdline())]
    return []


def soak(root: Path, n_trials: int, every: float, n_workers: int) -> dict[str, Any]:
    """Run the sweep, kill workers and return the figures.

    Raises:
        AssertionError: something was lost or left open, or memory has grown.
    """
    sys.path.insert(0, str(HERE.parent / "mnist"))
    from application import REPOSITORY, environment
    from sweeps import Sweep, assert_whole

    parent, workers, n_kills, chance = Memory(), Memory(), 0, random.Random(0)
    arguments = [
        *(sys.executable, str(REPOSITORY / "src" / "train.py"), "-m", "hparams_search=quick"),
        *("study=soak", f"hydra.sweeper.n_trials={n_trials}", *SHORT),
        *(f"hydra.sweeper.n_workers={n_workers}", f"paths.data={REPOSITORY / 'data'}"),
    ]
    began = last = time.monotonic()
    with (
        (root / "output.txt").open("w") as output,
        subprocess.Popen(arguments, env=environment(root), stdout=output, stderr=output) as process,
    ):
        sweep = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(1)
            alive = workers_of(sweep)
            parent.look(sweep)
            workers.look(*alive)
            if every and alive and time.monotonic() - last >= every:
                with suppress(psutil.NoSuchProcess):
                    chance.choice(alive).kill()
                    n_kills += 1
                last = time.monotonic()
    seconds = time.monotonic() - began
    shown = (root / "output.txt").read_text()
    assert process.returncode == 0, shown[-2000:]
    assert "Traceback" not in shown

    traces = Sweep(root, "soak")
    assert_whole(traces, n_trials)
    trials, (_, children) = traces.trials(), traces.runs()
    ended = {run.info.run_name: run.info.status for run in children}
    for label, trial in trials.items():
        assert ended[label] == STATUS[trial.state]
    trained = sum(trial.duration.total_seconds() for trial in trials.values())
    figures = {
        "trials": dict(Counter(trial.state.name for trial in trials.values())),
        "seconds": round(seconds),
        "trials_per_minute": round(60 * n_trials / seconds, 1),
        "seconds_per_trial": round(trained / n_trials, 2),
        "kills": n_kills,
        "launches": 1 + len(re.findall("A worker was lost", shown)),
        "trials_lost_and_repeated": len(traces.all_trials()) - n_trials,
        "mlflow_children": dict(Counter(ended.values())),
        "parent_mib": parent.medians(),
        "largest_worker_mib": workers.medians(),
        "study_db_mib": round((traces.folder / "study.db").stat().st_size / 2**20, 1),
        "mlflow_db_mib": round((root / "mlflow.db").stat().st_size / 2**20, 1),
    }
    print(json.dumps(figures, indent=1))
    for early, late in (figures["parent_mib"], figures["largest_worker_mib"]):
        assert late <= GROWTH * early, "memory has grown"
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--every", type=float, default=20, help="seconds between two kills")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(Path(folder), given.trials, given.every, given.workers)
    kills = f"a kill every {given.every:g} s" if given.every else "no kills"
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    about = {"date": time.strftime("%Y-%m-%d"), "machine": machine()}
    kept[f"{given.trials} trials, {kills}"] = about | figures
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
