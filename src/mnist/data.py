"""A torchvision data set becomes tensors once, then seeded splits of tensors.

Decoding and torchvision's import cost seconds, so the decoded tensors are cached beside
the data and mapped from there by every later process.
"""

import hashlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple
from urllib.error import URLError

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from hydrasweep import Outage, UserError
from mnist import files, seal


class Split(NamedTuple):
    """Inputs (n, ...) and the target of each (n, ...)."""

    inputs: Tensor
    targets: Tensor


class Normalize(nn.Module):
    """Pixels 0..255 of shape (n, channels, height, width) to standardised floats.

    Equals torchvision's ``ToTensor()`` followed by ``Normalize(mean, std)``, in one
    multiplication and one addition.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        m, s = (torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std))
        self.register_buffer("scale", (1 / (255 * s)).float())
        self.register_buffer("shift", (-m / s).float())

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() * self.scale).add_(self.shift)


@dataclass(frozen=True)
class ImageData:
    """An image classification data set and how it is split; one file under conf/data.

    ``dataset`` holds the ``_target_`` of a class with torchvision's signature
    ``(root, train, download)`` and its arguments. Inputs are uint8 of shape
    (n, channels, height, width), targets are labels, int64 (n,).

    Another data set has ``name``, ``root``, ``digest`` and the methods that follow them here.

    Raises:
        UserError: files are missing, damaged, or not what the settings say.
    """

    name: str
    dataset: Mapping[str, Any]
    n_classes: int
    n_channels: int
    image_size: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    n_train: int | None
    n_val: int
    split_seed: int
    batch_size: int  # of the training, which is all that it is for

    def __post_init__(self) -> None:
        n = self.n_channels
        for key, holds, allowed in (
            ("name", _is_name(self.name), "1 to 100 letters, digits, '_', '+', '.' or '-'"),
            ("dataset", _is_dataset(self.dataset), "a group with a class's _target_ and a root"),
            ("n_classes", _is_whole(self.n_classes, 1), "a whole number, 1 or more"),
            ("n_channels", _is_whole(n, 1), "a whole number, 1 or more"),
            (
                "image_size",
                _are_numbers(self.image_size, 2, 0, {int}),
                "height and width in pixels",
            ),
            ("mean", _are_numbers(self.mean, n), f"a list of {n} numbers"),
            ("std", _are_numbers(self.std, n, 0), f"a list of {n} numbers above 0"),
            ("n_train", self.n_train is None or _is_whole(self.n_train, 1), "null, or 1 or more"),
            ("n_val", _is_whole(self.n_val, 0), "a whole number, 0 or more"),
            ("split_seed", _is_whole(self.split_seed, 0), "a whole number, 0 or more"),
        ):
            if not holds:
                raise UserError(f"data.{key}={getattr(self, key)}: must be {allowed}")

    @property
    def root(self) -> Path:
        return Path(self.dataset["root"])

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell the official training images from all others."""
        return self._read(train=True)[1]

    def development(self) -> tuple[Split, Split]:
        """The images to train on and the images to validate on.

        Both come from the official training images, in one seeded order that goes round
        the classes; so any first part of either is as class-balanced as the data allow.
        """
        images, labels = self._checked(train=True)
        n_train = len(labels) - self.n_val if self.n_train is None else self.n_train
        if n_train < 1 or self.n_val + n_train > len(labels):
            raise UserError(
                f"data.n_train={self.n_train} and data.n_val={self.n_val} do not fit: "
                f"{self.name} has {len(labels):,} images to train and validate on"
            )
        order = _balanced_order(labels, self.split_seed)
        val, train = order[: self.n_val], order[self.n_val : self.n_val + n_train]
        return Split(images[train], labels[train]), Split(images[val], labels[val])

    def test(self) -> Split:
        """The official test images; only the code that reports on them asks for them.

        Raises:
            UserError: this process takes part in a search.
        """
        seal.check()
        return self._checked(train=False)

    def first(self, n: int) -> Split:
        """The first ``n`` official training images."""
        images, labels = self._checked(train=True)
        return Split(images[:n], labels[:n])

    def normalize(self) -> Normalize:
        """From pixels 0..255 to what a model takes."""
        return Normalize(self.mean, self.std)

    def _checked(self, train: bool) -> Split:
        """The official training or test images, where they are as the settings say."""
        (images, labels), _ = self._read(train)
        found, said = tuple(images.shape[1:]), (self.n_channels, *self.image_size)
        if found != said:
            raise UserError(
                f"data={self.name}: the images have the shape {found}, but data.n_channels and "
                f"data.image_size say {said}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.n_classes:
            raise UserError(
                f"data={self.name}: labels run from {low} to {high}, "
                f"but data.n_classes={self.n_classes} allows 0 to {self.n_classes - 1}"
            )
        return Split(images, labels)

    def _read(self, train: bool) -> tuple[Split, str]:
        """The images and their digest, decoded where the cache is older than the files."""
        arguments = sorted((key, value) for key, value in self.dataset.items() if key != "root")
        key = hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]
        part = "train" if train else "test"
        cache = self.root / ".cache" / f"{self.name}-{part}-{key}.pt"
        if not (cached := _load(cache, self._state())):
            cache.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(cache.parent / "lock"):  # two processes would unpack into the same files
                if not (cached := _load(cache, self._state())):
                    split = self._decode(train)
                    cached = split, _digest(split)
                    files.save(cache, (*split, cached[1], self._state()))
        return cached

    def _state(self) -> str:
        """What changes when one of the data set's files does."""
        stats = ((str(path.relative_to(self.root)), path.stat()) for path in self._files())
        return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])

    def _files(self) -> list[Path]:
        """All below the folder that torchvision names after the class, or else below the root."""
        own = self.root / self.dataset["_target_"].rpartition(".")[2]
        paths = (own if own.is_dir() else self.root).rglob("*")
        return sorted(p for p in paths if p.is_file() and self.root / ".cache" not in p.parents)

    def _decode(self, train: bool) -> Split:
        arguments = {key: value for key, value in self.dataset.items() if key != "_target_"}
        try:
            cls = resolve_name(self.dataset["_target_"])
            takes = _parameters(cls)
            if "train" not in takes and inspect.Parameter.VAR_KEYWORD not in takes.values():
                raise UserError(
                    f"data.dataset._target_={self.dataset['_target_']}: takes {', '.join(takes)}, "
                    "and must take train=True or train=False, as torchvision's MNIST does: wrap "
                    "it in a function or class that does"
                )
            if "download" in takes:
                arguments.setdefault("download", True)
            dataset = cls(**arguments, train=train)
            images, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
            if (n := len(getattr(dataset, "targets", labels))) != len(labels):
                raise ValueError(f"{len(labels):,} images and {n:,} labels")
            return Split(self._as_pixels(images), self._as_labels(labels))
        except UserError:
            raise
        except Exception as error:
            if not self._files() and (isinstance(error, URLError) or "downloading" in str(error)):
                raise Outage(
                    f"data={self.name}: could not be downloaded: try again with a network, or put "
                    f"the files of {self.dataset['_target_']} below {self.root}"
                ) from error
            found = ", ".join(map(str, self._files()[:8])) or "none was found"
            raise Outage(
                f"data={self.name}: {self.dataset['_target_']} could not read its files below "
                f"{self.root} ({type(error).__name__}: {' '.join(str(error).split())}). Files: "
                f"{found}. To get back one that is damaged, delete it and run again with a "
                "network, or, if it belongs to the repository: git checkout -- data"
            ) from error

    def _as_pixels(self, images: Sequence[Any]) -> Tensor:
        """Of PIL images and arrays (height, width[, channels]), and of tensors with channels
        first."""
        pixels = np.stack([np.asarray(image) for image in images])
        if pixels.dtype != np.uint8:
            raise UserError(
                f"data={self.name}: the images are {pixels.dtype} from {pixels.min()} to "
                f"{pixels.max()}, and must be uint8 from 0 to 255"
            )
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        elif pixels.ndim == 4 and not isinstance(images[0], Tensor):
            pixels = pixels.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def _as_labels(self, labels: Sequence[Any]) -> Tensor:
        numbers = np.asarray(labels)
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
            raise UserError(
                f"data={self.name}: labels must be whole numbers, one for each image, and the "
                f"first is {labels[0]!r}"
            )
        return torch.from_numpy(numbers.astype(np.int64))


