"""One of torchvision's data sets is replaced by another: QMNIST, SVHN, a folder of pictures.

They: changed the class; QMNIST hides ``download`` behind ``**kwargs``, others have no ``train``.
Source: github.com/pytorch/vision/issues/7079, github.com/AntixK/PyTorch-VAE/issues/4
Right: QMNIST is downloaded like MNIST; the others are refused because of ``train``, with the class
and its arguments, and not as damaged files; a function around them is taken.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from application import Compose, write_idx
from torchvision import datasets

from hydrasweep import Outage, UserError
from mnist import config

FEW = ("data.name=q", "data.n_train=40", "data.n_val=10")
MODULE = """
import numpy as np

def digits(root, train=True):
    return [(np.full((28, 28), n, np.uint8), n % 10) for n in range(60)]

class Wrapped:
    def __init__(self, root, **others):
        self.digits = digits(root, **others)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        return self.digits[index]
"""


def test_qmnist_is_downloaded(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(self: Any) -> None:
        """Put its files where the real one does."""
        asked.append(self.what)
        raw = Path(self.raw_folder)
        raw.mkdir(parents=True)
        write_idx(
            raw / "qmnist-train-images-idx3-ubyte", np.arange(60 * 784).reshape(60, 28, 28) % 256
        )
        labels = np.zeros((60, 8), ">i4")
        labels[:, 0] = np.arange(60) % 10
        header = bytes([0, 0, 0x0C, 2]) + (60).to_bytes(4, "big") + (8).to_bytes(4, "big")
        (raw / "qmnist-train-labels-idx2-int").write_bytes(header + labels.tobytes())

    monkeypatch.setattr(datasets.QMNIST, "download", download)
    target = "data.dataset._target_=torchvision.datasets.QMNIST"
    cfg = compose(*FEW, f"paths.data={tmp_path}", target)
    train, val = config.build(cfg.data).development()
    assert asked == ["train"]
    assert (len(train.targets), val.targets.bincount().tolist()) == (40, [1] * 10)


@pytest.mark.parametrize(
    ("name", "more", "argument"),
    [("SVHN", ("+data.dataset.split=train",), "split"), ("ImageFolder", (), "loader")],
)
def test_class_without_train_is_refused_by_its_arguments(
    compose: Compose, tmp_path: Path, name: str, more: tuple[str, ...], argument: str
) -> None:
    target = f"data.dataset._target_=torchvision.datasets.{name}"
    cfg = compose(*FEW, f"paths.data={tmp_path}", target, *more)
    with pytest.raises(UserError, match=f"^{target}: takes .*{argument}.* must take train") as told:
        config.build(cfg.data).development()
    assert not isinstance(told.value, Outage)
    assert "delete" not in str(told.value)


@pytest.mark.parametrize("name", ["digits", "Wrapped"])
def test_function_or_class_around_another_is_taken(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "other_digits.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    target = f"data.dataset._target_=other_digits.{name}"
    cfg = compose(*FEW, f"data.dataset.root={tmp_path}", target)
    assert len(config.build(cfg.data).development()[0].targets) == 40
