"""An own data set gives floats from 0 to 1, or 12 bits in a uint16.

They: divided by 255 in the data set, as most tutorials do, or kept a camera's 12 bits.
Source: stackoverflow.com/questions/52398936, github.com/pytorch/vision/issues/8782
Right: refused with the range that was found: as bytes the first are black, the second wrapped.
"""

from pathlib import Path

import numpy as np
import pytest
from application import Compose

from hydrasweep import UserError
from mnist import config

MODULE = """
import numpy as np

class Floats:
    def __init__(self, root, train):
        self.pixels = (np.arange(60 * 784) % 256).reshape(60, 28, 28).astype(np.uint8)

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return self.pixels[index] / np.float32(255), index % 10

class TwelveBits(Floats):
    def __getitem__(self, index):
        return self.pixels[index].astype(np.uint16) * 16 + 15, index % 10

class Bytes(Floats):
    def __getitem__(self, index):
        return self.pixels[index], index % 10
"""


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "pixels_not_bytes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "data.name=own", f"data.dataset.root={tmp_path}", "data.n_train=40", "data.n_val=9"


@pytest.mark.parametrize(
    ("name", "found"),
    [("Floats", r"float32 from 0\.0 to 1\.0"), ("TwelveBits", "uint16 from 15 to 4095")],
)
def test_other_pixels_are_refused_with_their_range(
    compose: Compose, overrides: tuple[str, ...], name: str, found: str
) -> None:
    cfg = compose(*overrides, f"data.dataset._target_=pixels_not_bytes.{name}")
    with pytest.raises(UserError, match=f"^data=own: the images are {found}.*uint8 from 0 to 255"):
        config.build(cfg.data).development()


def test_bytes_are_taken_as_they_are(compose: Compose, overrides: tuple[str, ...]) -> None:
    cfg = compose(*overrides, "data.dataset._target_=pixels_not_bytes.Bytes")
    pixels = config.build(cfg.data).first(1).inputs
    assert np.array_equal(pixels[0, 0], (np.arange(784) % 256).reshape(28, 28))
