from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MaxMetric


class LitSoftmax(LightningModule):
    def __init__(self, optimizer: Callable[..., torch.optim.Optimizer]) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Linear(64, 10)
        self.val_acc_best = MaxMetric()

    def training_step(self, batch, _: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, _: int) -> None:
        images, labels = batch
        acc = (self.net(images).argmax(dim=1) == labels).float().mean()
        self.val_acc_best(acc)
        self.log("val/acc", acc)
        self.log("val/acc_best", self.val_acc_best.compute())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(params=self.parameters())
