"""Run the benchmarks, print a table for each and keep the results in results.json.

python tests/benchmarks/run.py              all of them, about 45 minutes
python tests/benchmarks/run.py loop start   some
"""

import argparse
import importlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

MODULES = {
    "loop": "loop",
    "tutorial": "tutorial",
    "sweeps": "sweeps",
    "overhead": "overhead",
    "start": "start",
    "growth": "growth",
    "memory": "memory",
    "neighbour": "neighbour",
    "augmentation": "augmentation",
    "signal": "pruning_signal",  # Python's standard library has a module `signal`
    "strategies": "strategies",
}
RESULTS = Path(__file__).with_name("results.json")


def as_table(title: str, rows: Sequence[Mapping[str, str | float]]) -> Table:
    """Rows with the same keys, numbers to three digits."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:,.3g}" for v in row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument(
        "--smallest", action="store_true", help="only see that they work; keep no results"
    )
    given = parser.parse_args()
    if unknown := sorted({*given.names} - {*MODULES}):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    if given.smallest:
        os.environ["BENCHMARKS_SMALLEST"] = "1"  # common.py reads it
    for name in given.names or MODULES:
        benchmark = importlib.import_module(MODULES[name])
        title = benchmark.__doc__.partition("\n")[0]
        rows = [
            {k: v if isinstance(v, str) else float(f"{v:.4g}") for k, v in row.items()}
            for row in benchmark.measure()
        ]
        Console().print(as_table(title, rows))
        if not given.smallest:
            keep(name, title, rows)


def keep(name: str, title: str, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Replace the results of a benchmark on this CPU; those of other CPUs stay."""
    from common import machine

    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = {"title": title, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": rows}
    kept.setdefault(name, {})[found["machine"]["cpu"]] = found
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
