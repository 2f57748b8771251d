"""What a person sees of a run: a header, a bar, a line for each epoch, a closing table."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

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
    return f"{line}  {metrics['time/epoch_seconds']:.1f} s  {speed}"


def footer(metrics: Mapping[str, float], job: "Assembly", run: "Run") -> str:
    """How a run ended, and what to do next."""
    shown = {name: _number(name, value, job) for name, value in sorted(metrics.items())}
    table = "\n".join(f"  {name:24} {value:>12}" for name, value in shown.items())
    return f"\n{table}\n\n{_lines({'Results': str(run.output_dir), **run.links})}"


def bar(batches: Sequence[Any]) -> Iterable[Any]:
    """Pass the batches of an epoch on, with a bar on the terminal until its line is written."""
    return track(batches, "training", transient=True, disable=not Console().is_terminal)


def _number(name: str, value: float, job: "Assembly") -> str:
    if name.rpartition("/")[2] in job.training.task.shares:
        return f"{value:.2%}"
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _lines(values: Mapping[str, str]) -> str:
    width = max(map(len, values))
    return "\n".join(f"{name:{width}} {value}" for name, value in values.items())
