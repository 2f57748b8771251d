"""What a trial costs besides its training, two workers on SQLite stores: seconds.

The difference between a sweep of many and one of few trials, for each trial more. One more
trial delays the end of a sweep by half of what its worker is busy with it.
"""

import statistics
import tempfile
from pathlib import Path

from common import job, python, seconds

from hydrasweep.training import fit

N_ROUNDS = 3
N_FEW, N_MANY = 20, 120
N_WORKERS = 2
BARE = ("hydra.sweeper.check=null", "confirm=none", "hydra.sweeper.report=false")
# Without images to train on or to evaluate, what is left is not training.
NO_TRAINING = (*BARE, "epochs=0", "objective=n_parameters", "data.n_train=100", "data.n_val=0")
# Each epoch is reported, written and logged; none is the last by a pruner's verdict.
ONE_BATCH = (*BARE, "epochs=5", "data.n_train=32", "data.n_val=10", "hydra/sweeper/pruner=none")


def sweep(n_trials: int, *settings: str) -> None:
    """A sweep with stores of its own."""
    with tempfile.TemporaryDirectory() as folder:
        python(
            "src/train.py", "-m", "hparams_search=optuna", f"hydra.sweeper.n_trials={n_trials}",
            f"hydra.sweeper.n_workers={N_WORKERS}", *settings, store=Path(folder),
        )  # fmt: skip


def marginal(*settings: str) -> float:
    """Seconds by which a trial more lengthens a sweep."""
    each = [
        seconds(lambda: sweep(N_MANY, *settings)) - seconds(lambda: sweep(N_FEW, *settings))
        for _ in range(N_ROUNDS)
    ]
    return statistics.median(each) / (N_MANY - N_FEW)


def lenet5() -> float:
    """Seconds of training of a worker's five-epoch LeNet5 trial, from an epoch on some images."""
    ours = job("model=lenet5", "data.n_train=10000", "data.n_val=2000", "n_threads=1")
    epochs = list(fit(ours.training, ours.train, ours.val, epochs=2, batch_size=64))
    return 5 * 5 * epochs[-1]["time/epoch_seconds"]  # 50,000 and 10,000 images


def measure() -> list[dict[str, str | float]]:
    training = lenet5()
    costs = {"no epochs": marginal(*NO_TRAINING), "five of one batch": marginal(*ONE_BATCH)}
    return [
        {
            "trial": trial,
            "sweep, s a trial": cost,
            "worker, s a trial": N_WORKERS * cost,
            "of a LeNet5 trial, %": 100 * N_WORKERS * cost / training,
        }
        for trial, cost in costs.items()
    ]
