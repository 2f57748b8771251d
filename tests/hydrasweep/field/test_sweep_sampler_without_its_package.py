"""A sampler is chosen by its name, whose package is not installed.

They: took CMA-ES; its first trial was fine, the second ended with No module named 'cmaes',
since Optuna imports the package when it is first needed.
Source: github.com/optuna/optuna/issues/5868
Right: refused before any trial, with the name of what is missing.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from apps import App, Ended

LATE = """
import optuna

class Late(optuna.samplers.RandomSampler):
    n = 0

    def infer_relative_search_space(self, study, trial):
        self.n += 1
        if self.n == 2:
            raise ImportError("No module named 'cmaes'")
        return {}
"""


def refused(done: Ended) -> None:
    assert done.code == 1
    assert "hydra.sweeper.sampler: " in done.err
    assert "No module named 'cmaes'" in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()


def test_sampler_that_fails_at_its_second_proposal_is_refused(
    app: Callable[..., App], tmp_path: Path
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    refused(app("return cfg.x")("hydra.sweeper.sampler._target_=late.Late"))


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is not None, reason="cmaes is installed")
def test_cma_es_is_refused_without_its_package(app: Callable[..., App]) -> None:
    refused(app("return cfg.x")("hydra/sweeper/sampler=cmaes", "y=interval(0,1)"))
