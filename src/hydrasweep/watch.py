"""A report that is kept fresh while its sweep runs."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydrasweep import page, starts
from hydrasweep.errors import received_first

SECONDS = 10.0  # between two writings
REST = 10.0  # which take time from the trials: so many times that they rest
POLL_SECONDS = 1.0


def watch(folders: Sequence[Path]) -> Path:
    """Write the report of a sweep, or of several, again and again until they have ended or Ctrl-C
    comes; give its path. Until then the page reloads itself."""
    with suppress(KeyboardInterrupt), received_first():
        rest, path = SECONDS, None
        while _may_run(folders):
            began = time.monotonic()
            written = write(folders, rest)
            if path is None:
                path = written
                print(f"{path}: kept fresh until the sweep ends or Ctrl-C comes", flush=True)
            rest = max(SECONDS, REST * (time.monotonic() - began))
            until = time.monotonic() + rest
            while time.monotonic() < until and _may_run(folders):
                time.sleep(POLL_SECONDS)
    return write(folders)


def write(folders: Sequence[Path], reload: float = 0.0) -> Path:
    """Write the report of a sweep, or of several side by side; give its path."""
    if len(folders) == 1:
        return page.write(folders[0], reload)
    return page.compare(folders, reload)


def _may_run(folders: Sequence[Path]) -> bool:
    return any(start.may_run for folder in folders for start in starts.read(folder))
