"""What a person sees of a run: a header, a bar, a line for each epoch, a closing table."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from rich.progress import track

from hydrasweep import Outage

if TYPE_CHECKING:
    from mnist.assembly import Assembly
    from mnist.recording import Description, Run

log = logging.getLogger(__name__)


class Screen(logging.StreamHandler[TextIO]):
    """Logs to a stream; ends the run when nobody takes what is written there."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise Outage(f"the output can't be written ({error.strerror})") from error


def header(about: "Description", job: "Assembly", run: "Run") -> str:
    """What is about to be trained."""
    (name, digest, _), tags = about.dataset, about.tags
    n_train, n_val = (len(split.targets) for split in (job.train, job.val))
    return _lines(
        {
            "Run": about.name,
            "Data": f"{name} ({digest[:8]}), {n_train:,} to train on, {n_val:,} to validate on",
            "Model": f"{tags['architecture']}, {int(tags['n_parameters']):,} parameters",
            "Device": f"{tags['device']}, {tags['n_threads']} threads",
            "Faster": f"{tags['fast_layers']} (layers for which torch's own are slower here)",
            "Output": str(run.output_dir),
        }
    )


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float], job: "Assembly") -> str:
    """One epoch in one line of less than 80 characters."""
    line = f"epoch {epoch:>{len(str(epochs))}}/{epochs}  loss {metrics['train/loss']:.4f}"
    metric = next((name for name in job.training.task.directions if name != "loss"), "loss")
    for part in ("train", "val"):
        if (name := f"{part}/{metric}") in metrics:
            shown = _number(name, metrics[name], job)
            line += f"  {part} {shown:>7}" if shown.endswith("%") else f"  {name} {shown}"
    speed = f"{metrics['time/samples_per_second']:,.0f} samples/s"
    return f"{_which()}{line}  {metrics['time/epoch_seconds']:.1f} s  {speed}"


def footer(metrics: Mapping[str, float], job: "Assembly", run: "Run") -> str:
    """How a run ended, what matters first, and what to do next."""
    directions = job.training.task.directions
    scores: dict[str, list[str]] = {"test": [], "val": []}  # first of all parts
    for name, value in metrics.items():
        part, _, metric = name.rpartition("/")
        if metric in directions:
            word = f"{metric} {_number(name, value, job)}"
            scores.setdefault(part, []).insert(0 if metric != "loss" else 1, word)
    lines = {part: "  ".join(words) for part, words in scores.items() if words}
    name = f"val/{next((name for name in directions if name != 'loss'), 'loss')}"
    epochs = {step: each[name] for step, each in run.history.items() if name in each}
    if lines.get("val") and epochs:
        sign = 1 if directions[name.removeprefix("val/")] == "maximize" else -1
        best = max(epochs, key=lambda step: sign * epochs[step])
        lines["val"] += f"  (best {_number(name, epochs[best], job)}, epoch {best})"
    lines["time"] = f"{metrics['time/train_seconds']:,.1f} s of training"
    return f"\n{_lines({**lines, 'Results': str(run.output_dir), **run.links})}"


def bar(batches: Sequence[Any]) -> Iterable[Any]:
    """Pass the batches of an epoch on, with a bar on the terminal until its line is written."""
    # Of a multirun, several may share the terminal.
    is_alone = not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)
    shows = is_alone and Console().is_terminal
    return track(batches, "training", transient=True, disable=not shows)


def _which() -> str:
    """Which run of a plain multirun this is: several may write to one screen."""
    job = HydraConfig.get() if HydraConfig.initialized() else None
    is_one_of_many = (
        job and job.mode == RunMode.MULTIRUN and "hydrasweep" not in job.sweeper._target_
    )
    return f"#{job.job.num} " if job and is_one_of_many else ""


def _number(name: str, value: float, job: "Assembly") -> str:
    if name.rpartition("/")[2] in job.training.task.shares:
        return f"{value:.2%}"
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _lines(values: Mapping[str, str]) -> str:
    width = max(map(len, values))
    return "\n".join(f"{name:{width}} {value}" for name, value in values.items())
