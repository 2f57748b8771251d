"""Training times of models are compared, as an objective of a search.

They: found that a training's time held its validation, and that throughput was too low by it.
Source: github.com/mosaicml/composer/pull/1053, github.com/keras-team/keras/issues/4747
Right: ``time/train_seconds`` holds no validation; ``time/epoch_seconds`` holds it all.
"""

import json
from pathlib import Path

import pytest
from application import Compose

from train import train

PAUSE = 0.2
MODULE = f"""
import time
from torch import nn

class Slow(nn.Sequential):
    def __init__(self, **others):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, input):
        if not self.training:
            time.sleep({PAUSE})
        return super().forward(input)
"""


def test_validation_is_left_out(
    compose: Compose, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_validate.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("model=baseline", "model._target_=slow_to_validate.Slow", "epochs=2")
    lean = ("tracking=none", "artifacts=false", "score_test=false")
    train(compose(*words, *lean, "objective=time/train_seconds"), output_dir)
    epochs = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    whole = sum(epoch["time/epoch_seconds"] for epoch in epochs)
    assert whole - epochs[-1]["time/train_seconds"] >= 2 * PAUSE
    for epoch in epochs:
        training = 600 / epoch["time/samples_per_second"]
        assert epoch["time/epoch_seconds"] - training >= PAUSE
