"""An own data set's labels are int32, floats, one-hot vectors or text.

They: took labels as pandas, NumPy or another framework gave them; the loss wants int64.
Source: openillumi.com/?p=68984, jamesmccaffreyblog.com/2023/03/22
Right: whole numbers of any type are trained on; the rest is refused in a sentence about labels.
"""

from pathlib import Path

import pytest
from application import Compose

from hydrasweep import UserError
from mnist import config
from train import train

MODULE = """
import numpy as np
import torch

class Own:
    def __init__(self, root, train):
        pass

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return np.full((28, 28), index, np.uint8), self.label(index % 10)

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
"""


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "labels_of_many_kinds.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "data.name=own", f"data.dataset.root={tmp_path}", "data.n_train=40", "data.n_val=20"


@pytest.mark.parametrize("name", ["Int32", "Byte", "TensorInt32"])
def test_whole_numbers_of_any_type_are_trained_on(
    compose: Compose, output_dir: Path, overrides: tuple[str, ...], name: str
) -> None:
    lean = ("model=baseline", "epochs=1", "tracking=none", "artifacts=false", "score_test=false")
    target = f"data.dataset._target_=labels_of_many_kinds.{name}"
    assert 0 <= train(compose(*overrides, *lean, target), output_dir) <= 1  # type: ignore[operator]


@pytest.mark.parametrize("name", ["Float", "OneHot", "Text", "Missing"])
def test_other_labels_are_refused(compose: Compose, overrides: tuple[str, ...], name: str) -> None:
    cfg = compose(*overrides, f"data.dataset._target_=labels_of_many_kinds.{name}")
    with pytest.raises(UserError, match=r"^data=own: labels must be whole numbers") as refused:
        config.build(cfg.data).development()
    assert "delete" not in str(refused.value)
