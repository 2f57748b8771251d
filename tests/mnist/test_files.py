"""Files are written completely or not at all."""

import os
from unittest.mock import Mock

import pytest
import torch

from hydrasweep import Outage
from mnist import files


def saved(path):
    return torch.load(path, weights_only=True).tolist()


def test_file_is_replaced_and_has_the_usual_permissions(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    other.touch()
    files.save(path, torch.arange(3))
    files.save(path, torch.arange(2))
    assert saved(path) == [0, 1]
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {other.stat().st_mode}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.save(path, torch.arange(3))
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, os.strerror(28))))
    with pytest.raises(Outage, match=r"file .*No space left on device"):
        files.save(path, torch.arange(2))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert saved(path) == [0, 1, 2]
