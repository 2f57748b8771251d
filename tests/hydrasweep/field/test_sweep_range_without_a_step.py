"""``range`` is written where an interval is meant.

They: ``optim.lr: range(1e-4, 1e-3)`` in a search file; range goes by steps of 1.
Source: hydra.cc/docs/advanced/override_grammar/extended/, and a public template's search file
Right: refused, since one value is no search: an interval or a step is meant.
"""

from collections.abc import Callable

import pytest
from apps import CONFIG, App


@pytest.mark.parametrize("where", ["command", "file"])
def test_range_with_one_value_is_refused(app: Callable[..., App], where: str) -> None:
    given = "range(1e-4, 1e-3)"
    config = CONFIG if where == "command" else CONFIG.replace("interval(-1.0, 1.0)", given)
    done = app("return cfg.x", config)(*([f"x={given}"] if where == "command" else []))
    assert done.code == 1
    assert f"x={given}: " in done.err
    assert "interval(" in done.err
    assert not (done.folder / "sweep").exists()


def test_range_with_a_step_is_searched(app: Callable[..., App]) -> None:
    done = app("return cfg.x")("x=range(1e-4, 1e-3, 1e-4)", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert all(1e-4 <= trial.params["x"] < 1e-3 for trial in done.trials())


def test_whole_number_or_interval_of_one_value_is_shown_as_that(app: Callable[..., App]) -> None:
    done = app("return cfg.x")(
        "x=interval(1, 1)", "seed=range(0, 1)", "hydra.sweeper.n_trials=1"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "  x: only 1.0\n  seed: only 0\n" in done.out
    assert done.trials()[0].params == {"x": 1.0, "seed": 0}
