"""An optimizer's file leaves the learning rate to its class.

They: took Adadelta or Adafactor by their defaults; what logs ``optimizer.lr`` ended in a KeyError.
Source: github.com/HasnainRaz/Fast-AgingGAN/issues/21, github.com/g4vrel/CFM/issues/1
Right: it trains under a name without a rate; a scheduler that needs one says so.
"""

import logging
from pathlib import Path

import pytest
from application import Compose

from hydrasweep import UserError
from train import train

LEAN = ("model=baseline", "epochs=1", "tracking=none", "artifacts=false", "score_test=false")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    folder = tmp_path / "mine" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "adadelta.yaml").write_text("_target_: torch.optim.Adadelta\n_partial_: true\n")
    return f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "optimizer=adadelta", *LEAN


def test_it_trains_under_a_name_without_a_rate(
    compose: Compose, output_dir: Path, words: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mnist.display")
    assert train(compose(*words, "scheduler=constant"), output_dir) > 0.1  # type: ignore[operator]
    (line,) = (line for line in caplog.text.splitlines() if "Run " in line)
    assert "adadelta batch=64 seed=0" in line
    assert "lr=" not in line


def test_scheduler_that_needs_a_rate_says_so(
    compose: Compose, output_dir: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        train(compose(*words, "scheduler=onecycle"), output_dir)
