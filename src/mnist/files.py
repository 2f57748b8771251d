"""Files that a reader sees in full or not at all, whatever happens while they are written."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from hydrasweep import Outage


def save(path: Path, tensors: Any) -> None:
    """Replace a file in one step by what ``torch.save`` makes of ``tensors``.

    Raises:
        Outage: it can't be written; what was there before is there still.
    """
    buffer = io.BytesIO()  # given a path, torch has its own words for a full disk
    torch.save(tensors, buffer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getbuffer())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise Outage(f"{path} can't be written ({error.strerror})") from error
