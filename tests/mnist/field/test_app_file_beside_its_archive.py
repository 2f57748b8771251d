"""A user's own file lies beside an archive of the same name.

They: kept ``labels.csv`` beside ``labels.csv.gz``; unpacking replaced or removed one of the two.
Source: github.com/facebookresearch/fairseq/issues/1425
Right: whatever is read below the data's folder, nothing there is changed or deleted.
"""

import gzip
from pathlib import Path

import pytest
from application import Compose

from mnist import config

MODULE = """
from pathlib import Path
import numpy as np

class Csv:
    def __init__(self, root, train):
        self.labels = [int(line) for line in (Path(root) / "labels.csv").read_text().split()]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return np.full((28, 28), index, np.uint8), self.labels[index]
"""


def test_nothing_below_the_datas_folder_is_changed(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file_beside_its_archive.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    data = tmp_path / "own"
    data.mkdir()
    (data / "labels.csv").write_text("".join(f"{n % 10}\n" for n in range(60)))
    (data / "labels.csv.gz").write_bytes(gzip.compress(b"an older one"))
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    cfg = compose(
        "data.name=own", f"data.dataset.root={data}", "data.n_train=40", "data.n_val=10",
        "data.dataset._target_=file_beside_its_archive.Csv",
    )  # fmt: skip
    for _ in range(2):
        config.build(cfg.data).development()
    config.build(cfg.data).test()
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()} == before
