"""The trial as training sees it: somewhere to report to, and somebody who may say stop."""

from collections.abc import Mapping
from typing import Any

# A sweep searches, trains the best again on fresh seeds, and scores the winners once.
SEARCH, CONFIRM, FINAL = PHASES = ("search", "confirm", "final")


class NullTrial:
    """Outside a sweep: listens to nothing and never stops anything."""

    in_sweep = False
    is_final = False  # whether it may score the test images

    def report(self, metrics: Mapping[str, float], objectives: list[str], epoch: int) -> None:
        """Tell the metrics after an epoch, counted from 1."""

    def should_prune(self) -> bool:
        """Whether to stop here."""
        return False

    def reason(self) -> str:
        """Why it was stopped, in words."""
        return ""


_current: Any = NullTrial()


def current() -> Any:
    """The trial that this process is working on, or a ``NullTrial``."""
    return _current


def set_current(trial: Any) -> None:
    """Say which trial this process works on from here."""
    global _current
    _current = trial
