"""Replay recorded learning curves through Optuna's pruners: what each saves and what it loses.

python tests/benchmarks/run.py pruners                replays tests/benchmarks/curves.json
python tests/benchmarks/pruners.py --record STUDY.DB  writes that file from an unpruned sweep

The curves are val/accuracy by epoch of random settings, the same number for each
architecture. A replay lets the trials of one architecture come one after another in a random
order; shown are the share of the epochs that was trained, and how far the best trial left is
below the best of all, in points of accuracy: mean and 95 % quantile over the replays.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

import optuna
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hydrasweep.config import TRUSTED

HERE = Path(__file__).resolve().parent
CURVES = HERE / "curves.json"
PRUNERS = HERE.parents[1] / "conf" / "hydra" / "sweeper" / "pruner"
N_REPLAYS = 100


def record(database: Path) -> None:
    """Keep the curves of the complete trials of every study in an SQLite file."""
    url = f"sqlite:///{database}"
    curves = {
        name.rpartition("/")[2]: [
            {"params": trial.params, "val/accuracy": [*trial.intermediate_values.values()]}
            for trial in optuna.load_study(study_name=name, storage=url).trials
            if trial.state == optuna.trial.TrialState.COMPLETE
        ]
        for name in optuna.get_all_study_names(url)
    }
    CURVES.write_text(json.dumps(curves, indent=None, separators=(",", ":")) + "\n")


def pruner_of(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner that ``hydra/sweeper/pruner=name`` makes for trainings of so many epochs."""
    cfg = OmegaConf.create({"epochs": epochs, "pruner": OmegaConf.load(PRUNERS / f"{name}.yaml")})
    return instantiate(cfg.pruner, _execution_whitelist_=TRUSTED)


def replay(curves: list[list[float]], pruner: optuna.pruners.BasePruner) -> tuple[float, float]:
    """The share of epochs trained, and the points lost."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    n_epochs, best = 0, 0.0
    for curve in curves:
        trial = study.ask()
        for epoch, value in enumerate(curve, start=1):
            n_epochs += 1
            trial.report(value, epoch)
            if epoch < len(curve) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            best = max(best, curve[-1])
            study.tell(trial, curve[-1])
    return n_epochs / sum(map(len, curves)), 100 * (max(c[-1] for c in curves) - best)


def replays(name: str) -> dict[str, list[tuple[float, float]]]:
    """What ``replay`` gives for random orders of each architecture's curves."""
    results = {}
    for architecture, trials in json.loads(CURVES.read_text()).items():
        accuracies = [trial["val/accuracy"] for trial in trials]
        pruner, draws = pruner_of(name, len(accuracies[0])), random.Random(0)
        results[architecture] = [
            replay(draws.sample(accuracies, len(accuracies)), pruner) for _ in range(N_REPLAYS)
        ]
    return results


def summary(name: str) -> dict[str, str | float]:
    results = replays(name)
    together = [row for rows in results.values() for row in rows]
    lost = sorted(points for _, points in together)
    return {
        "pruner": name,
        "epochs trained, %": 100 * statistics.mean(share for share, _ in together),
        "points lost, mean": statistics.mean(lost),
        "95 % quantile": lost[int(0.95 * len(lost))],
        **{
            f"mean, {architecture}": statistics.mean(points for _, points in rows)
            for architecture, rows in results.items()
        },
    }


def measure() -> list[dict[str, str | float]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return [summary(name) for name in sorted(path.stem for path in PRUNERS.glob("*.yaml"))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, required=True, help="an unpruned sweep's study.db")
    record(parser.parse_args().record)
