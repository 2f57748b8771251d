"""A task stops by itself, or its number of epochs is searched: trials end at different steps.

They: put Lightning's EarlyStopping in place of pruning, or searched ``epochs``.
Source: github.com/optuna/optuna/issues/4203, github.com/optuna/optuna/issues/1001
Right: trials that came to their end are ranked by their value alone; no long one wins for its
length.
"""

from collections.abc import Callable
from typing import Any

from apps import CONFIG, App
from omegaconf import OmegaConf

CONFIRM = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")


def test_best_value_wins_though_it_stopped_early(app: Callable[..., App]) -> None:
    body = """
        for epoch in range(2 if cfg.x < 0 else 6):
            hydrasweep.report(cfg.x + 1 / (epoch + 1), epoch)
        return cfg.x
    """
    done = app(body)(*CONFIRM, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    steps = {float(row["x"]): row["steps"] for row in done.table()}
    best = min(steps)
    assert steps[best] == "2"
    assert max(steps.values()) == "6"
    results: Any = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    assert results.winners.all.params.x == results.best.all[0].params.x == best
    assert [row["x"] for row in done.table("confirmation")] == [str(best)] * 2


def test_fewest_epochs_win_where_they_are_best(app: Callable[..., App]) -> None:
    body = """
        for epoch in range(cfg.epochs):
            hydrasweep.report(float(cfg.epochs), epoch)
        return cfg.epochs
    """
    done = app(body, CONFIG + "epochs: 1\n")(
        *CONFIRM,
        "epochs=choice(2,5,9)",
        "hydra.sweeper.enqueue=[{epochs: 9}, {epochs: 2}]",
        "hydra.sweeper.n_trials=2",
    )
    assert done.code == 0, done.err
    results: Any = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    assert results.winners.all.params.epochs == 2
