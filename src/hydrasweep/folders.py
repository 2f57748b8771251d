"""The sweeps below a folder, listed and found by their names, from small files alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table

from hydrasweep import starts, tables
from hydrasweep.errors import UserError

COLUMNS = ("name", "state", "trials", "best", "confirmed", "when", "folder")
# Pure Python takes ten times as long.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def below(folder: Path) -> Iterator[Path]:
    """The folders of sweeps, and no others below them; hidden ones and virtual environments are
    not looked into."""
    for path, names, files in os.walk(folder):
        is_sweep = starts.CLAIM in files
        if is_sweep:
            yield Path(path)
        if is_sweep or "pyvenv.cfg" in files:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


def find(name: str) -> Path:
    """A sweep's folder, by its path, or by the sweep's name if it is below the current one.

    Raises:
        UserError: there is none, or several have the name.
    """
    if (given := Path(name)).is_dir():
        if not any((given / file).exists() for file in (starts.CLAIM, "multirun.yaml")):
            inside = [os.path.relpath(folder, given) for folder in islice(below(given), 3)]
            hint = f"; below it are {', '.join(inside)}, …" if inside else ""
            raise UserError(f"{given}: is no sweep's folder{hint}")
        return given
    found = [folder for folder in below(Path()) if _name(folder) == name]
    if not found:
        raise UserError(
            f"{name}: is no folder, and no sweep below {Path.cwd()} has that name; "
            "python -m hydrasweep list shows which there are"
        )
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise UserError(f"{name}: several sweeps have that name; say which by its folder: {listed}")
    return found[0]


def listing(folder: Path) -> str:
    """A table of the sweeps below a folder, the latest last."""
    rows = sorted(map(_row, below(folder)), key=lambda row: row["when"])
    if not rows:
        return f"There is no sweep below {folder.resolve()}"
    shown = [name for name in COLUMNS if any(row[name] for row in rows)]
    table = Table(*shown, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return tables.as_text(table)


def _name(folder: Path) -> str:
    start = starts.last(folder)
    return start.study if start else folder.resolve().name


def _row(folder: Path) -> dict[str, str]:
    path, found = folder / "results.yaml", {}
    with suppress(FileNotFoundError, yaml.YAMLError):
        found = yaml.load(path.read_text(), LOADER)
    changed = (path if path.exists() else folder / starts.CLAIM).stat().st_mtime
    counts = found.get("trials", {})
    n_all = sum(counts.values())
    n_left = counts.get("WAITING", 0) + counts.get("RUNNING", 0)
    n_failed = counts.get("FAIL", 0)
    directions = found.get("directions", [])
    return {
        "name": _name(folder),
        "state": starts.state(starts.last(folder)),
        "trials": f"{n_all - n_left}/{n_all}" + (f", {n_failed} failed" if n_failed else ""),
        "best": _best(directions, found.get("best", {})),
        "confirmed": _confirmed(directions, found.get("winners", {})),
        "when": f"{datetime.fromtimestamp(changed):%Y-%m-%d %H:%M:%S}",
        "folder": os.path.relpath(folder),
    }


def _best(directions: Sequence[str], strata: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The best value in the search; with several objectives, how many trials no other beats."""
    if len(directions) > 1:
        return f"{sum(map(len, strata.values()))} on the front"
    values = {name: trials[0]["values"][0] for name, trials in strata.items() if trials}
    return _leader(
        directions, {name: (value, tables.number(value)) for name, value in values.items()}
    )


def _confirmed(directions: Sequence[str], winners: Mapping[str, Mapping[str, Any]]) -> str:
    """The best winner's score on fresh seeds."""
    scores = {name: winner["confirm"] for name, winner in winners.items()}
    told = {
        name: (score["mean"], tables.mean_sd(score["mean"], score["sd"]))
        for name, score in scores.items()
    }
    return _leader(directions, told)


def _leader(directions: Sequence[str], told: Mapping[str, tuple[float, str]]) -> str:
    """The best of some values, in words, with the stratum that has it."""
    if not told or not directions:
        return ""
    choose = max if directions[0] == "maximize" else min
    name = choose(told, key=lambda name: told[name][0])
    return f"{told[name][1]} {name}" if len(told) > 1 else told[name][1]
