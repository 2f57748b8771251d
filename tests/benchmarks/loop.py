"""fit() against a bare eager loop, one thread, batches of 100: train and evaluate an epoch.

The bare loop has torch's own layers and plain optimizer, and images that were normalized before
it began; fit() normalizes each batch, and also measures losses and training accuracy.
"""

import statistics

import torch
from common import MODELS, N_TRAIN, PART, Rows, in_turns, job, ratio, size
from plain import DROPOUT, accuracy, model_of, optimizer_of, recipe, train

from mnist.training import fit

N_ROUNDS = size(7, 1)


def compare(name: str) -> dict[str, str | float]:
    ours = job(*recipe(name), *PART)
    training = ours.training
    epochs = fit(training, ours.train, ours.val, epochs=N_ROUNDS + 1, batch_size=100)
    model = model_of(name, DROPOUT[name])
    optimizer = optimizer_of(model, name)
    (images, labels), val = (
        (training.normalize(split.inputs), split.targets) for split in (ours.train, ours.val)
    )

    def bare() -> None:
        order = torch.randperm(len(labels)).split(100)
        train(model, optimizer, ((images[index], labels[index]) for index in order))
        accuracy(model, zip(*(part.split(1000) for part in val), strict=True))

    times = in_turns(N_ROUNDS, bare=bare, fit=lambda: next(epochs))
    steps = {
        f"{side}, ms a step": 1000 * statistics.median(times[side]) / (N_TRAIN // 100)
        for side in times
    }
    return {"model": name, **steps, "times as fast": ratio(times["bare"], times["fit"])}


def measure() -> Rows:
    return [compare(name) for name in MODELS]
