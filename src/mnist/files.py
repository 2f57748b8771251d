"""Files that a reader sees in full or not at all, whatever happens while they are written."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydrasweep import Outage


def write(path: Path, content: str | bytes | memoryview) -> None:
    """Replace a file in one step.

    Raises:
        Outage: it can't be written; what was there before is there still.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Outage(f"{path} can't be written ({error.strerror})") from error


def save(path: Path, tensors: Any) -> None:
    """Replace a file by what ``torch.save`` makes of ``tensors``.

    In memory first: given a path, torch has its own words for a full disk.

    Raises:
        Outage: as ``write``.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write(path, buffer.getbuffer())
