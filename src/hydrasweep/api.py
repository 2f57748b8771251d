"""What a task function asks of its sweep, which works outside a sweep too; and the sweeps that are
there."""

import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrasweep.loaded import LoadedSweep
    from hydrasweep.trials import SweepTrial

PROCESS = "HYDRASWEEP_TRIAL_PROCESS"  # a variable with the id of the trial's process
_current: "SweepTrial | None" = None


def report(value: float, step: int) -> bool:
    """Report how the trial stands after ``step``; say whether it should stop here.

    ``value`` is the objective as the task function would return it now. Steps rise, and start at
    0 or 1. After True the task function returns as soon as it likes: its trial is PRUNED, whatever
    it returns. Always False outside a sweep, without a pruner and with several objectives.

    Raises:
        RuntimeError: this process was started by a trial, and is not the trial's own.
    """
    current = _trial()
    return current is not None and current.stops_at(value, step)


def record(**numbers: float) -> None:
    """Keep further numbers of a trial for its sweep's tables and report, such as a test score:
    ``record(size=n, **{"test/accuracy": accuracy})``. Does nothing outside a sweep.

    Raises:
        TypeError, ValueError: a value is no number.
        RuntimeError: this process was started by a trial, and is not the trial's own.
    """
    current = _trial()
    for name, number in numbers.items():
        value = float(number)
        if current is not None:
            current.set_user_attr(name, value)


def trial() -> "SweepTrial":
    """The trial that this process works on: an ``optuna.Trial``, as pruning callbacks of
    optuna-integration take it, which knows its sweep.

    Outside a sweep it is one that nobody looks at: reports come to nothing, nothing is pruned, and
    ``sweep``, ``phase``, ``name`` and ``parent_run_id`` are None.

    Raises:
        RuntimeError: this process was started by a trial, and is not the trial's own.
    """
    return _trial() or _outside()


def load(name: "str | os.PathLike[str]") -> "LoadedSweep":
    """The sweep in a folder or, below the current folder, of that name, finished or running: as it
    is now, its ``trials`` as a pandas DataFrame, its search as a ``study`` of Optuna's.

    Raises:
        UserError: there is none, or several have the name.
    """
    from hydrasweep.loaded import load

    return load(name)


@functools.cache
def _outside() -> "SweepTrial":
    from hydrasweep.trials import SweepTrial

    return SweepTrial.outside()


def _trial() -> "SweepTrial | None":
    if (own := os.environ.get(PROCESS)) and own != str(os.getpid()):
        from hydrasweep.trials import NOT_OWN

        raise RuntimeError(NOT_OWN)
    return _current


def set_current(current: Any) -> None:
    """Say which trial this process works on from here; None: none."""
    global _current
    _current = current
    if current is None:
        os.environ.pop(PROCESS, None)
    else:
        os.environ[PROCESS] = str(os.getpid())  # for the processes that it starts
