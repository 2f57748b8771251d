"""Who works on something, and whether that process still lives."""

import os
import socket
from collections.abc import Mapping


def identity() -> dict[str, str]:
    """Host, pid and start time of this process; the time tells a reused pid from its owner."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": str(pid),
        "process_started": _started(pid),
    }


def is_dead(owner: Mapping[str, str]) -> bool:
    """Whether the process is known to have ended: never so for one of another machine."""
    if owner["host"] != socket.gethostname():
        return False
    return _started(int(owner["pid"])) != owner["process_started"]


def _started(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
