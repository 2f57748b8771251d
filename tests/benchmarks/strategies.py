"""Replay searches on recorded learning curves: what each takes, and what it leaves unfound.

python tests/benchmarks/run.py strategies   replays what pruning_signal.py --record has written

The curves are val/accuracy by epoch of 48 settings for each architecture, schedule and kind of
score. Between them a Gaussian process stands for each architecture: its mean for how good settings
are, and one of the leave-one-out errors, a whole curve of them, for the luck of a training. Two
workers take trials from the sweeper's own queue, an epoch taking as long as it was measured to
take. A search has 15, 30 or 45 trials from its start on. Shown are the epochs trained, as a share
of all, the time of two workers, and by how many points of accuracy the settings with the best last
epoch are, without the luck, below the best there are: means over architectures and seeds.
"""

import functools
import heapq
import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from common import Rows, size
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from pruning_signal import EPOCHS, SIZES
from pruning_signal import curves as recorded_curves
from scipy.stats import qmc
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import LeaveOneOut, cross_val_predict

import hydrasweep
from hydrasweep.space import as_key
from hydrasweep.stratum import N_TRIALS, Stratum, make_pruner
from hydrasweep.trials import AFTER

PRUNERS = Path(hydrasweep.__file__).parent / "conf" / "hydra" / "sweeper" / "pruner"
SPACE = {
    "optimizer.lr": FloatDistribution(3e-4, 3e-2, log=True),
    "model.dropout": FloatDistribution(0.0, 0.5),
    "data.batch_size": CategoricalDistribution(SIZES),
}
MARKS = size((15, 30, 45), (6,))  # trials of an architecture
N_SEEDS = size(20, 1)
N_WORKERS = 2

Params = Mapping[str, Any]
Outcome = tuple[float, float, float]  # share of epochs, seconds, points lost


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
    def of(
        cls, trials: Sequence[Mapping[str, Any]], score: str, seconds: Mapping[str, float]
    ) -> "Landscape":
        x = np.array([point(trial["params"]) for trial in trials])
        y = np.log(1 - np.array([trial[score] for trial in trials]))
        smooth = RBF([0.5, 1.0, 1.0], length_scale_bounds=(0.2, 10))  # each setting's range is 1
        kernel = ConstantKernel(1.0) * smooth + WhiteKernel(0.01)
        optimizer = size("fmin_l_bfgs_b", None)
        process = GaussianProcessRegressor(
            kernel, normalize_y=True, random_state=0, optimizer=optimizer
        )
        luck = y - cross_val_predict(process, x, y, cv=LeaveOneOut())
        # Where training diverges the surface is a cliff, which is no luck.
        luck = luck[np.abs(luck[:, -1]) < 3 * np.median(np.abs(luck[:, -1]))]
        process.fit(x, y)
        everywhere = qmc.Sobol(2, rng=0).random(512)
        corners = [[*row, i / 3] for row in everywhere for i in range(len(SIZES))]
        best = 1 - math.exp(process.predict(np.array(corners))[:, -1].min())
        times = {size: seconds[str(size)] for size in SIZES}
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
def landscapes(schedule: str, score: str) -> list[Landscape]:
    """One for each architecture."""
    recorded = recorded_curves()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound: a setting that is no matter
        return [
            Landscape.of(trials[:: size(1, 6)], score, recorded["seconds"][name])
            for name, trials in recorded[schedule].items()
        ]


def tpe(liar: bool = True, startup: int = 5, multivariate: bool = True) -> Callable[[int], Any]:
    return lambda seed: TPESampler(
        n_startup_trials=startup, multivariate=multivariate, constant_liar=liar, seed=seed
    )


def random(seed: int) -> BaseSampler:
    return RandomSampler(seed)


@dataclass(frozen=True)
class Strategy:
    """A sampler by its seed, a pruner's file, and the schedule and scores of the curves."""

    sampler: Callable[[int], BaseSampler]
    pruner: str = "none"
    settings: tuple[str, ...] = ()  # of the pruner
    curves: tuple[str, str] = ("linear", "mean")
    n_seeds: int = N_SEEDS


