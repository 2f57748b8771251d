"""A module beside the script, as most first projects have one."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Point:
    x: float
    y: float


def read(path: str | Path) -> list[Point]:
    with Path(path).open() as lines:
        return [Point(float(x), float(y)) for x, y in csv.reader(lines)]
