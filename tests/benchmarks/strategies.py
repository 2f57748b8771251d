"""Replay searches on recorded learning curves: what each takes, and what it leaves unfound.

python tests/benchmarks/run.py strategies              replays tests/benchmarks/curves.json
python tests/benchmarks/strategies.py --record FOLDER  writes that file from an unpruned sweep's

The curves are val/accuracy by epoch of random settings, 60 for each architecture. Between them a
Gaussian process stands for each architecture: its mean for how good settings are, and one of the
60 leave-one-out errors, a whole curve of them, for the luck of a training. Two workers take trials
without waiting, an epoch taking the median time of the recorded ones with the same batch size.
Shown are the epochs trained, as a share of all, the time of the two workers, and by how many
points of accuracy the settings with the best last epoch seen are, without the luck, below the
best settings there are: means over architectures and seeds after 15, 30 and 45 trials.
"""

import argparse
import functools
import heapq
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.utils import instantiate
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import LeaveOneOut, cross_val_predict

import hydrasweep
from mnist.config import TRUSTED

HERE = Path(__file__).resolve().parent
CURVES = HERE / "curves.json"
PRUNERS = Path(hydrasweep.__file__).parent / "conf" / "hydra" / "sweeper" / "pruner"
SIZES = (32, 64, 128, 256)
SPACE = {
    "optimizer.lr": FloatDistribution(3e-4, 3e-2, log=True),
    "model.dropout": FloatDistribution(0.0, 0.5),
    "data.batch_size": CategoricalDistribution(SIZES),
}
MARKS = (15, 30, 45)  # trials of an architecture
N_SEEDS = 30
N_WORKERS = 2
EPOCHS = 9

Params = Mapping[str, Any]
Marks = dict[int, tuple[float, float, float]]  # trials -> share of epochs, seconds, points lost


def record(folder: Path) -> None:
    """Keep the curves of a sweep's complete trials."""
    url, curves = f"sqlite:///{folder}/study.db", {}
    for name in sorted(optuna.get_all_study_names(url)):
        value = name.rpartition("/")[2]
        curves[value] = kept = []
        for trial in optuna.load_study(study_name=name, storage=url).trials:
            if trial.state == TrialState.COMPLETE:
                lines = Path(folder, f"{value}-{trial.number:03d}", "metrics.jsonl").read_text()
                times = [json.loads(line)["time/epoch_seconds"] for line in lines.splitlines()]
                kept.append(
                    {
                        "params": trial.params,
                        "val/accuracy": list(trial.intermediate_values.values()),
                        "seconds": round(statistics.median(times), 3),
                    }
                )
    CURVES.write_text(json.dumps(curves, separators=(",", ":")) + "\n")


def point(params: Params) -> list[float]:
    """Settings as numbers between 0 and 1."""
    return [
        math.log(params["optimizer.lr"] / 3e-4) / math.log(100),
        params["model.dropout"] / 0.5,
        SIZES.index(params["data.batch_size"]) / 3,
    ]


