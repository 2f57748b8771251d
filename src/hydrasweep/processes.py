"""Who works on something, and whether that process still lives."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

SLACK = 1.5  # seconds: the system rounds the moment when the machine began


def identity() -> dict[str, str]:
    """Host, pid and start time of this process; the time tells a reused pid from its owner."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid_namespace": _pid_namespace(),
        "pid": str(pid),
        "process_started": f"{_started(pid):.2f}",
    }


def is_here(owner: Mapping[str, str]) -> bool:
    """Whether the process belongs to this machine, and not to another container on it."""
    namespace = owner.get("pid_namespace", "")
    return owner.get("host") == socket.gethostname() and namespace in ("", _pid_namespace())


def _pid_namespace() -> str:
    link = Path("/proc/self/ns/pid")  # Linux only
    return str(link.readlink()) if link.exists() else ""


def is_dead(owner: Mapping[str, str]) -> bool:
    """Whether the process is known to have ended: never so for one of another machine."""
    if not is_here(owner):
        return False
    return abs(_started(int(owner["pid"])) - float(owner["process_started"])) > SLACK


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
