"""Files are written in full or not at all."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from hydrasweep import files
from hydrasweep.errors import Outage


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path, other = tmp_path / "results.yaml", tmp_path / "other"
    other.touch()
    files.write(path, "old" * 1000)
    with path.open() as reader:  # who has it open goes on seeing all of the old one
        files.write(path, "new")
        assert reader.read() == "old" * 1000
    assert path.read_text() == "new"
    assert path.stat().st_mode == other.stat().st_mode
    assert set(tmp_path.iterdir()) == {path, other}


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, failing, Mock(side_effect=full))
    with pytest.raises(Outage, match=r"file can't be written \(No space left on device\)"):
        files.write(path, "new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