@dataclass
class Landscape:
    """What an architecture does with settings, as its recorded curves have it.

    Errors are kept as logarithms, (n, epochs).
    """

    process: GaussianProcessRegressor
    luck: np.ndarray
    seconds: Mapping[int, float]
    best: float

    @classmethod
    def of(cls, trials: Sequence[Mapping[str, Any]]) -> "Landscape":
        x = np.array([point(trial["params"]) for trial in trials])
        y = np.log(1 - np.array([trial["val/accuracy"] for trial in trials]))
        smooth = RBF([0.5, 1.0, 1.0], length_scale_bounds=(0.2, 10))  # each setting's range is 1
        kernel = ConstantKernel(1.0) * smooth + WhiteKernel(0.01)
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        luck = y - cross_val_predict(process, x, y, cv=LeaveOneOut())
        # Where training diverges the surface is a cliff, which is no luck.
        luck = luck[np.abs(luck[:, -1]) < 3 * np.median(np.abs(luck[:, -1]))]
        process.fit(x, y)
        everywhere = qmc.Sobol(2, rng=0).random(512)
        corners = [[*row, i / 3] for row in everywhere for i in range(len(SIZES))]
        best = 1 - math.exp(process.predict(np.array(corners))[:, -1].min())
        times = {
            size: statistics.median(
                t["seconds"] for t in trials if t["params"]["data.batch_size"] == size
            )
            for size in SIZES
        }
        return cls(process, luck, times, best)

    def mean(self, params: Params) -> np.ndarray:
        """Accuracies by epoch, without luck."""
        return 1 - np.exp(self.process.predict([point(params)])[0])

    def train(self, params: Params, draws: np.random.Generator) -> np.ndarray:
        """Accuracies by epoch of one training."""
        return 1 - (1 - self.mean(params)) * np.exp(draws.choice(self.luck))

    def lost(self, params: Params) -> float:
        """How many points these settings are below the best."""
        return 100 * (self.best - float(self.mean(params)[-1]))


@functools.cache
def landscapes() -> dict[str, Landscape]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound: a setting that is no matter
        recorded = json.loads(CURVES.read_text())
        return {name: Landscape.of(trials) for name, trials in recorded.items()}


@dataclass(frozen=True)
class Strategy:
    """A sampler by its seed, and a pruner's file; ``first`` points of a Sobol sequence."""

    sampler: Callable[[int], BaseSampler]
    pruner: str = "none"
    first: int = 0
    settings: tuple[str, ...] = ()  # of the pruner
    n_seeds: int = N_SEEDS


def tpe(liar: bool = True, startup: int = 5, multivariate: bool = True) -> Callable[[int], Any]:
    return lambda seed: TPESampler(
        n_startup_trials=startup, multivariate=multivariate, constant_liar=liar, seed=seed
    )


def random(seed: int) -> BaseSampler:
    return RandomSampler(seed)


HALVING = "successive_halving"
STRATEGIES = {
    "random": Strategy(random),
    "random, halving": Strategy(random, HALVING),
    "Sobol, halving": Strategy(lambda seed: QMCSampler(scramble=True, seed=seed), HALVING),
    "TPE": Strategy(tpe()),
    "TPE, median": Strategy(tpe(), "median"),
    "TPE, hyperband": Strategy(tpe(), "hyperband"),
    "TPE, halving": Strategy(tpe(), HALVING),
    "TPE, halving by 2": Strategy(tpe(), HALVING, settings=("reduction_factor=2",)),
    "TPE, halving from epoch 3": Strategy(tpe(), HALVING, settings=("min_resource=3",)),
    "TPE, halving, no liar": Strategy(tpe(liar=False), HALVING),
    "TPE, halving, univariate": Strategy(tpe(multivariate=False), HALVING),
    "TPE, halving, 10 startup trials": Strategy(tpe(startup=10), HALVING),
    "TPE after 5 of Sobol, halving": Strategy(tpe(), HALVING, first=5),
    "GP, halving": Strategy(
        lambda seed: GPSampler(seed=seed, n_startup_trials=5), HALVING, n_seeds=6
    ),  # takes a hundred times as long as TPE
}
TOP = {
    "an epoch for all, the best 2 to the end": 2,
    "an epoch for all, the best 5 to the end": 5,
}


def new_study(strategy: Strategy, seed: int) -> optuna.Study:
    cfg = OmegaConf.create({"epochs": EPOCHS})
    cfg.pruner = OmegaConf.load(PRUNERS / f"{strategy.pruner}.yaml")
    cfg.pruner.merge_with_dotlist(list(strategy.settings))
    pruner = instantiate(cfg.pruner, _execution_whitelist_=TRUSTED)
    study = optuna.create_study(direction="maximize", sampler=strategy.sampler(seed), pruner=pruner)
    for lr, dropout, size in qmc.Sobol(3, rng=seed).random(8)[: strategy.first]:
        study.enqueue_trial(
            {
                "optimizer.lr": 3e-4 * 100**lr,
                "model.dropout": dropout / 2,
                "data.batch_size": SIZES[int(4 * size)],
            }
        )
    return study