def _parameters(cls: Any) -> dict[str, Any]:
    """The arguments of a function, or of a class and its bases (EMNIST's are MNIST's too), and
    the kind of each."""
    is_class = isinstance(cls, type)
    makers = [vars(c).get("__init__") for c in cls.__mro__[:-1]] if is_class else [cls]
    found = [p for m in makers if m for p in inspect.signature(m).parameters.values()]
    return {p.name: p.kind for p in found if not (is_class and p.name == "self")}


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w+.-]{1,100}", value) is not None


def _is_whole(value: Any, low: int) -> bool:
    return type(value) is int and low <= value < 2**63


def _are_numbers(
    values: Any, n: int, above: float = -math.inf, types: Set[type] = frozenset({int, float})
) -> bool:
    is_list = isinstance(values, Sequence) and len(values) == n
    return is_list and all(type(v) in types and above < v < 2**63 for v in values)


def _is_dataset(value: Any) -> bool:
    is_group = isinstance(value, Mapping)
    return is_group and all(isinstance(value.get(key), str) for key in ("_target_", "root"))


def _balanced_order(labels: Tensor, seed: int) -> Tensor:
    """A seeded permutation that goes round the classes: the k-th of each before any k+1-th."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(shuffled)
    for label in labels.unique():
        (places,) = torch.nonzero(labels[shuffled] == label, as_tuple=True)
        rank[places] = torch.arange(len(places))
    return shuffled[rank.argsort(stable=True)]


def _digest(split: Split) -> str:
    sha = hashlib.sha256(repr([part.shape for part in split]).encode())
    for part in split:
        sha.update(part.numpy().data)
    return sha.hexdigest()[:16]


def _load(path: Path, state: str) -> tuple[Split, str] | None:
    """What a cache holds of files in this state."""
    try:
        images, labels, digest, made_of = torch.load(path, mmap=True, weights_only=True)
        return (Split(images, labels), digest) if made_of == state else None
    except Exception:
        return None  # not there, cut short or altered: it is made again
