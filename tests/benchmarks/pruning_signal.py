"""How well a trial's score at a rung predicts the score at its end.

python tests/benchmarks/run.py signal               reads tests/benchmarks/signal.json
python tests/benchmarks/pruning_signal.py --record  trains what is missing there, an hour for all
python tests/benchmarks/pruning_signal.py FOLDER    reads an unpruned sweep of any app

Kendall's tau between the score after a step and after the last is 1 if both rank the settings
alike, and 0 if one says nothing about the other. The overlap is the share of the best third after
a step that is in the best third after the last: what halving by three keeps. The curves are those
of the same 48 settings for each architecture and schedule, on 6,000 images, scored after every
epoch with the raw weights and with the averaged ones in one training.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from common import SMALLEST, Rows, job, size
from joblib import Parallel, delayed
from optuna.study import StudyDirection
from optuna.trial import TrialState
from rich.console import Console
from run import as_table
from scipy.stats import kendalltau, qmc

from mnist.averaging import WeightAverage
from mnist.training import NonFiniteLossError, evaluate, fit

CURVES = Path(__file__).with_name("signal.json")
MODELS = size(("baseline", "cnn", "lenet5"), ("lenet5",))
SCHEDULES, SCORES = size(("onecycle", "linear", "cosine"), ("linear",)), ("raw", "mean")
N_SETTINGS, EPOCHS, RUNGS = size(48, 2), 9, (1, 3)
PART = (f"data.n_train={size(6000, 300)}", "data.n_val=5000", f"epochs={EPOCHS}", "n_threads=1")
SIZES = (32, 64, 128, 256)


def settings() -> list[dict[str, float]]:
    """Points of the default sweep's space."""
    points = qmc.Sobol(3, rng=0).random(64)[:N_SETTINGS]
    return [
        {
            "optimizer.lr": 3e-4 * 100 ** float(lr),
            "model.dropout": float(dropout) / 2,
            "data.batch_size": SIZES[int(4 * size)],
        }
        for lr, dropout, size in points
    ]


def train(model: str, schedule: str, params: dict[str, float]) -> dict[str, object]:
    """A training's scores after each epoch, of raw and of averaged weights."""
    torch.set_num_threads(1)
    words = [f"{key}={value}" for key, value in params.items()]
    parts = job(f"model={model}", f"scheduler={schedule}", *PART, *words)
    training = parts.training
    raw: list[float] = []
    mean: list[float] = []
    try:
        size = int(params["data.batch_size"])
        for metrics in fit(training, parts.train, parts.val, epochs=EPOCHS, batch_size=size):
            mean.append(round(metrics["val/accuracy"], 4))
            average, training.average = training.average, WeightAverage(training.model, 0)
            raw.append(round(evaluate("val", training, parts.val)["val/accuracy"], 4))
            training.average = average
    except NonFiniteLossError:
        pass
    return {"params": params, "raw": raw, "mean": mean}


def epoch_seconds(model: str, size: int) -> float:
    """The shortest of three epochs on one core."""
    parts = job(f"model={model}", *PART, f"data.batch_size={size}")
    epochs = fit(parts.training, parts.train, parts.val, epochs=3, batch_size=size)
    return round(min(epoch["time/epoch_seconds"] for epoch in epochs), 3)


def record() -> None:
    """Train what is not recorded yet, one architecture and schedule after another."""
    kept: dict[str, Any] = (
        json.loads(CURVES.read_text()) if CURVES.exists() and not SMALLEST else {}
    )
    kept.setdefault("seconds", {m: {s: epoch_seconds(m, s) for s in SIZES} for m in MODELS})
    for schedule in SCHEDULES:
        for model in MODELS:
            if model in kept.setdefault(schedule, {}):
                continue
            jobs = (delayed(train)(model, schedule, params) for params in settings())
            done = Parallel(size(2, 1))(jobs)
            # Trainings that diverged have no curve.
            kept[schedule][model] = [curve for curve in done if len(curve["raw"]) == EPOCHS]
            if not SMALLEST:
                CURVES.write_text(json.dumps(kept, separators=(",", ":")) + "\n")
            print(schedule, model, flush=True)


def tau(curves: Sequence[Sequence[float]], step: int) -> float:
    """Kendall's tau between the score after a step, from 1 on, and the last."""
    early, last = [curve[step - 1] for curve in curves], [curve[-1] for curve in curves]
    return float(kendalltau(early, last).statistic)


def overlap(curves: Sequence[Sequence[float]], step: int) -> float:
    """The share of the best third after a step that is in the best third at the end."""
    n = max(1, len(curves) // 3)
    early, last = (
        set(sorted(range(len(curves)), key=lambda i: curves[i][k])[-n:]) for k in (step - 1, -1)
    )
    return len(early & last) / n


def curves() -> dict[str, Any]:
    """What was recorded."""
    if not CURVES.exists():
        raise SystemExit(f"{CURVES.name} is not there: {Path(__file__).name} --record makes it")
    return json.loads(CURVES.read_text())


def measure() -> Rows:
    recorded, rows = curves(), []
    for schedule in SCHEDULES:
        for score in SCORES:
            for model, trials in recorded.get(schedule, {}).items():
                scored = [trial[score] for trial in trials]
                row: dict[str, str | float] = {"schedule, weights": f"{schedule}, {score}"}
                row |= {"model": model, "settings": len(scored)}
                for rung in RUNGS:
                    row |= {f"tau at {rung}": tau(scored, rung)}
                    row |= {f"top third at {rung}": overlap(scored, rung)}
                best = sorted(curve[-1] for curve in scored)[-5:]
                row |= {"best five, %": 100 * statistics.mean(best)}
                rows.append(row)
    return rows


def of_sweep(folder: Path) -> Rows:
    """The same of each study of a sweep whose trials were not pruned."""
    url, rows = f"sqlite:///{folder}/study.db", []
    for name in optuna.get_all_study_names(url):
        study = optuna.load_study(study_name=name, storage=url)
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        trials = [t for t in study.trials if t.state == TrialState.COMPLETE]
        n_steps = max((t.last_step or 0 for t in trials), default=0)
        curves = [
            [sign * t.intermediate_values[step] for step in sorted(t.intermediate_values)]
            for t in trials
            if t.last_step == n_steps
        ]
        if len(curves) < 3:
            continue
        for step in range(1, len(curves[0])):
            row: dict[str, str | float] = {"study": name, "step": step, "settings": len(curves)}
            rows.append(row | {"tau": tau(curves, step), "top third": overlap(curves, step)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="an unpruned sweep's")
    parser.add_argument("--record", action="store_true", help="train the curves anew")
    given = parser.parse_args()
    if given.record:
        record()
    rows = of_sweep(given.folder) if given.folder else measure()
    if not rows:
        parser.error(f"{given.folder}: no three complete trials that report several steps")
    Console().print(as_table("signal", rows))


if __name__ == "__main__":
    main()
