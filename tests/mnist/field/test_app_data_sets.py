"""Users bring data sets of their own: damaged files, other pixels, other labels, other classes."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from application import Compose, write_digits, write_idx
from omegaconf import DictConfig
from torchvision import datasets

from hydrasweep import Outage, UserError
from mnist import config
from train import train

OWN = """
from pathlib import Path
import numpy as np
import torch

class Own:
    label = staticmethod(lambda n: n)
    pixels = staticmethod(lambda image: image)

    def __init__(self, root, train):
        self.images = (np.arange(60 * 784) % 256).reshape(60, 28, 28).astype(np.uint8)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.pixels(self.images[index]), self.label(index % 10)

class Csv(Own):
    def __init__(self, root, train):
        super().__init__(root, train)
        self.labels = [int(line) for line in (Path(root) / "labels.csv").read_text().split()]

class Floats(Own):
    pixels = staticmethod(lambda image: image / np.float32(255))

class TwelveBits(Own):
    pixels = staticmethod(lambda image: image.astype(np.uint16) * 16 + 15)

class Int32(Own):
    label = np.int32

class Byte(Own):
    label = np.uint8

class TensorInt32(Own):
    label = staticmethod(lambda n: torch.tensor(n, dtype=torch.int32))

class Float(Own):
    label = float

class OneHot(Own):
    label = staticmethod(lambda n: np.eye(10, dtype=np.int64)[n])

class Text(Own):
    label = str

class Missing(Own):
    label = staticmethod(lambda n: n or None)

def function(root, train=True):
    return Own(root, train)

class Wrapped:
    def __init__(self, root, **others):
        self.digits = function(root, **others)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        return self.digits[index]
