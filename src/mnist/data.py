"""A torchvision data set becomes tensors once, then seeded splits of tensors.

Decoding and torchvision's import cost seconds, so the decoded tensors are cached beside
the data and mapped from there by every later process.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor, nn

from mnist import files, seal
from mnist.errors import Outage, UserError, is_outage


class Split(NamedTuple):
    """Images, uint8 of shape (n, channels, height, width), and their labels, int64 (n,)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Split":
        """The same on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


class Normalize(nn.Module):
    """Pixels 0..255 of shape (n, channels, height, width) to standardised floats.

    Equals torchvision's ``ToTensor()`` followed by ``Normalize(mean, std)``, in one
    multiplication and one addition.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        shape = (1, len(mean), 1, 1)
        self.scale: Tensor
        self.shift: Tensor
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", scale.float().view(shape))
        self.register_buffer("shift", shift.float().view(shape))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() * self.scale).add_(self.shift)


@dataclass(frozen=True)
class ImageData:
    """An image classification data set and how it is split; one file under conf/data.

    ``dataset`` holds the ``_target_`` of a class with torchvision's signature
    ``(root, train, download)`` and its arguments; ``raw`` is a glob below the root that
    matches the files it is read from.

    Raises:
        UserError: files are missing, damaged, or not what the settings say.
    """

    name: str
    dataset: Mapping[str, Any]
    raw: str
    n_classes: int
    n_channels: int
    image_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    n_train: int | None
    n_val: int
    split_seed: int
    batch_size: int

    @property
    def root(self) -> Path:
        return Path(self.dataset["root"])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the data set's settings, file names and bytes, wherever they lie."""
        settings = sorted((key, value) for key, value in self.dataset.items() if key != "root")
        sha = hashlib.sha256(repr(settings).encode())
        for path in self._raw_files():
            sha.update(path.name.encode())
            with path.open("rb") as file:
                sha.update(hashlib.file_digest(file, "sha256").digest())
        return sha.hexdigest()

    def development(self) -> tuple[Split, Split]:
        """The images to train on and the images to validate on.

        Both come from the official training images, in one seeded order that goes round
        the classes; so any first part of either is as class-balanced as the data allow.
        """
        images, labels = self._tensors(train=True)
        n_train = len(labels) - self.n_val if self.n_train is None else self.n_train
        if n_train < 1 or self.n_val + n_train > len(labels):
            raise UserError(
                f"data.n_train={self.n_train} and data.n_val={self.n_val} do not fit: "
                f"{self.name} has {len(labels):,} images to train and validate on"
            )
        order = _balanced_order(labels, self.split_seed)
        val, train = order[: self.n_val], order[self.n_val : self.n_val + n_train]
        return Split(images[train], labels[train]), Split(images[val], labels[val])

    def first(self, n: int) -> Split:
        """The first ``n`` official training images."""
        images, labels = self._tensors(train=True)
        return Split(images[:n], labels[:n])

    def normalize(self) -> Normalize:
        """From pixels 0..255 to what a model takes."""
        return Normalize(self.mean, self.std)

    def test(self) -> Split:
        """The official test images; only the code that reports on them asks for them.

        Raises:
            UserError: this process takes part in a search.
        """
        seal.check()
        return self._tensors(train=False)

    def _tensors(self, train: bool) -> Split:
        cache = self._cache(train)
        if not (split := _load(cache)):
            lock = self.root / ".cache" / "lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):  # two processes would unpack into the same files
                if not (split := _load(self._cache(train))):
                    split = self._decode(train)
                    files.save(self._cache(train), tuple(split))
        return self._checked(split)

    def _cache(self, train: bool) -> Path:
        part = "train" if train else "test"
        return self.root / ".cache" / f"{self.name}-{part}-{self.digest[:16]}.pt"

    def _raw_files(self) -> list[Path]:
        """The files that everything is derived from: an unpacked copy of one is left out."""
        files = sorted(path for path in self.root.glob(self.raw) if path.is_file())
        archives = {path.with_suffix("") for path in files if path.suffix == ".gz"}
        return [path for path in files if path not in archives]

    def _decode(self, train: bool) -> Split:
        for path in self._raw_files():
            if path.suffix == ".gz":
                # torchvision checks the archive's md5 but trusts an unpacked file unread.
                path.with_suffix("").unlink(missing_ok=True)
        arguments = {key: value for key, value in self.dataset.items() if key != "_target_"}
        try:
            cls = resolve_name(self.dataset["_target_"])
            if "download" in inspect.signature(cls).parameters:
                arguments["download"] = True
            dataset = cls(**arguments, train=train)
            images, labels = zip(*dataset, strict=True)
            # A file in another's place: iteration ends with the shorter of the two.
            for n in (len(dataset), len(getattr(dataset, "targets", labels))):
                if n != len(images):
                    raise ValueError(f"{n:,} and {len(images):,} images and labels do not match")
            split = Split(torch.stack([_pixels(image) for image in images]), torch.tensor(labels))
        except Exception as error:
            if is_outage(error):
                raise Outage(f"{self.root} can't be written ({error})") from error
            raise Outage(self._damage(error)) from error
        self.__dict__.pop("digest", None)  # a download has just brought the files
        return split

    def _checked(self, split: Split) -> Split:
        shape = (self.n_channels, *self.image_size)
        if split.images.shape[1:] != shape:
            raise UserError(
                f"data={self.name}: the images have the shape {tuple(split.images.shape[1:])}, "
                f"but data.n_channels and data.image_size say {shape}"
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= self.n_classes:
            raise UserError(
                f"data={self.name}: labels run from {low} to {high}, "
                f"but data.n_classes={self.n_classes} allows 0 to {self.n_classes - 1}"
            )
        return split

    def _damage(self, error: Exception) -> str:
        files = ", ".join(str(path) for path in self._raw_files()) or "none was found"
        return (
            f"data={self.name}: {self.dataset['_target_']} could not read its files below "
            f"{self.root} ({type(error).__name__}: {error}). Files: {files}. "
            "To get back one that is damaged, delete it and run again with a network, "
            "or, if it belongs to the repository: git checkout -- data"
        )


def _pixels(image: Any) -> Tensor:
    """One image, as a PIL image or an array (height, width[, channels]), as uint8 (c, h, w)."""
    import numpy as np

    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A seeded permutation that goes round the classes: the k-th of each before any k+1-th."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(shuffled)
    for label in labels.unique():
        (places,) = torch.nonzero(labels[shuffled] == label, as_tuple=True)
        rank[places] = torch.arange(len(places))
    return shuffled[rank.argsort(stable=True)]


def _load(path: Path) -> Split | None:
    try:
        images, labels = torch.load(path, mmap=True, weights_only=True)
        fits = len(images) == len(labels) and images.dtype == torch.uint8
        return Split(images, labels) if fits else None
    except Exception:
        return None  # not there, cut short or altered: it is made again
