"""Trials a minute on two cores: two workers with fit() against one process as in a tutorial.

A trial is built, trained for one epoch on 12,000 images and evaluated on 2,000. The tutorial's
process has both cores for its threads, and reads torchvision's MNIST through ToTensor and
Normalize by a DataLoader; the workers have a thread each, and compose as in a sweep. Each model
has new processes, as a training has that somebody starts.
"""

import functools
import multiprocessing
import statistics

import torch
from common import DROPOUT, OPTIMIZERS, PART, ROOT, in_turns, job, plain_optimizer, recipe
from loop import plain_model
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from mnist.training import fit

N_ROUNDS = 5
N_WORKERS = N_THREADS = 2
N_TRAIN, N_VAL = 12_000, 2_000


def trial(name: str) -> float:
    """One of a worker's trials."""
    ours = job(*recipe(name), *PART)
    (metrics,) = fit(ours.training, ours.train, ours.val, epochs=1, batch_size=100)
    return metrics["val/accuracy"]


@functools.cache
def loaders() -> list[DataLoader]:
    """Of the images to train on, and of those to evaluate on."""
    from torchvision import datasets, transforms

    steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    data = datasets.MNIST(str(ROOT / "data"), download=True, transform=transforms.Compose(steps))
    parts = (range(N_TRAIN), range(N_TRAIN, N_TRAIN + N_VAL))
    return [DataLoader(Subset(data, part), batch_size=100, shuffle=True) for part in parts]


def tutorial(name: str) -> float:
    """The same trial as a tutorial has it."""
    torch.set_num_threads(N_THREADS)
    train, val = loaders()
    model = plain_model(name, DROPOUT[name])
    optimizer = plain_optimizer(model, name)
    for images, labels in train:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    model.eval()
    n_correct = 0
    with torch.no_grad():
        for images, labels in val:
            n_correct += (model(images).argmax(1) == labels).sum().item()
    return n_correct / N_VAL


def compare(name: str) -> dict[str, str | float]:
    new = multiprocessing.get_context("spawn").Pool
    with new(1) as process, new(N_WORKERS) as workers:
        times = in_turns(
            N_ROUNDS,
            tutorial=lambda: process.apply(tutorial, (name,)),
            sweep=lambda: workers.map(trial, [name] * N_WORKERS, chunksize=1),
        )
    pace = {"tutorial": 60.0, "sweep": 60.0 * N_WORKERS}
    a_minute = {side: pace[side] / statistics.median(times[side]) for side in times}
    pairs = zip(times["tutorial"], times["sweep"], strict=True)
    return {
        "model": name,
        **{f"{side}, trials a minute": number for side, number in a_minute.items()},
        "times as many": statistics.median(N_WORKERS * a / b for a, b in pairs),
    }


def measure() -> list[dict[str, str | float]]:
    return [compare(name) for name in OPTIMIZERS]