"""

Own = Callable[..., DictConfig]


@pytest.fixture
def own(compose: Compose, tmp_path: Path, users: Callable[[str], None]) -> Own:
    """``own("users.Own")`` returns the config of a training on that data set."""
    users(OWN)

    def composed(target: str, root: Path = tmp_path, *more: str) -> DictConfig:
        node = f"data.dataset.root={root}", f"data.dataset._target_={target}"
        return compose("data.name=own", "data.n_train=40", "data.n_val=10", *node, *more)

    return composed


IMAGES = "train-images-idx3-ubyte"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda whole: whole[:-100],
    "wrong magic number": lambda whole: b"\0\0\x99\x03" + whole[4:],
    "a page": lambda _: b"<html><body>503 Service Unavailable</body></html>",
    "empty": lambda _: b"",
    "still packed": lambda whole: b"\x1f\x8b\x08\0" + whole,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_idx_file_is_refused_by_name(compose: Compose, tmp_path: Path, damage: str) -> None:
    """A download of MNIST is cut short, or is a proxy's error page.

    What happened: the loader ended with a bare EOFError or AssertionError.
    Sources: github.com/pytorch/vision/issues/541, github.com/datapythonista/mnist/issues/19
    Expected: the message names the file, and says to delete it.
    """
    raw = write_digits(tmp_path / "data")
    (raw / IMAGES).write_bytes(DAMAGES[damage]((raw / IMAGES).read_bytes()))
    cfg = compose(f"paths.data={tmp_path / 'data'}", "data.n_train=40", "data.n_val=9")
    with pytest.raises(UserError, match=f"^data=mnist: .*{IMAGES}.*delete") as refused:
        config.build(cfg.data).development()
    assert "\n" not in str(refused.value)


def test_file_beside_its_archive_is_left_alone(own: Own, tmp_path: Path) -> None:
    """A user keeps ``labels.csv`` beside ``labels.csv.gz``.

    What happened: unpacking the archive replaced or removed one of the two.
    Source: github.com/facebookresearch/fairseq/issues/1425
    Expected: reading a data set changes and deletes nothing in its folder.
    """
    data = tmp_path / "own"
    data.mkdir()
    (data / "labels.csv").write_text("".join(f"{n % 10}\n" for n in range(60)))
    (data / "labels.csv.gz").write_bytes(gzip.compress(b"an older one"))
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    cfg = own("users.Csv", data)
    for _ in range(2):
        config.build(cfg.data).development()
    config.build(cfg.data).test()
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "found"), [("Floats", r"float32.*0\.0.*1\.0"), ("TwelveBits", "uint16.*15.*4095")]
)
def test_pixels_that_are_not_bytes_are_refused_with_their_range(
    own: Own, name: str, found: str
) -> None:
    """A data set divides its pixels by 255, or has the 12 bits of a camera.

    What happened: the images were used as bytes. Floats became black, and 12 bits wrapped.
    Sources: stackoverflow.com/questions/52398936, github.com/pytorch/vision/issues/8782
    Expected: the message names the type and the range, and the type that is needed.
    """
    with pytest.raises(UserError, match=f"^data=own: .*{found}.*uint8"):
        config.build(own(f"users.{name}").data).development()
    pixels = config.build(own("users.Own").data).first(1).inputs
    assert np.array_equal(pixels[0, 0], (np.arange(784) % 256).reshape(28, 28))


@pytest.mark.parametrize("name", ["Int32", "Byte", "TensorInt32"])
def test_labels_of_any_integer_type_can_be_trained_on(
    own: Own, output_dir: Path, tmp_path: Path, name: str
) -> None:
    """Labels come from pandas, NumPy or another framework. The loss needs int64.

    Sources: openillumi.com/?p=68984, jamesmccaffreyblog.com/2023/03/22
    """
    lean = ("model=baseline", "epochs=1", "tracking=none", "artifacts=false", "score_test=false")
    value = train(own(f"users.{name}", tmp_path, *lean), output_dir)
    assert 0 <= value <= 1  # type: ignore[operator]


@pytest.mark.parametrize("name", ["Float", "OneHot", "Text", "Missing"])
def test_labels_that_are_no_integers_are_refused(own: Own, name: str) -> None:
    """Labels are floats, one-hot vectors or text (see the sources above).

    Expected: the message is about the labels. The files are not damaged.
    """
    with pytest.raises(UserError, match=r"^data=own: labels ") as refused:
        config.build(own(f"users.{name}").data).development()
    assert "delete" not in str(refused.value)


def test_qmnist_is_downloaded(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST's class is replaced by QMNIST, which accepts ``download`` through ``**kwargs``.

    Source: github.com/pytorch/vision/issues/7079
    Expected: it is downloaded like MNIST.
    """
    asked = []

    def download(self: Any) -> None:
        """Write small files where the real download writes its files."""
        asked.append(self.what)
        raw = Path(self.raw_folder)
        raw.mkdir(parents=True)
        images = np.arange(60 * 784).reshape(60, 28, 28) % 256
        write_idx(raw / "qmnist-train-images-idx3-ubyte", images)
        labels = np.zeros((60, 8), ">i4")
        labels[:, 0] = np.arange(60) % 10
        header = bytes([0, 0, 0x0C, 2]) + (60).to_bytes(4, "big") + (8).to_bytes(4, "big")
        (raw / "qmnist-train-labels-idx2-int").write_bytes(header + labels.tobytes())

    monkeypatch.setattr(datasets.QMNIST, "download", download)
    few = ("data.name=q", "data.n_train=40", "data.n_val=10", f"paths.data={tmp_path}")
    cfg = compose(*few, "data.dataset._target_=torchvision.datasets.QMNIST")
    training, val = config.build(cfg.data).development()
    assert asked == ["train"]
    assert (len(training.targets), val.targets.bincount().tolist()) == (40, [1] * 10)


@pytest.mark.parametrize(
    ("name", "more", "argument"),
    [("SVHN", ("+data.dataset.split=train",), "split"), ("ImageFolder", (), "loader")],
)
def test_class_without_train_is_refused_by_its_arguments(
    own: Own, tmp_path: Path, name: str, more: tuple[str, ...], argument: str
) -> None:
    """MNIST's class is replaced by SVHN or a folder of pictures, which have no ``train``.

    Source: github.com/AntixK/PyTorch-VAE/issues/4
    Expected: the message names the class, its arguments and ``train``, not a damaged file.
    """
    target = f"torchvision.datasets.{name}"
    pattern = rf"^data\.dataset\._target_={target}: .*{argument}.* train"
    with pytest.raises(UserError, match=pattern) as refused:
        config.build(own(target, tmp_path, *more).data).development()
    assert not isinstance(refused.value, Outage)
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("name", ["function", "Wrapped"])
def test_function_or_class_around_another_is_accepted(own: Own, name: str) -> None:
    """Such a class is wrapped in a function or a class with ``train`` (see the source above)."""
    assert len(config.build(own(f"users.{name}").data).development()[0].targets) == 40
