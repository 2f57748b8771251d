"""Users replace MNIST's class by another one of torchvision's, or by a wrapper of it."""

from pathlib import Path

import numpy as np
import pytest
from application import write_idx
from torchvision import datasets

from hydrasweep import Outage, UserError
from mnist import config

OWN = """
import numpy as np

def function(root, train=True):
    return [(np.full((28, 28), n, np.uint8), n % 10) for n in range(60)]

class Wrapped:
    def __init__(self, root, **others):
        self.digits = function(root, **others)

    def __len__(self):
        return len(self.digits)

    def __getitem__(self, index):
        return self.digits[index]
"""
FEW = ("data.name=own", "data.n_train=40", "data.n_val=10")


def test_qmnist_is_downloaded(compose, tmp_path, monkeypatch):
    """The class is QMNIST, which accepts ``download`` through ``**kwargs``.

    Source: github.com/pytorch/vision/issues/7079
    Expected: it is downloaded like MNIST.
    """
    asked = []

    def download(self):
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
    target = "data.dataset._target_=torchvision.datasets.QMNIST"
    cfg = compose(*FEW, f"paths.data={tmp_path}", target)
    training, val = config.build(cfg.data).development()
    assert asked == ["train"]
    assert (len(training.targets), val.targets.bincount().tolist()) == (40, [1] * 10)


@pytest.mark.parametrize(
    ("name", "more", "argument"),
    [("SVHN", ("+data.dataset.split=train",), "split"), ("ImageFolder", (), "loader")],
)
def test_class_without_train_is_refused_by_its_arguments(compose, tmp_path, name, more, argument):
    """The class is SVHN or a folder of pictures, which have no ``train``.

    Source: github.com/AntixK/PyTorch-VAE/issues/4
    Expected: the message names the class, its arguments and ``train``, not a damaged file.
    """
    target = f"data.dataset._target_=torchvision.datasets.{name}"
    cfg = compose(*FEW, f"paths.data={tmp_path}", target, *more)
    with pytest.raises(UserError, match=f"^{target}: .*{argument}.* train") as refused:
        config.build(cfg.data).development()
    assert not isinstance(refused.value, Outage)
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("name", ["function", "Wrapped"])
def test_function_or_class_around_another_is_accepted(compose, tmp_path, users, name):
    """Such a class is wrapped in a function or a class with ``train`` (see the source above)."""
    users(OWN)
    target = f"data.dataset._target_=users.{name}"
    cfg = compose(*FEW, f"data.dataset.root={tmp_path}", target)
    assert len(config.build(cfg.data).development()[0].targets) == 40
