"""Files are written in full or not at all."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from mnist import files
from mnist.errors import Outage


def test_file_is_replaced_with_the_permissions_of_any_other(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.touch()
    files.write(path, "old")
    files.write(path, b"new")
    files.save(tmp_path / "tensors.pt", {"a": torch.arange(3)})
    assert path.read_bytes() == b"new"
    assert torch.load(tmp_path / "tensors.pt", weights_only=True)["a"].tolist() == [0, 1, 2]
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {other.stat().st_mode}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other", "tensors.pt"]


def test_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, os.strerror(28))))
    with pytest.raises(Outage, match=r"file can't be written \(No space left on device\)"):
        files.write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
