"""Files that a reader sees in full or not at all, whatever happens while they are written."""

import os
from contextlib import suppress
from pathlib import Path

from hydrasweep.errors import Outage


def write(path: Path, content: str) -> None:
    """Replace a file in one step.

    Raises:
        Outage: it can't be written; what was there before is there still.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Outage(f"{path} can't be written ({error.strerror})") from error
