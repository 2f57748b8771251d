"""What a model is to learn: the loss, what is measured, and which way each metric improves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from hydrasweep import UserError
from mnist.data import Split


class Task:
    """One file under conf/task, by its ``_target_``; ``directions`` says of each metric whether
    to maximize or to minimize it."""

    shares: tuple[str, ...] = ()  # metrics from 0 to 1, which are shown in percent

    def __init__(self, directions: Mapping[str, str]) -> None:
        self.directions = dict(directions)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimizes: the mean over a batch, a scalar."""
        raise NotImplementedError

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Tensor | float]:
        """What is measured on all rows at once: a number for each name in ``directions``."""
        raise NotImplementedError

    def draw(self, data: Any, name: str, split: Split, outputs: Tensor, folder: Path) -> None:
        """Draw what a model makes of a split, such as "test", into PNG files in ``folder``."""


class Classification(Task):
    """One of ``n_classes`` for each row: outputs are logits (n, n_classes), targets int64 (n,).

    Trains on the cross-entropy in nats with label smoothing; the metric ``loss`` is without it.
    """

    shares = ("accuracy",)

    def __init__(
        self, directions: Mapping[str, str], n_classes: int, label_smoothing: float
    ) -> None:
        super().__init__(directions)
        self.n_classes, self.smoothing = n_classes, label_smoothing
        if not 0 <= label_smoothing < 1:
            raise UserError(f"task.label_smoothing={label_smoothing}: must be from 0 to below 1")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.smoothing)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor | float]:
        if outputs.shape != (len(targets), self.n_classes):
            raise UserError(
                f"model: its output for {len(targets)} rows has the shape "
                f"{tuple(outputs.shape)}, and task.n_classes={self.n_classes}"
            )
        accuracy = (outputs.argmax(1) == targets).double().mean()
        return {"loss": F.cross_entropy(outputs, targets), "accuracy": accuracy}

    def draw(self, data: Any, name: str, split: Split, outputs: Tensor, folder: Path) -> None:
        from mnist import figures  # matplotlib takes a second to import

        title = f"{data.name}, {len(outputs):,} {name} images"
        if len(outputs):
            figures.draw_confusion(outputs, split.targets, title, folder / "confusion.png")
        if split.inputs.ndim == 4:
            figures.draw_first(data, folder / "first_images.png")
            worst = folder / "worst_mistakes.png"
            figures.draw_mistakes(outputs, split, f"Worst mistakes on {title}", worst)
