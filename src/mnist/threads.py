"""How many threads a training can have: as many as there are cores that nobody else uses."""

import os
import time

SECONDS = 0.2  # to look for, where nobody has begun to look before

_seen: list[tuple[float, float, float]] = []  # the clock, all cores' work until then, and our own


def look() -> None:
    """Begin to look at what others do, best before the slow imports."""
    _seen[:] = [_state()]


def free_cores() -> int:
    """The cores that others have left free since the last look, at least one; it looks anew."""
    if not _seen:
        look()
    time.sleep(max(0.0, _seen[0][0] + SECONDS - time.monotonic()))
    before, now = _seen[0], _state()
    _seen[:] = [now]
    passed, work, own = (b - a for a, b in zip(before, now, strict=True))
    import joblib
    import psutil

    n_cores = len(psutil.cpu_times(percpu=True))
    others = max(0.0, work - own) / passed
    return max(1, min(joblib.cpu_count(), round(n_cores - others)))


def _state() -> tuple[float, float, float]:
    import psutil  # as joblib, only what trains waits for it

    times, own = psutil.cpu_times(), os.times()
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "steal", 0.0)
    # On Linux what guests take stands in user, too.
    work = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return time.monotonic(), work, own.user + own.system
