"""What a person sees of a run: a header, a bar, a line for each epoch, a closing table."""

import io
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from mnist.store import LOCAL_UI
from mnist.tracking import Description, Run
from mnist.training import Meter

log = logging.getLogger(__name__)
T = TypeVar("T")


def as_text(renderable: RenderableType) -> str:
    """A table as plain text: the same on the screen, in a pipe and in the log file."""
    output = io.StringIO()
    Console(file=output, width=200, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def pairs(values: Mapping[str, str]) -> str:
    """Names and values, one a line."""
    width = max(map(len, values))
    return "\n".join(f"{name:{width}} {value}" for name, value in values.items())


def header(about: Description, output_dir: Path) -> str:
    """What is about to be trained."""
    name, digest, _ = about.dataset or ("none", "", "")
    return pairs(
        {
            "Run": about.name,
            "Data": f"{name} ({digest[:8]}), validation split {about.params['data.split_seed']}",
            "Model": f"{about.tags['architecture']}, "
            f"{int(about.tags['n_parameters']):,} parameters",
            "Device": f"{about.tags['device']}, {about.tags['n_threads']} threads",
            "Output": str(output_dir),
        }
    )


def footer(final: Mapping[str, float], run: Run, root: str) -> str:
    """How a run ended, and what to do next."""
    results = Table(box=box.SIMPLE_HEAD)
    results.add_column("metric")
    results.add_column("value", justify="right")
    for name, value in sorted(final.items()):
        results.add_row(name, f"{value:.2%}" if name.endswith("accuracy") else f"{value:,.4g}")
    todo = {"Results": str(run.output_dir)}
    if run.link and run.link.startswith(LOCAL_UI):
        todo["Compare"] = f"cd {Path(root).resolve()} && mlflow ui"
    if run.link:
        todo["Open"] = run.link
    return f"{as_text(results)}\n{pairs(todo)}"


def with_bar(epochs: Iterator[T], meter: Meter, batch_size: int) -> Iterator[T]:
    """Pass ``epochs`` on, with a bar on the terminal while each is being trained."""
    console = Console()
    if not console.is_terminal:
        yield from epochs
        return
    while True:
        with Live(
            console=console,
            transient=True,  # gone before the line of the epoch is written
            refresh_per_second=4,
            get_renderable=lambda: _bar(meter, batch_size),
        ):
            try:
                metrics = next(epochs)
            except StopIteration:
                return
        yield metrics


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float]) -> str:
    """One epoch in one line of less than 80 characters."""
    line = f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
    line += f"  loss {metrics['train/loss']:.4f}  train {metrics['train/accuracy']:7.2%}"
    if "val/accuracy" in metrics:
        line += f"  val {metrics['val/accuracy']:7.2%}"
    return line + (
        f"  {metrics['time/epoch_seconds']:.1f} s  {metrics['time/images_per_second']:,.0f} img/s"
    )


def _bar(meter: Meter, batch_size: int) -> RenderableType:
    losses = meter.losses.copy()
    if not losses:
        return ""
    step, loss = len(losses), float(torch.stack(losses).mean())
    speed = step * batch_size / (time.perf_counter() - meter.started)
    row = Table.grid(padding=(0, 1))
    row.add_row(
        f"epoch {meter.epoch}",
        ProgressBar(total=meter.n_steps, completed=step, width=30),
        f"{step}/{meter.n_steps}  loss {loss:.4f}  {speed:,.0f} images/s",
    )
    return row
