"""Who works on something, and whether that process still lives.

A process of the same machine can be looked up. Of another machine's, nothing is known but the
signs of life that it writes into the storage, which all others miss when it is gone.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Names of a trial's user attributes.
OWNER = "hydrasweep.owner"  # the process that works on it
BEAT = "hydrasweep.beat"  # how often that has given a sign of life

SECONDS = "heartbeat"  # in the owner: the time between two signs
N_MISSED = 4  # so many of them are missed before the owner is taken for dead
SLACK = 1.5  # seconds: the system rounds the moment when the machine began


def identity() -> dict[str, str]:
    """Host, pid and start time of this process; the time tells a reused pid from its owner."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid_namespace": _pid_namespace(),
        "pid": str(pid),
        "process_started": f"{_started(pid):.2f}",
    }


def is_here(owner: Mapping[str, Any]) -> bool:
    """Whether the process belongs to this machine as it runs now, and not to another container
    on it, nor to another machine of the same name."""
    here = {"host": socket.gethostname(), "boot": _boot(), "pid_namespace": _pid_namespace()}
    return all(owner.get(key, value) == value for key, value in here.items())


def is_dead(owner: Mapping[str, Any]) -> bool:
    """Whether the process is known to have ended: never so for one of another machine."""
    if not is_here(owner):
        return False
    return abs(_started(int(owner["pid"])) - float(owner["process_started"])) > SLACK


def _boot() -> str:
    """What tells this machine, since it was started, from all others."""
    path = Path("/proc/sys/kernel/random/boot_id")  # Linux only
    return path.read_text().strip() if path.exists() else ""


def _pid_namespace() -> str:
    link = Path("/proc/self/ns/pid")  # Linux only
    return str(link.readlink()) if link.exists() else ""


def _started(pid: int) -> float:
    """In seconds since the machine began, which no setting of the clock changes; -1 where there
    is no such process, or one that has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return -1.0 if ended else process.create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return -1.0


class Watch:
    """Tells running trials from lost ones.

    A heartbeat is a change, timed by who sees it: clocks of machines differ.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_lost(self, trial: "FrozenTrial") -> bool:
        """Whether a running trial's process has died, or has been silent for too long."""
        owner = trial.user_attrs.get(OWNER)
        if not owner:  # begun by none of our workers, which nobody will end
            return True
        if is_here(owner):
            return is_dead(owner)
        sign, now = (owner, trial.user_attrs.get(BEAT), trial.last_step), time.monotonic()
        before, since = self._seen.get(trial._trial_id, (None, now))
        if sign != before:
            since = now
        self._seen[trial._trial_id] = sign, since
        return bool(now - since > N_MISSED * owner[SECONDS])