HALVING, PROMOTION = "successive_halving", "promotion"
BEFORE = ("onecycle", "raw")  # the defaults before scores were of averaged weights
STRATEGIES = {
    "random": Strategy(random),
    "TPE": Strategy(tpe()),
    "TPE, one-cycle, raw": Strategy(tpe(), curves=BEFORE),
    "TPE, median": Strategy(tpe(), "median"),
    "TPE, hyperband": Strategy(tpe(), "hyperband"),
    "halving, one-cycle, raw": Strategy(tpe(), HALVING, curves=BEFORE),
    "halving, one-cycle": Strategy(tpe(), HALVING, curves=("onecycle", "mean")),
    "halving, cosine": Strategy(tpe(), HALVING, curves=("cosine", "mean")),
    "halving, linear, raw": Strategy(tpe(), HALVING, curves=("linear", "raw")),
    "halving": Strategy(tpe(), HALVING),
    "promotion, one-cycle, raw": Strategy(tpe(), PROMOTION, curves=BEFORE),
    "promotion, one-cycle": Strategy(tpe(), PROMOTION, curves=("onecycle", "mean")),
    "promotion, cosine": Strategy(tpe(), PROMOTION, curves=("cosine", "mean")),
    "promotion, linear, raw": Strategy(tpe(), PROMOTION, curves=("linear", "raw")),
    "promotion": Strategy(tpe(), PROMOTION),
    "promotion by 2": Strategy(tpe(), PROMOTION, ("reduction_factor=2",)),
    "promotion by 4": Strategy(tpe(), PROMOTION, ("reduction_factor=4",)),
    "promotion from epoch 3": Strategy(tpe(), PROMOTION, ("min_resource=3",)),
    "promotion, random": Strategy(random, PROMOTION),
    "promotion, Sobol": Strategy(lambda seed: QMCSampler(scramble=True, seed=seed), PROMOTION),
    "promotion, no liar": Strategy(tpe(liar=False), PROMOTION),
    "promotion, univariate": Strategy(tpe(multivariate=False), PROMOTION),
    "promotion, 3 startup trials": Strategy(tpe(startup=3), PROMOTION),
    "promotion, 10 startup trials": Strategy(tpe(startup=10), PROMOTION),
    "promotion, GP": Strategy(
        lambda seed: GPSampler(seed=seed, n_startup_trials=5), PROMOTION, n_seeds=size(6, 1)
    ),  # takes a hundred times as long as TPE
}


def new_stratum(strategy: Strategy, seed: int, n_trials: int) -> Stratum:
    cfg = OmegaConf.load(PRUNERS / f"{strategy.pruner}.yaml")
    if "max_resource" in cfg:
        cfg.max_resource = EPOCHS
    cfg.merge_with_dotlist(list(strategy.settings))
    pruner = make_pruner(cfg, resumable=True)
    study = optuna.create_study(direction="maximize", sampler=strategy.sampler(seed), pruner=pruner)
    study.set_user_attr(N_TRIALS, n_trials)
    return Stratum("", study)


def play(strategy: Strategy, land: Landscape, seed: int, n_trials: int) -> Outcome:
    """Two workers at so many trials."""
    stratum, draws = new_stratum(strategy, seed, n_trials), np.random.default_rng(seed)
    curves: dict[str, np.ndarray] = {}
    at_work: dict[int, tuple[optuna.Trial, int]] = {}
    clock = [(0.0, worker) for worker in range(N_WORKERS)]
    n_epochs, now = 0, 0.0
    while clock:
        now, worker = heapq.heappop(clock)
        if worker in at_work:
            trial, epoch = at_work.pop(worker)
            n_epochs, epoch = n_epochs + 1, epoch + 1
            value = curves[as_key(trial.params)][epoch - 1]
            trial.report(value, epoch)
            if epoch == EPOCHS:
                stratum.study.tell(trial, value)
            elif trial.should_prune():
                stratum.study.tell(trial, state=TrialState.PRUNED)
            else:
                at_work[worker] = trial, epoch
        if worker not in at_work:
            taken = stratum.ask(SPACE, stratum.trials())
            if taken is None:
                if clock and at_work:  # another's trial may be promoted later
                    heapq.heappush(clock, (clock[0][0] + 1e-6, worker))
                continue
            at_work[worker] = taken, taken.user_attrs.get(AFTER, 0)
            curves.setdefault(as_key(taken.params), land.train(taken.params, draws))
        size = at_work[worker][0].params["data.batch_size"]
        heapq.heappush(clock, (now + land.seconds[size], worker))
    lost = land.lost(stratum.study.best_trial.params)
    return n_epochs / (EPOCHS * n_trials), now, lost


def plays(name: str, seed: int, n_trials: int) -> list[Outcome]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    strategy = STRATEGIES[name]
    return [play(strategy, land, seed, n_trials) for land in landscapes(*strategy.curves)]


def measure() -> Rows:
    jobs = [(name, i, n) for name, s in STRATEGIES.items() for i in range(s.n_seeds) for n in MARKS]
    done = zip(jobs, Parallel(size(-1, 1))(delayed(plays)(*job) for job in jobs), strict=True)
    kept: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    for (name, _, n), outcomes in done:
        kept[name, n] += outcomes
    rows = []
    for name in STRATEGIES:
        row: dict[str, str | float] = {"strategy": name}
        for n in MARKS:
            shares, seconds, lost = map(statistics.mean, zip(*kept[name, n], strict=True))
            row |= {f"{n}: epochs, %": 100 * shares, f"{n}: s": seconds, f"{n}: lost": lost}
        at_15 = [lost for _, _, lost in kept[name, MARKS[0]]]
        row["± at 15"] = statistics.stdev(at_15) / len(at_15) ** 0.5
        rows.append(row)
    return rows
