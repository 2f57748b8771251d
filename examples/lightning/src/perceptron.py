"""One hidden layer."""

from collections.abc import Callable

import lightning as L
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


class Perceptron(L.LightningModule):
    def __init__(self, n_hidden: int, optimizer: Callable[..., Optimizer]) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Sequential(nn.Linear(64, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 10))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        images, labels = batch
        self.log("val/acc", (self.net(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(params=self.parameters())
