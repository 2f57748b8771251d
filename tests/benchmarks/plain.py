"""Training as tutorials write it, which some benchmarks compare with."""

from collections.abc import Callable, Iterable

import torch
from common import ROOT
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets, transforms

from mnist import models

OPTIMIZERS = {"baseline": "sgd", "cnn": "adam", "lenet5": "adam"}
DROPOUT = {"baseline": 0.0, "cnn": 0.2, "lenet5": 0.0}
Batches = Iterable[tuple[Tensor, Tensor]]


def recipe(model: str) -> list[str]:
    """The application's overrides for the same training."""
    chosen = (f"model={model}", f"optimizer={OPTIMIZERS[model]}", "scheduler=constant")
    return [*chosen, f"model.dropout={DROPOUT[model]}"]


def optimizer_of(model: nn.Module, name: str) -> torch.optim.Optimizer:
    """The optimizer of ``recipe(name)``, not fused."""
    if OPTIMIZERS[name] == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.1)
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def model_of(name: str, dropout: float = 0.0) -> nn.Module:
    """An architecture with torch's own layers."""
    kinds = {"baseline": models.Baseline, "cnn": models.CNN, "lenet5": models.LeNet5}
    return kinds[name](n_channels=1, image_size=(28, 28), n_classes=10, dropout=dropout)


def training_images() -> datasets.MNIST:
    """The training images, which are normalized when they are read."""
    steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    return datasets.MNIST(ROOT / "data", download=True, transform=transforms.Compose(steps))


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train one epoch."""
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        after_step()


def accuracy(model: nn.Module, batches: Batches) -> float:
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
    return right.float().mean().item()
