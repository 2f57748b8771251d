"""Tables and numbers as a person reads them in a terminal."""

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table


def table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A row for each mapping from columns to cells; the column "" comes under ``title``. On a
    terminal that is too narrow, a column for each, if that is narrower."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        [name or title for name in names],
        *([row.get(name, "") for name in names] for row in rows),
    ]
    text = _draw(lines)
    if sys.stdout.isatty() and _width(text) > shutil.get_terminal_size().columns:
        return min(text, _draw([*zip(*lines, strict=True)]), key=_width)
    return text


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _draw(lines: Sequence[Sequence[str]]) -> str:
    drawn = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(lines[0]):
        drawn.add_column(name, justify="right" if i else "left")
    for line in lines[1:]:
        drawn.add_row(*line)
    return as_text(drawn)


def as_text(renderable: RenderableType) -> str:
    """A table as plain text: the same on the screen, in a pipe and in a file."""
    output = io.StringIO()
    # What is in square brackets or between colons may be a setting's value, and no markup.
    Console(file=output, width=200, color_system=None, markup=False, emoji=False).print(renderable)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def short(value: Any) -> str:
    """A setting's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def number(value: float, of: float | None = None) -> str:
    """A value of the objective, with four decimals, or four digits where these would say little;
    as one ``of`` that size is written, where that is given."""
    size = abs(value if of is None else of)
    return f"{value:.4f}" if not size or 1e-3 <= size < 1e6 else f"{value:.4g}"


def mean_sd(mean: float, sd: float | None) -> str:
    """A mean with its standard deviation, where there is one, as ``number`` writes the mean."""
    return number(mean) if sd is None else f"{number(mean)} ± {number(sd, mean)}"


def as_duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
