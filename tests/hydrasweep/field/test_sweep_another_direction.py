"""A study is started again with another direction, or with another objective.

They: changed minimize to maximize, or the metric that is returned, and kept the study's name.
Optuna opens a study that exists and keeps its old direction without a word.
Source: github.com/hydra-ecosystem/hydra/issues/2047
Right: refused, with what it was and what it is now.
"""

from collections.abc import Callable

from apps import App


def test_another_objective_is_refused(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    assert task("hydra.sweeper.n_trials=1").code == 0
    for word, told in (
        ("hydra.sweeper.direction=maximize", "direction: was minimize, now maximize"),
        ("hydra.sweeper.objective=val/loss", "objective: was value, now val/loss"),
    ):
        done = task(word)
        assert done.code == 1
        assert "exists with other settings" in done.err
        assert told in done.err
        assert len(done.trials()) == 1
