"""Trials a minute on two cores: two workers with fit() against one process as in a tutorial.

A trial is built, trained for one epoch on 12,000 images and evaluated on 2,000. The tutorial's
process has both cores for its threads and reads torchvision's MNIST with a DataLoader; the
workers have a thread each, and compose as in a sweep. Each model gets new processes.
"""

import functools
import multiprocessing
import statistics

import torch
from common import MODELS, N_TRAIN, N_VAL, PART, Rows, in_turns, job, size
from plain import DROPOUT, accuracy, model_of, optimizer_of, recipe, train, training_images
from torch.utils.data import DataLoader, Subset

from mnist.training import fit

N_ROUNDS = size(5, 1)
N_WORKERS = N_THREADS = 2


def trial(name: str) -> float:
    """One of a worker's trials."""
    ours = job(*recipe(name), *PART)
    (metrics,) = fit(ours.training, ours.train, ours.val, epochs=1, batch_size=100)
    return metrics["val/accuracy"]


@functools.cache
def loaders() -> list[DataLoader]:
    """The images to train on, and those to evaluate on."""
    parts = (range(N_TRAIN), range(N_TRAIN, N_TRAIN + N_VAL))
    data = training_images()
    return [DataLoader(Subset(data, part), batch_size=100, shuffle=True) for part in parts]


def tutorial(name: str) -> float:
    """The same trial as a tutorial has it."""
    torch.set_num_threads(N_THREADS)
    batches, val = loaders()
    model = model_of(name, DROPOUT[name])
    train(model, optimizer_of(model, name), batches)
    return accuracy(model, val)


def compare(name: str) -> dict[str, str | float]:
    new = multiprocessing.get_context("spawn").Pool
    with new(1) as process, new(N_WORKERS) as workers:
        times = in_turns(
            N_ROUNDS,
            tutorial=lambda: process.apply(tutorial, (name,)),
            sweep=lambda: workers.map(trial, [name] * N_WORKERS, chunksize=1),
        )
    pace = {"tutorial": 60.0, "sweep": 60.0 * N_WORKERS}
    pairs = zip(times["tutorial"], times["sweep"], strict=True)
    return {
        "model": name,
        **{f"{s}, trials a minute": pace[s] / statistics.median(times[s]) for s in pace},
        "times as many": statistics.median(N_WORKERS * a / b for a, b in pairs),
    }


def measure() -> Rows:
    return [compare(name) for name in MODELS]
