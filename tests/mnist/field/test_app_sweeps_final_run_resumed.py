"""The final run of a sweep was killed, and is resumed by itself.

They: went on with one job of a multirun in its folder, by the application's own resume setting.
Source: github.com/hydra-ecosystem/hydra/issues/1822, github.com/optuna/optuna/issues/2705
Right: it trains to its end with its own settings and objective; it says that the test images stay
sealed, and that the sweep's own command scores them.
"""

import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from application import Compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from mnist import config, seal
from train import train


def test_it_ends_with_its_objective_and_says_what_it_leaves_out(
    compose: Compose,
    output_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cfg = compose("model=baseline", "epochs=1", "tracking=none", "score_test=true")
    (output_dir / ".hydra").mkdir()
    OmegaConf.save(cfg, output_dir / ".hydra" / "config.yaml")
    hydra = {"mode": "MULTIRUN", "runtime": {"choices": {"model": "baseline"}}}
    OmegaConf.save({"hydra": hydra}, output_dir / ".hydra" / "hydra.yaml")
    job = SimpleNamespace(
        mode=RunMode.RUN,
        runtime=SimpleNamespace(output_dir="elsewhere"),
        overrides=SimpleNamespace(task=[]),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: job)
    caplog.set_level(logging.INFO, "mnist")
    try:
        value = train(*config.resolve_run(compose(f"resume={output_dir}")))
    finally:
        seal.set_sealed(False)
    assert value > 0.1  # type: ignore[operator]
    assert "never sees the test images" in caplog.text
    assert "resumed by its own command" in caplog.text
    assert re.search(r"^val +accuracy", caplog.text, re.MULTILINE)
    assert "test/accuracy" not in caplog.text
