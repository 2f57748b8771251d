"""Run the benchmarks, print a table for each and keep the figures in results.json.

python tests/benchmarks/run.py              all of them, about 45 minutes
python tests/benchmarks/run.py loop start   some
"""

import argparse
import importlib
import json
import time
from pathlib import Path

from common import machine
from rich import box
from rich.console import Console
from rich.table import Table

NAMES = (
    "loop",
    "tutorial",
    "sweeps",
    "overhead",
    "start",
    "growth",
    "memory",
    "neighbour",
    "augmentation",
    "signal",
    "strategies",
)
MODULES = {"signal": "pruning_signal"}  # the other name is the standard library's
RESULTS = Path(__file__).with_name("results.json")


def as_table(title: str, rows: list[dict[str, str | float]]) -> Table:
    """Rows with the same keys, numbers to three digits."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else f"{v:,.3g}" for v in row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    if unknown := sorted({*names} - {*NAMES}):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for name in names:
        benchmark = importlib.import_module(MODULES.get(name, name))
        title = benchmark.__doc__.partition("\n")[0]
        rows = [
            {k: v if isinstance(v, str) else float(f"{v:.4g}") for k, v in row.items()}
            for row in benchmark.measure()
        ]
        Console().print(as_table(title, rows))
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        date = time.strftime("%Y-%m-%d")
        found = {"title": title, "date": date, "machine": machine(), "rows": rows}
        kept.setdefault(name, {})[found["machine"]["cpu"]] = found  # those of others stay
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
