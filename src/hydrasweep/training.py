"""Training and evaluation: torch, and nothing else."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydrasweep import files
from hydrasweep.data import Split
from hydrasweep.errors import UserError, root_cause

EVALUATION_BATCH = 250  # images at a time where no gradient is kept: what they take fits a cache


class NonFiniteLossError(UserError):
    """The training loss became infinite or not a number."""


@dataclass
class Meter:
    """Where training stands within an epoch, for a display to read while it runs.

    ``losses`` holds the loss of each batch so far, on the training device; only a display
    that reads them waits for the device.
    """

    epoch: int = 0
    n_steps: int = 0  # in the epoch
    started: float = 0.0
    losses: list[Tensor] = field(default_factory=list)


@dataclass
class Training:
    """What is trained, with what: the objects that a stopped training needs again.

    ``normalize`` and ``augment`` take float pixels (n, channels, height, width).
    """

    model: nn.Module
    normalize: nn.Module
    augment: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    epoch: int = 0  # epochs done

    def save(self, path: Path) -> None:
        """Write the state to ``path`` in one step.

        Raises:
            Outage: it can't be written.
        """
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_generators"] = torch.cuda.get_rng_state_all()
        files.save(path, state)

    def load(self, path: Path) -> None:
        """Go back to the state in ``path``, torch's global generators included.

        Raises:
            UserError: the file is cut short, or of another model.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            torch.set_rng_state(state["generator"])
            if "cuda_generators" in state:
                torch.cuda.set_rng_state_all(state["cuda_generators"])
            self.epoch = int(state["epoch"])
        except Exception as error:  # each kind of damage has its own
            raise UserError(
                f"the checkpoint {path} can't be read ({root_cause(error)}): delete it, and "
                "resume= begins anew"
            ) from error


def fit(
    training: Training,
    train: Split,
    val: Split,
    *,
    epochs: int,
    batch_size: int,
    smoothing: float = 0.0,
    meter: Meter | None = None,
) -> Iterator[dict[str, float]]:
    """Train up to ``epochs`` epochs and yield one flat dict of metrics after each.

    Times are in seconds, accuracies between 0 and 1, losses in nats for each image;
    ``train/*`` are means over the epoch as the weights move, ``val/*`` belong to the
    weights at its end and are left out where there are no validation images.

    Raises:
        NonFiniteLossError: naming the epoch and the step, both counted from 1.
    """
    model, device = training.model, train.labels.device
    meter = meter or Meter()
    parameters, n_images = list(model.parameters()), len(train.labels)
    while training.epoch < epochs:
        started = time.perf_counter()
        model.train()
        order = torch.randperm(n_images, device=device)
        batches = order.split(batch_size)
        losses: list[Tensor] = []
        predictions: list[Tensor] = []
        meter.epoch, meter.n_steps = training.epoch + 1, len(batches)
        meter.losses, meter.started = losses, started
        for index in batches:
            labels = train.labels.index_select(0, index)
            pixels = train.images.index_select(0, index).float()
            logits = model(training.normalize(training.augment(pixels)))
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
            lr = training.optimizer.param_groups[0]["lr"]
            for parameter in parameters:  # zero_grad() looks for them in each step
                parameter.grad = None
            loss.backward()
            training.optimizer.step()
            training.scheduler.step()
            losses.append(loss.detach())
            predictions.append(logits.detach().argmax(1))
        means = torch.stack(losses)
        _check_finite(means, training.epoch + 1)
        weights = torch.full_like(means, batch_size)
        weights[-1] = len(batches[-1])
        n_correct = (torch.cat(predictions) == train.labels[order]).sum()
        metrics: dict[str, float] = {
            "train/loss": (means * weights).sum().item() / n_images,
            "train/accuracy": int(n_correct) / n_images,
        }
        seconds = time.perf_counter() - started
        if len(val.labels):
            val_loss, val_accuracy = score(predict(model, training.normalize, val), val.labels)
            metrics |= {"val/loss": val_loss, "val/accuracy": val_accuracy}
        metrics |= {
            "lr": float(lr),
            "time/epoch_seconds": time.perf_counter() - started,
            "time/images_per_second": n_images / seconds,
        }
        training.epoch += 1
        yield metrics


def predict(model: nn.Module, normalize: nn.Module, split: Split) -> Tensor:
    """Logits (n, n_classes) of every image, in order, in evaluation mode."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        logits = [
            model(normalize(pixels.to(device))) for pixels in split.images.split(EVALUATION_BATCH)
        ]
    model.train(was_training)
    return torch.cat(logits)


def score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy, over all rows."""
    loss = F.cross_entropy(logits, labels).item()
    return loss, (logits.argmax(1) == labels).sum().item() / len(labels)


def _check_finite(losses: Tensor, epoch: int) -> None:
    bad = torch.nonzero(~losses.isfinite())
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss is {losses[step].item()} at step {step + 1} of epoch {epoch}: "
            "try a smaller optimizer.lr"
        )
