"""Training and evaluation: torch, and nothing else."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which optimizers import: once for all trials, if it is here
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hydrasweep import UserError
from mnist import files
from mnist.averaging import WeightAverage
from mnist.data import Split
from mnist.tasks import Task
from mnist.text import root_cause

EVALUATION_BATCH = 250  # rows at a time where no gradient is kept: what they take fits a cache


REFRESHED = 5000  # rows that batch norm measures its statistics on, for averaged weights


class NonFiniteLossError(UserError):
    """The training loss became infinite or not a number."""


@dataclass
class Training:
    """What is trained, with what: the objects that a stopped training needs again."""

    model: nn.Module
    normalize: nn.Module
    augment: nn.Module
    task: Task
    optimizer: Optimizer
    scheduler: LRScheduler
    average: WeightAverage  # what scores and the saved model have
    epoch: int = 0  # epochs done
    seconds: float = 0.0  # spent on them, without validation

    def save(self, path: Path) -> None:
        """Write the state to ``path`` in one step.

        Raises:
            Outage: it can't be written.
        """
        state: dict[str, Any] = {"epoch": self.epoch, "seconds": self.seconds}
        state |= {name: getattr(self, name).state_dict() for name in STATEFUL}
        state["generator"] = torch.get_rng_state()
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
            for name in STATEFUL:
                getattr(self, name).load_state_dict(state[name])
            torch.set_rng_state(state["generator"])
            if "cuda_generators" in state:
                torch.cuda.set_rng_state_all(state["cuda_generators"])
            self.epoch, self.seconds = int(state["epoch"]), float(state["seconds"])
        except Exception as error:  # each kind of damage has its own
            raise UserError(
                f"the checkpoint {path} can't be read ({root_cause(error)}): delete it, and "
                "resume= begins anew"
            ) from error


STATEFUL = ("model", "optimizer", "scheduler", "average")


def fit(
    training: Training,
    train: Split,
    val: Split,
    *,
    epochs: int,
    batch_size: int,
    watch: Callable[[Sequence[Tensor]], Iterable[Tensor]] = iter,
) -> Iterator[dict[str, float]]:
    """Train up to ``epochs`` epochs and yield one flat dict of metrics after each.

    Times are in seconds; ``train/*`` is measured over the epoch as the weights move, its loss
    being the one that is minimized; ``val/*`` belongs to ``training.average`` at the epoch's end
    and is left out where there is nothing to validate on. ``watch`` passes the batches of an
    epoch on, as a progress bar does.

    Raises:
        NonFiniteLossError: naming the epoch and the step, both counted from 1.
    """
    model, task = training.model, training.task
    parameters, n_rows = list(model.parameters()), len(train.targets)
    while training.epoch < epochs:
        started = time.perf_counter()
        model.train()
        order = torch.randperm(n_rows, device=train.targets.device)
        batches = order.split(batch_size)
        losses: list[Tensor] = []
        outputs: list[Tensor] = []
        for step, index in enumerate(watch(batches)):
            targets = train.targets.index_select(0, index)
            inputs = as_input(train.inputs.index_select(0, index))
            output = model(training.normalize(training.augment(inputs)))
            loss = task.loss(output, targets)
            lr = training.optimizer.param_groups[0]["lr"]
            for parameter in parameters:  # zero_grad() looks for them in each step
                parameter.grad = None
            loss.backward()
            training.optimizer.step()
            training.scheduler.step()
            training.average.update(step, len(batches))
            losses.append(loss.detach())
            outputs.append(output.detach())
        means = torch.stack(losses)
        _check_finite(means, training.epoch + 1)
        weights = torch.full_like(means, batch_size)
        weights[-1] = len(batches[-1])
        metrics = _named("train", task.metrics(torch.cat(outputs), train.targets[order]))
        metrics["train/loss"] = (means * weights).sum().item() / n_rows
        sample = train.inputs[:REFRESHED].split(EVALUATION_BATCH)
        training.average.finish(training.normalize(as_input(rows)) for rows in sample)
        seconds = time.perf_counter() - started
        if len(val.targets):
            metrics |= evaluate("val", training, val)
        training.epoch += 1
        training.seconds += seconds
        yield metrics | {
            "lr": float(lr),
            "time/epoch_seconds": time.perf_counter() - started,
            "time/train_seconds": training.seconds,
            "time/samples_per_second": n_rows / seconds,
        }


def as_input(rows: Tensor) -> Tensor:
    """Pixels as floats, everything else as it is."""
    return rows.float() if rows.dtype == torch.uint8 else rows


def evaluate(name: str, training: Training, split: Split) -> dict[str, float]:
    """The task's metrics of every row in evaluation mode, each as ``name/metric``."""
    outputs = predict(training, split)
    return _named(name, training.task.metrics(outputs, split.targets.to(outputs.device)))


def predict(training: Training, split: Split) -> Tensor:
    """The output for every row, in order, of the averaged weights in evaluation mode."""
    model, device = training.model, next(training.model.parameters()).device
    was_training = model.training
    model.eval()
    with training.average.applied(), torch.inference_mode():
        batches = split.inputs.split(EVALUATION_BATCH)
        outputs = [model(training.normalize(inputs.to(device))) for inputs in batches]
    model.train(was_training)
    return torch.cat(outputs)


def _named(name: str, metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    return {f"{name}/{metric}": float(value) for metric, value in metrics.items()}


def _check_finite(losses: Tensor, epoch: int) -> None:
    bad = torch.nonzero(~losses.isfinite())
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss is {losses[step].item()} at step {step + 1} of epoch {epoch}: "
            "try a smaller optimizer.lr"
        )
