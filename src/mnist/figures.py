"""Pictures of images and of what a model makes of them, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mnist.data import Split

MANY_CLASSES = 50  # from which on a confusion matrix is drawn without numbers


def draw_images(images: Tensor, captions: Sequence[str], title: str, path: Path) -> None:
    """Draw images, uint8 (n, channels, height, width), in a square grid with captions."""
    n_columns = max(1, round(len(images) ** 0.5))
    n_rows = -(-len(images) // n_columns)
    figure = Figure(figsize=(1.5 * n_columns, 1.7 * n_rows + 0.5), layout="constrained")
    figure.suptitle(title)
    if len(images):
        axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
        for axis in axes:
            axis.axis("off")
        for axis, image, caption in zip(axes, images, captions, strict=False):
            axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axis.set_title(caption, fontsize=9)
    figure.savefig(path, dpi=100)


def draw_first(data: Any, path: Path) -> None:
    """Draw the first 16 training images with their labels."""
    images, labels = data.first(16)
    captions = [str(label) for label in labels.tolist()]
    draw_images(images, captions, f"{data.name}: the first training images", path)


def draw_confusion(logits: Tensor, labels: Tensor, title: str, path: Path) -> None:
    """Draw how often each label (row) was taken for each class (column)."""
    n_classes = logits.shape[1]
    cells = torch.bincount(labels * n_classes + logits.argmax(1), minlength=n_classes**2)
    counts = cells.view(n_classes, n_classes)
    rates = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    size = min(max(5.0, 0.6 * n_classes), 0.6 * MANY_CLASSES)
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    axis.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="label", title=title)
    if n_classes < MANY_CLASSES:
        axis.set(xticks=range(n_classes), yticks=range(n_classes))
        for row, column in counts.nonzero().tolist():
            shade = "white" if rates[row, column] > 0.5 else "black"
            text = str(int(counts[row, column]))
            axis.text(column, row, text, ha="center", va="center", color=shade, fontsize=9)
    figure.savefig(path, dpi=100)


def draw_mistakes(logits: Tensor, split: Split, title: str, path: Path, n: int = 25) -> None:
    """Draw the wrongly classified images with the highest loss: label > prediction, how sure."""
    images, labels = split
    wrong = torch.nonzero(logits.argmax(1) != labels).flatten()
    losses = F.cross_entropy(logits[wrong], labels[wrong], reduction="none")
    worst = wrong[losses.argsort(descending=True)[:n]]
    shares, guesses = logits[worst].softmax(1).max(1)
    rows = zip(labels[worst].tolist(), guesses.tolist(), shares.tolist(), strict=True)
    captions = [f"{label} > {guess}  {100 * share:.0f}%" for label, guess, share in rows]
    draw_images(images[worst], captions, title, path)
