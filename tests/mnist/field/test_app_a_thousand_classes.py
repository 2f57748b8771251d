"""A data set has 1,000 classes.

They: drew a confusion matrix of 1,000 labels; it took 15 GB of memory and died.
Source: github.com/rasbt/mlxtend/issues/152, github.com/mlflow/mlflow/pull/5273
Right: a picture of bounded size, without a number in each cell, in a second or two.
"""

from pathlib import Path

import torch
from PIL import Image

from mnist import figures


def size(n_classes: int, path: Path) -> tuple[int, int]:
    logits = torch.randn(4000, n_classes, generator=torch.Generator().manual_seed(0))
    figures.draw_confusion(logits, torch.arange(4000) % n_classes, "test", path)
    with Image.open(path) as image:
        return image.size


def test_picture_has_a_bounded_size(tmp_path: Path) -> None:
    assert max(size(1000, tmp_path / "many.png")) <= 3000
    assert max(size(10, tmp_path / "few.png")) <= 600
