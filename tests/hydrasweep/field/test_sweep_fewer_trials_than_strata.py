"""Fewer trials are asked for than there are choices to divide them among.

They: tried a large search file with ``n_trials=2`` first, to see whether it works.
Source: hydra.cc/docs/plugins/optuna_sweeper (``n_trials``)
Right: it works; a stratum without trials has no winner, and none is made up.
"""

from collections.abc import Callable
from typing import Any

from apps import App
from omegaconf import OmegaConf


def test_strata_without_trials_have_no_winner(app: Callable[..., App]) -> None:
    done = app("return cfg.x")(
        "kind=choice(a,b,c)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2",
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [len(done.trials(f"s/{kind}")) for kind in "abc"] == [1, 1, 0]
    results: Any = OmegaConf.load(done.folder / "sweep" / "results.yaml")
    assert results.winners.keys() == {"a", "b"}
    names = {path.stem for path in (done.folder / "sweep" / "best").iterdir()}
    assert names == {"a", "b", "overall"}
