"""A sweep's trainings are shorter than the check before them.

They: tried out a pipeline on a handful of images; its check did no step and found nothing wrong.
Source: github.com/fw-ai/cookbook/pull/335,
github.com/Lightning-AI/pytorch-lightning/issues/286
Right: the check trains at least one step, so that what fails in it is found before the trials.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
from application import Compose
from hydra.core.hydra_config import HydraConfig

from mnist import preflight, seal

MODULE = """
from torch.optim import SGD

n_steps = 0

class Counted(SGD):
    def step(self, closure=None):
        global n_steps
        n_steps += 1
        if self.param_groups[0]["momentum"]:
            raise ZeroDivisionError("in a step")
        return super().step(closure)
"""


@pytest.mark.parametrize(("n_train", "n_steps"), [(20, 1), (40, 2), (64, 2), (96, 3)])
def test_at_least_one_step_is_trained(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_train: int, n_steps: int
) -> None:
    (tmp_path / "counted_steps.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sweeper = SimpleNamespace(direction="maximize")
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper=sweeper))
    import counted_steps  # type: ignore[import-not-found]

    counted_steps.n_steps = 0
    monkeypatch.setattr(preflight, "_costs", {})
    words = ("model=baseline", "optimizer=sgd", "optimizer._target_=counted_steps.Counted")
    few = (f"data.n_train={n_train}", "data.batch_size=32", "epochs=1", "+optimizer.momentum=0.0")
    try:
        assert preflight.check(compose(*words, *few)) > 0
        assert counted_steps.n_steps == n_steps
        with pytest.raises(ZeroDivisionError, match="in a step"):
            preflight.check(compose(*words, *few[:-1], "+optimizer.momentum=0.9"))
    finally:
        seal.set_sealed(False)
