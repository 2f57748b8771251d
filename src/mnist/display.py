"""What a person sees of a run: a header, a bar, a line for each epoch, a closing table."""

import io
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

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


class LogFile(logging.FileHandler):
    """Logs to a file; ends the run when it can't be written."""

    handleError = Screen.handleError


def header(about: "Description", job: "Assembly", output_dir: Path) -> str:
    """What is about to be trained."""
    name, digest, _ = about.dataset
    n_train, n_val = (len(split.targets) for split in (job.train, job.val))
    return _lines(
        {
            "Run": about.name,
            "Data": f"{name} ({digest[:8]}), {n_train:,} to train on, {n_val:,} to validate on",
            "Model": f"{about.tags['architecture']}, {job.training.n_parameters:,} parameters",
            "Device": f"{about.tags['device']}, {about.tags['n_threads']} threads",
            "Output": str(output_dir),
        }
    )


def footer(metrics: Mapping[str, float], job: "Assembly", run: "Run") -> str:
    """How a run ended, and what to do next."""
    table, text = Table("metric", box=box.SIMPLE_HEAD), io.StringIO()
    table.add_column("value", justify="right")
    for name, value in sorted(metrics.items()):
        table.add_row(name, _number(name, value, job))
    Console(file=text, width=200, color_system=None).print(table)
    shown = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    todo = {"Results": str(run.output_dir), "Compare": run.ui, "Open": run.link}
    return f"{shown}\n{_lines({name: words for name, words in todo.items() if words})}"


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


def bar(batches: Sequence[Any]) -> Iterable[Any]:
    """Pass the batches of an epoch on, with a bar on the terminal until its line is written."""
    return track(batches, "training", transient=True, disable=not Console().is_terminal)


def _number(name: str, value: float, job: "Assembly") -> str:
    is_share = name.rpartition("/")[2] in job.training.task.shares
    return f"{value:.2%}" if is_share else f"{value:,.4g}"


def _lines(values: Mapping[str, str]) -> str:
    width = max(map(len, values))
    return "\n".join(f"{name:{width}} {value}" for name, value in values.items())
