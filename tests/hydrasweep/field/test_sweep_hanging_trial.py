"""A trial hangs.

They: let a study run over night, and found it at one trial that never ended; a limit for the whole
study is no help.
Source: github.com/optuna/optuna/issues/1484
Right: the trial fails after its own limit, which its record says; the sweep goes on.
"""

from collections.abc import Callable

import pytest
from apps import App
from optuna.trial import TrialState

from hydrasweep.stratum import WHY

LIMIT = "hydra.sweeper.trial_timeout=0.5"


def test_hanging_trial_fails_alone(app: Callable[..., App]) -> None:
    done = app("if cfg.x > 0.7: time.sleep(60)\nreturn cfg.x")(LIMIT, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert done.states() == ["FAIL", "COMPLETE"]
    (failed,) = (trial for trial in done.trials() if trial.state == TrialState.FAIL)
    assert "hydra.sweeper.trial_timeout=0.5" in failed.user_attrs[WHY]
    assert failed.params["x"] > 0.7


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_limit_without_time_is_refused(app: Callable[..., App], limit: str) -> None:
    done = app("return cfg.x")(f"hydra.sweeper.trial_timeout={limit}")
    assert done.code == 1
    assert f"hydra.sweeper.trial_timeout={float(limit)}" in done.err
