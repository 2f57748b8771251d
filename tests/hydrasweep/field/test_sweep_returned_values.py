"""Task functions return all kinds of things.

They: returned nothing by accident, a tuple with the history of the training, a tensor, or NaN from
a training that diverged; the stock sweeper ends at NaN.
Source: github.com/optuna/optuna/issues/3361, github.com/optuna/optuna/issues/1546,
github.com/facebookresearch/hydra/issues/2237
Right: what is a number counts; anything else fails its own trial, with a sentence that shows it.
"""

from collections.abc import Callable

import pytest
from apps import App
from optuna.trial import TrialState

from hydrasweep.stratum import ERROR

NUMBERS = {
    "np.float32(0.5)": 0.5,
    "np.array(0.5)": 0.5,
    "(0.5,)": 0.5,
    "True": 1.0,
    "'0.9'": 0.9,
}
OTHERS = (
    "None", "{'loss': 0.5}", "b'0.9'", "0.5 + 1j", "np.float64('nan')", "10**400",
    "(0.5, {'history': []})",
)  # fmt: skip


def test_numbers_count_and_anything_else_fails_its_trial(app: Callable[..., App]) -> None:
    values = [*NUMBERS, *OTHERS]
    body = f"""
        import numpy as np
        return eval({values!r}[cfg.seed])
    """
    done = app(body)("~x", f"seed=range(0,{len(values)})", "hydra/sweeper/sampler=grid")
    assert done.code == 0, done.err
    ends = {values[trial.params["seed"]]: trial for trial in done.trials()}
    assert {value: ends[value].value for value in NUMBERS} == NUMBERS
    states = {value: ends[value].state for value in OTHERS}
    assert states == dict.fromkeys(OTHERS, TrialState.FAIL)
    for value in OTHERS:
        assert "must return 1 number(s), not " in ends[value].user_attrs[ERROR], value


def test_tensors_without_dimensions_are_numbers(app: Callable[..., App]) -> None:
    pytest.importorskip("torch")
    body = """
        import torch
        return torch.tensor(cfg.x, requires_grad=cfg.x > 0)
    """
    done = app(body)("hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert [t.value for t in done.trials()] == pytest.approx([t.params["x"] for t in done.trials()])
