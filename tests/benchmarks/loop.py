"""fit() against a bare eager loop, one thread, batches of 100: train and evaluate an epoch.

The bare loop has torch's own layers and plain optimizer, and images that were normalised
before it began; fit() normalises each batch, and also measures losses and training accuracy.
"""

import statistics

import torch
from common import DROPOUT, OPTIMIZERS, PART, in_turns, job, plain_optimizer, ratio, recipe
from torch import Tensor, nn
from torch.nn import functional as F

from mnist.training import fit

N_ROUNDS = 7
N_STEPS = 120  # of an epoch


def plain_model(name: str, dropout: float = 0.0) -> nn.Module:
    """An architecture of torch's own layers."""
    return {
        "baseline": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 784), nn.ReLU(), nn.Dropout(dropout), nn.Linear(784, 10)
        ),
        "cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 10, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Dropout(dropout),
            nn.Flatten(), nn.Linear(7290, 128), nn.ReLU(), nn.Linear(128, 10),
        ),
        "lenet5": lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(120, 84), nn.Tanh(), nn.Dropout(dropout), nn.Linear(84, 10),
        ),
    }[name]()  # fmt: skip


def epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    """Train as every tutorial does, but on tensors."""
    model.train()
    for index in torch.randperm(len(labels)).split(100):
        loss = F.cross_entropy(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        pairs = zip(images.split(1000), labels.split(1000), strict=True)
        return sum(int((model(x).argmax(1) == y).sum()) for x, y in pairs) / len(labels)


def compare(name: str) -> dict[str, str | float]:
    ours = job(*recipe(name), *PART)
    training = ours.training
    epochs = fit(training, ours.train, ours.val, epochs=N_ROUNDS + 1, batch_size=100)
    model = plain_model(name, DROPOUT[name])
    optimizer = plain_optimizer(model, name)
    train, val = ((training.normalize(s.inputs), s.targets) for s in (ours.train, ours.val))

    def bare() -> None:
        epoch(model, optimizer, *train)
        accuracy(model, *val)

    times = in_turns(N_ROUNDS, bare=bare, fit=lambda: next(epochs))
    steps = {
        f"{side}, ms a step": 1000 * statistics.median(times[side]) / N_STEPS for side in times
    }
    return {"model": name, **steps, "times as fast": ratio(times["bare"], times["fit"])}


def measure() -> list[dict[str, str | float]]:
    return [compare(name) for name in OPTIMIZERS]