def play(strategy: Strategy, land: Landscape, seed: int) -> Marks:
    """Two workers at as many trials as the last mark says."""
    study, draws = new_study(strategy, seed), np.random.default_rng(seed)
    n_epochs, marks = 0, {}
    at_work: dict[int, tuple[optuna.Trial, np.ndarray, int]] = {}
    clock = [(0.0, worker) for worker in range(N_WORKERS)]
    n_begun = n_ended = 0
    while clock:
        now, worker = heapq.heappop(clock)
        if worker in at_work:
            trial, curve, epoch = at_work.pop(worker)
            n_epochs, epoch = n_epochs + 1, epoch + 1
            trial.report(curve[epoch - 1], epoch)
            if epoch < EPOCHS and not trial.should_prune():
                at_work[worker] = trial, curve, epoch
            elif epoch < EPOCHS:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, curve[-1])
            n_ended += worker not in at_work
            if worker not in at_work and n_ended in MARKS:
                lost = land.lost(study.best_trial.params)
                marks[n_ended] = n_epochs / (EPOCHS * n_ended), now, lost
        if worker not in at_work:
            if n_begun == MARKS[-1]:
                continue
            trial = study.ask(SPACE)
            at_work[worker] = trial, land.train(trial.params, draws), 0
            n_begun += 1
        size = at_work[worker][0].params["data.batch_size"]
        heapq.heappush(clock, (now + land.seconds[size], worker))
    return marks


def play_top(top: int, land: Landscape, seed: int) -> Marks:
    """Random settings have one epoch each; the ``top`` go on to the end."""
    marks, draws = {}, np.random.default_rng(seed)
    study = optuna.create_study(sampler=RandomSampler(seed))
    params = [study.ask(SPACE).params for _ in range(MARKS[-1])]
    curves = [land.train(chosen, draws) for chosen in params]
    for n in MARKS:
        best = sorted(range(n), key=lambda i: -curves[i][0])[:top]
        seconds = [land.seconds[p["data.batch_size"]] for p in params[:n]]
        work = sum(seconds) + (EPOCHS - 1) * sum(seconds[i] for i in best)
        share = (n + (EPOCHS - 1) * top) / (EPOCHS * n)
        winner = max(best, key=lambda i: curves[i][-1])
        marks[n] = share, work / N_WORKERS, land.lost(params[winner])
    return marks


def plays(name: str, seed: int) -> list[Marks]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    lands = landscapes().values()
    if name in TOP:
        return [play_top(TOP[name], land, seed) for land in lands]
    return [play(STRATEGIES[name], land, seed) for land in lands]


def measure() -> list[dict[str, str | float]]:
    n_seeds = {name: s.n_seeds for name, s in STRATEGIES.items()} | dict.fromkeys(TOP, N_SEEDS)
    jobs = [(name, seed) for name, n in n_seeds.items() for seed in range(n)]
    done = zip(jobs, Parallel(-1)(delayed(plays)(*job) for job in jobs), strict=True)
    kept: dict[str, list[Marks]] = {name: [] for name in n_seeds}
    for (name, _), marks in done:
        kept[name] += marks
    rows = []
    for name, marks in kept.items():
        row: dict[str, str | float] = {"strategy": name}
        for n in MARKS:
            shares, seconds, lost = map(statistics.mean, zip(*(m[n] for m in marks), strict=True))
            row |= {f"{n}: epochs, %": 100 * shares, f"{n}: s": seconds, f"{n}: lost": lost}
        row["± at 15"] = statistics.stdev(m[15][2] for m in marks) / len(marks) ** 0.5
        rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, required=True, help="an unpruned sweep's folder")
    record(parser.parse_args().record)
