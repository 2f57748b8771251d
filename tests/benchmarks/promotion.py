"""Replay searches that stop or promote, on curves of raw and of averaged weights.

python tests/benchmarks/run.py promotion   replays what pruning_signal.py --record has written

As strategies.py, from whose Gaussian processes the curves come; but workers take trials from the
sweeper's own queue, and a search has 15, 30 or 45 trials from its start on. Shown are the epochs
trained, as a share of all, the time of two workers, and by how many points of accuracy the
settings with the best last epoch are, without the luck, below the best there are: means over
architectures and seeds.
"""

import functools
import heapq
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from optuna.samplers import BaseSampler, GPSampler, QMCSampler
from optuna.trial import TrialState
from pruning_signal import curves as recorded_curves
from strategies import EPOCHS, MARKS, N_WORKERS, PRUNERS, SPACE, Landscape, random, tpe

from hydrasweep.space import as_key
from hydrasweep.stratum import N_TRIALS, Stratum, make_pruner
from hydrasweep.trials import AFTER

N_SEEDS = 20
Outcome = tuple[float, float, float]  # share of epochs, seconds, points lost


@functools.cache
def landscapes(schedule: str, score: str) -> list[Landscape]:
    """One for each architecture."""
    recorded = recorded_curves()

    def as_recorded(name: str, trial: dict[str, Any]) -> dict[str, Any]:
        seconds = recorded["seconds"][name][str(trial["params"]["data.batch_size"])]
        return {"params": trial["params"], "val/accuracy": trial[score], "seconds": seconds}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length scale at its bound: a setting that is no matter
        return [
            Landscape.of([as_recorded(name, trial) for trial in trials])
            for name, trials in recorded[schedule].items()
        ]


@dataclass(frozen=True)
class Strategy:
    """A sampler by its seed, a pruner's file, and the schedule and scores of the curves."""

    sampler: Callable[[int], BaseSampler]
    pruner: str = "none"
    settings: tuple[str, ...] = ()  # of the pruner
    curves: tuple[str, str] = ("onecycle", "mean")
    n_seeds: int = N_SEEDS


HALVING, PROMOTION = "successive_halving", "promotion"
TODAY = ("onecycle", "raw")  # before scores were of averaged weights
CHOSEN = ("linear", "mean")
STRATEGIES = {
    "random, one-cycle, mean": Strategy(random),
    "TPE, one-cycle, raw": Strategy(tpe(), curves=TODAY),
    "TPE, one-cycle, mean": Strategy(tpe()),
    "TPE, linear, mean": Strategy(tpe(), curves=CHOSEN),
    "halving, one-cycle, raw": Strategy(tpe(), HALVING, curves=TODAY),
    "halving, one-cycle, mean": Strategy(tpe(), HALVING),
    "halving, cosine, mean": Strategy(tpe(), HALVING, curves=("cosine", "mean")),
    "halving, linear, mean": Strategy(tpe(), HALVING, curves=CHOSEN),
    "promotion, one-cycle, raw": Strategy(tpe(), PROMOTION, curves=TODAY),
    "promotion, one-cycle, mean": Strategy(tpe(), PROMOTION),
    "promotion, cosine, mean": Strategy(tpe(), PROMOTION, curves=("cosine", "mean")),
    "promotion, linear, mean": Strategy(tpe(), PROMOTION, curves=CHOSEN),
    "promotion, linear, by 2": Strategy(
        tpe(), PROMOTION, settings=("reduction_factor=2",), curves=CHOSEN
    ),
    "promotion, linear, from epoch 3": Strategy(
        tpe(), PROMOTION, settings=("min_resource=3",), curves=CHOSEN
    ),
    "promotion, linear, random": Strategy(random, PROMOTION, curves=CHOSEN),
    "promotion, linear, Sobol": Strategy(
        lambda seed: QMCSampler(scramble=True, seed=seed), PROMOTION, curves=CHOSEN
    ),
    "promotion, linear, no liar": Strategy(tpe(liar=False), PROMOTION, curves=CHOSEN),
    "promotion, linear, univariate": Strategy(tpe(multivariate=False), PROMOTION, curves=CHOSEN),
    "promotion, linear, 10 startup": Strategy(tpe(startup=10), PROMOTION, curves=CHOSEN),
    "promotion, linear, GP": Strategy(
        lambda seed: GPSampler(seed=seed, n_startup_trials=5), PROMOTION, curves=CHOSEN, n_seeds=6
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


def measure() -> list[dict[str, str | float]]:
    jobs = [(name, i, n) for name, s in STRATEGIES.items() for i in range(s.n_seeds) for n in MARKS]
    done = zip(jobs, Parallel(-1)(delayed(plays)(*job) for job in jobs), strict=True)
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
