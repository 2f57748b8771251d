"""A setting that is best in the search diverges on another seed.

They: asked for the same settings on several seeds, and averaged over those that gave a number
(``np.nanmean``), which hides the seeds that gave none.
Source: github.com/optuna/optuna/issues/433
Right: the setting that came through every seed wins; the table shows the seed that failed.
"""

from collections.abc import Callable
from typing import Any

from apps import App
from omegaconf import OmegaConf


def test_setting_with_a_failed_seed_does_not_win(app: Callable[..., App]) -> None:
    body = """
        if cfg.x < 0 and cfg.seed == 2:
            return math.nan
        return cfg.x
    """
    done = app(body)(
        "hydra/sweeper/confirm=fresh_seeds", "hydra.sweeper.confirm.n_seeds=2",
        "hydra.sweeper.n_trials=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    best, second = sorted(trial.params["x"] for trial in done.trials())
    results: Any = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    winner = results.winners.all
    assert (winner.params.x, winner.confirm.n, winner.confirm.n_failed) == (second, 2, 0)
    rows = [row for row in done.table("confirmation") if row["state"] == "FAIL"]
    assert [(row["x"], row["seed"]) for row in rows] == [(str(best), "2")]
