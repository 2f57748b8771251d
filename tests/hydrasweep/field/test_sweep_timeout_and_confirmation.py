"""The time is up before all trials are done, and the winners are to be confirmed.

They: gave ``n_trials`` and ``timeout`` together; the study ended after one trial, and they asked
what its best trial is worth.
Source: github.com/optuna/optuna/issues/5158
Right: the best of what there is is confirmed; the same command goes on with the search later.
"""

from collections.abc import Callable
from typing import Any

from apps import App
from omegaconf import OmegaConf

CONFIRM = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")
TWO = "hydra.sweeper.n_trials=2"


def test_best_of_what_there_is_is_confirmed(app: Callable[..., App]) -> None:
    task = app("time.time = lambda: 1e12\nreturn cfg.x")
    done = task(*CONFIRM, TWO, "hydra.sweeper.timeout=60")
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE", "WAITING"]
    results: Any = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    winner = results.winners.all
    assert (winner.params.x, winner.confirm.n) == (done.trials()[0].params["x"], 1)
    assert (done.folder / "sweep" / "best" / "overall.yaml").exists()

    done = task(*CONFIRM, TWO)
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 2
    results = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    assert results.winners.all.params.x == min(trial.params["x"] for trial in done.trials())
