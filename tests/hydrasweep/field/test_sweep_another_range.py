"""A study goes on under its name with another range, or with some of its choices only.

They: started again with a longer or a shorter list of choices and the same study name.
Source: github.com/optuna/optuna/issues/2199, github.com/optuna/optuna/issues/2328
Right: refused with the difference, before any trial; the old command goes on as before.
"""

from collections.abc import Callable

from apps import App

STRATA = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2")


def test_another_space_is_refused_with_the_difference(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    assert task(*STRATA).code == 0
    for word, told in (
        ("x=interval(-1.0, 0.5)", "now -1 to 0.5"),
        ("kind=a", 'kind: was ["a", "b"], now ["a"]'),
    ):
        done = task(*STRATA, word)
        assert done.code == 1
        assert "exists with other settings" in done.err
        assert told in done.err
        assert "Traceback" not in done.err
    assert [done.states(f"s/{kind}") for kind in "ab"] == [["COMPLETE"]] * 2
    assert "is finished: 2 trials" in task(*STRATA).out
