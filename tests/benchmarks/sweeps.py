"""Whole sweeps on the same space, images, epochs and number of trials, from command to end.

Against an Optuna script (optuna_script.py) and against hydra-optuna-sweeper as it comes, with the
joblib launcher and n_jobs=2. The sides take turns, sweep seed by sweep seed.
sweeps.png shows the best validation accuracy so far against the time since the command. Equal
accuracy is what every side has at its end with the same seed, less 0.1 point.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from common import HERE, SMALLEST, Rows, machine, python, ratio, size
from matplotlib.figure import Figure

from hydrasweep.stratum import RESUMES

N_TRIALS, SEEDS, EPOCHS = size((30, (0, 1, 2), 9), (3, (0,), 1))
PART = size(("data.n_train=6000", "data.n_val=5000"), ("data.n_train=600", "data.n_val=200"))
PART += (f"epochs={EPOCHS}",)
SPACE = (
    "model=choice(baseline,cnn,lenet5)",
    "optimizer.lr=tag(log, interval(3e-4, 3e-2))",
    "model.dropout=interval(0.0, 0.5)",
    "data.batch_size=choice(32,64,128,256)",
)
TICKS = (30, 50, 100, 200, 500, 1000)
Curve = list[tuple[float, float]]  # seconds since the command, best validation accuracy so far


def hydrasweep(folder: Path, seed: int) -> None:
    python(
        "src/train.py", "-m", "hparams_search=optuna", "study=benchmark", *PART,
        f"hydra.sweeper.n_trials={N_TRIALS}", f"hydra.sweeper.sampler.seed={seed}",
        "hydra/sweeper/confirm=none", "hydra.sweeper.report=false",
        *size((), ("hydra.sweeper.n_workers=1",)), store=folder,
    )  # fmt: skip


def script(folder: Path, seed: int) -> None:
    python("tests/benchmarks/optuna_script.py", str(folder), str(N_TRIALS), str(seed))


def stock(folder: Path, seed: int) -> None:
    python(
        "src/train.py", "-m", "hydra/sweeper=optuna",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2",
        f"hydra.sweeper.n_trials={N_TRIALS}", f"hydra.sweeper.sampler.seed={seed}",
        "hydra.sweeper.direction=maximize", f"hydra.sweeper.storage=sqlite:///{folder}/study.db",
        "hydra.sweeper.study_name=benchmark", "n_threads=1", "artifacts=false",
        "checkpoint=false", *PART, *SPACE, store=folder,
    )  # fmt: skip


SIDES: dict[str, Callable[[Path, int], None]] = {
    "hydrasweep": hydrasweep,
    "Optuna script": script,
    "hydra-optuna-sweeper": stock,
}


def run_side(side: str, seed: int) -> tuple[float, Curve]:
    """The seconds of a sweep from its command to its end, and how its best rose."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        SIDES[side](Path(folder), seed)
        seconds = time.time() - began
        (database,) = Path(folder).rglob("study.db")
        url = f"sqlite:///{database}"
        trials = [
            trial
            for name in optuna.get_all_study_names(url)
            for trial in optuna.load_study(study_name=name, storage=url).trials
        ]
    n_settings = sum(RESUMES not in trial.user_attrs for trial in trials)
    assert n_settings == N_TRIALS, f"{side}: {n_settings} trials"
    done = sorted(
        (trial.datetime_complete.timestamp() - began, trial.value)
        for trial in trials
        if trial.state == optuna.trial.TrialState.COMPLETE
    )
    return seconds, [(at, max(v for _, v in done[: i + 1])) for i, (at, _) in enumerate(done)]


def draw(runs: Sequence[Mapping[str, Any]]) -> None:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        at, best = zip(*run["curve"], strict=True)
        label = run["side"] if run["seed"] == SEEDS[0] else None
        color = f"C{[*SIDES].index(run['side'])}"
        axes.step(at, [100 * b for b in best], where="post", color=color, label=label)
    axes.set(xscale="log", xlabel="seconds since the command")
    axes.set_xticks(TICKS, list(map(str, TICKS)))
    axes.minorticks_off()
    axes.set_ylabel("best validation accuracy so far, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(HERE / "sweeps.png", dpi=110)


def measure() -> Rows:
    cpu, runs = str(machine()["cpu"]), []
    for seed in SEEDS:
        for side in SIDES:
            took, curve = run_side(side, seed)
            print(f"seed {seed}: {side} {took:.0f} s, best {curve[-1][1]:.2%}", flush=True)
            new = {"side": side, "seed": seed, "cpu": cpu, "seconds": round(took, 1)}
            runs.append(new | {"curve": [(round(at, 1), best) for at, best in curve]})
    if not SMALLEST:
        (HERE / "sweeps.json").write_text(json.dumps(runs) + "\n")
        draw(runs)
    return rows(runs)


def rows(runs: Sequence[Mapping[str, Any]]) -> Rows:
    of = {side: [run for run in runs if run["side"] == side] for side in SIDES}
    ends = zip(*([run["curve"][-1][1] for run in each] for each in of.values()), strict=True)
    targets = [min(end) - 0.001 for end in ends]
    seconds = {side: [run["seconds"] for run in each] for side, each in of.items()}
    reached = {
        side: [
            next(at for at, best in run["curve"] if best >= target)
            for run, target in zip(each, targets, strict=True)
        ]
        for side, each in of.items()
    }
    return [
        {
            "sweep": side,
            "seconds": statistics.median(seconds[side]),
            "times ours": ratio(seconds[side], seconds["hydrasweep"]),
            "best on validation, %, mean": 100
            * statistics.mean(run["curve"][-1][1] for run in of[side]),
            "seconds to equal accuracy": statistics.median(reached[side]),
            "times ours to it": ratio(reached[side], reached["hydrasweep"]),
        }
        for side in SIDES
    ]
