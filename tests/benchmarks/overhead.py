"""What a trial costs besides its training, two workers on SQLite stores: seconds.

One more trial lengthens a sweep by the mean time between the starts of two trials. The first
trials are left out, as workers are still starting then. A trial keeps its worker busy for twice
as long.
"""

import statistics
import tempfile
from datetime import datetime
from pathlib import Path

import optuna
from common import N_TRAIN, Rows, job, python, size

from mnist.training import fit

N_ROUNDS = size(3, 1)
N_FIRST, N_TRIALS = size((20, 80), (1, 4))
N_WORKERS = size(2, 1)
BARE = ("hydra.sweeper.check=null", "hydra/sweeper/confirm=none", "hydra.sweeper.report=false")
# Without images to train on or to evaluate, what is left is not training.
NO_TRAINING = (*BARE, "epochs=0", "hydra.sweeper.max_steps=null", "objective=n_parameters",
               "data.n_train=100", "data.n_val=0")  # fmt: skip
# Each epoch is reported, written and logged, and no trial is pruned.
ONE_BATCH = (*BARE, "epochs=5", "data.n_train=32", "data.n_val=10", "hydra/sweeper/pruner=none")


def starts_of_trials(n_trials: int, *settings: str) -> list[datetime]:
    """When the trials of a sweep with stores of its own started."""
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
    """Seconds that a worker trains a LeNet5 for five epochs, from the time of one on a part."""
    ours = job("model=lenet5", f"data.n_train={N_TRAIN}", "data.n_val=2000", "n_threads=1")
    epochs = list(fit(ours.training, ours.train, ours.val, epochs=2, batch_size=64))
    return 5 * 60_000 / (N_TRAIN + 2000) * epochs[-1]["time/epoch_seconds"]


def measure() -> Rows:
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
