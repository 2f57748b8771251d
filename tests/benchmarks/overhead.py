"""What a trial costs besides its training, two workers on SQLite stores: seconds.

A trial more lengthens a sweep by the mean time between the starts of two trials, the first ones
left out, in which workers start too. Its worker is busy with it for twice as long.
"""

import statistics
import tempfile
from datetime import datetime
from pathlib import Path

import optuna
from common import job, python

from mnist.training import fit

N_ROUNDS = 3
N_FIRST, N_TRIALS = 20, 80
N_WORKERS = 2
BARE = ("hydra.sweeper.check=null", "hydra/sweeper/confirm=none", "hydra.sweeper.report=false")
# Without images to train on or to evaluate, what is left is not training.
NO_TRAINING = (*BARE, "epochs=0", "objective=n_parameters", "data.n_train=100", "data.n_val=0")
# Each epoch is reported, written and logged; none is the last by a pruner's verdict.
ONE_BATCH = (*BARE, "epochs=5", "data.n_train=32", "data.n_val=10", "hydra/sweeper/pruner=none")


def starts_of_trials(n_trials: int, *settings: str) -> list[datetime]:
    """When the trials of a sweep with stores of its own began."""
    with tempfile.TemporaryDirectory() as folder:
        python(
            "src/train.py", "-m", "hparams_search=optuna", f"hydra.sweeper.n_trials={n_trials}",
            f"hydra.sweeper.n_workers={N_WORKERS}", "study=overhead", *settings,
            store=Path(folder),
        )  # fmt: skip
        url = f"sqlite:///{folder}/sweeps/overhead/study.db"
        return sorted(
            trial.datetime_start
            for name in optuna.get_all_study_names(url)
            for trial in optuna.load_study(study_name=name, storage=url).trials
        )


def cost(*settings: str) -> float:
    """Seconds from one trial's start to the next one's."""
    rounds = [starts_of_trials(N_TRIALS, *settings)[N_FIRST:] for _ in range(N_ROUNDS)]
    return statistics.median(
        (starts[-1] - starts[0]).total_seconds() / (len(starts) - 1) for starts in rounds
    )


def lenet5() -> float:
    """Seconds of training of a worker's five-epoch LeNet5 trial, from an epoch on some images."""
    ours = job("model=lenet5", "data.n_train=10000", "data.n_val=2000", "n_threads=1")
    epochs = list(fit(ours.training, ours.train, ours.val, epochs=2, batch_size=64))
    return 5 * 5 * epochs[-1]["time/epoch_seconds"]  # 50,000 and 10,000 images


def measure() -> list[dict[str, str | float]]:
    training = lenet5()
    costs = {"no epochs": cost(*NO_TRAINING), "five of one batch": cost(*ONE_BATCH)}
    return [
        {
            "trial": trial,
            "sweep, s a trial": seconds,
            "worker, s a trial": N_WORKERS * seconds,
            "of a LeNet5 trial, %": 100 * N_WORKERS * seconds / training,
        }
        for trial, seconds in costs.items()
    ]
