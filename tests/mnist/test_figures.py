"""Pictures of images, mistakes and confusion matrices."""

import numpy as np
import pytest
import torch
from PIL import Image

from mnist.data import Split
from mnist.figures import draw_confusion, draw_images, draw_mistakes

LABELS = torch.arange(20) % 10
IMAGES = torch.full((20, 1, 28, 28), 100, dtype=torch.uint8)


def grey(path, level):
    """The number of pixels with exactly this grey level."""
    with Image.open(path) as picture:
        return int((np.asarray(picture.convert("L")) == level).sum())


def test_every_image_is_drawn(tmp_path):
    areas = []
    for n in (1, 6):
        draw_images(IMAGES[:n], ["a"] * n, "title", tmp_path / "images.png")
        areas.append(grey(tmp_path / "images.png", 100) / n)
    assert min(areas) > 5000
    assert max(areas) < 1.3 * min(areas)


def test_only_mistakes_are_drawn_and_the_worst_ones_first(tmp_path):
    logits = torch.nn.functional.one_hot(LABELS, 10) * 8.0
    logits[3, 5] = 20.0  # label 3, predicted as 5
    logits[4, 5] = 9.0  # a milder one
    split = Split(IMAGES.clone(), LABELS)
    split.inputs[3] = 50
    split.inputs[4] = 150
    draw_mistakes(logits, split, "title", tmp_path / "all.png")
    assert grey(tmp_path / "all.png", 50) > 5000
    assert grey(tmp_path / "all.png", 150) > 5000
    assert grey(tmp_path / "all.png", 100) < 500
    draw_mistakes(logits, split, "title", tmp_path / "worst.png", n=1)
    assert grey(tmp_path / "worst.png", 50) > 5000
    assert grey(tmp_path / "worst.png", 150) < 500


def test_mistakes_of_a_model_without_mistakes_are_drawn(tmp_path):
    logits = torch.nn.functional.one_hot(LABELS, 10) * 8.0
    draw_mistakes(logits, Split(IMAGES, LABELS), "title", tmp_path / "none.png")
    assert grey(tmp_path / "none.png", 100) < 500


MANY = pytest.param(1000, 3000, marks=pytest.mark.field)


@pytest.mark.parametrize(("n_classes", "side"), [(2, 500), (10, 600), (60, 3000), MANY])
def test_confusion_matrix_has_a_bounded_size(tmp_path, n_classes, side):
    """A user's matrix of 1,000 labels took 15 GB of memory (github.com/rasbt/mlxtend/issues/152,
    github.com/mlflow/mlflow/pull/5273)."""
    labels = torch.arange(n_classes)
    logits = torch.nn.functional.one_hot(labels, n_classes) * 8.0
    draw_confusion(logits, labels, "title", tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.size == (side, side)
