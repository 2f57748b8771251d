"""The seed is one of the searched parameters.

They: were advised to sweep with ``seed=interval(0, 10000)``, to find a good seed or to average.
Source: github.com/ashleve/lightning-hydra-template/issues/158
Right: refused at the start where winners are to be confirmed on fresh seeds; else searched.
"""

from collections.abc import Callable

from apps import App


def test_searched_seed_cannot_be_confirmed(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    for word in ("seed=range(0,9)", "seed=int(interval(0, 10000))", "++seed=range(0,9)"):
        done = task("hydra/sweeper/confirm=two_seeds", word, "hydra.sweeper.dry_run=true")
        assert done.code == 1, word
        assert "hydra.sweeper.confirm.seed=seed: is searched" in done.err
        assert "Traceback" not in done.err


def test_seed_is_searched_where_nothing_is_confirmed(app: Callable[..., App]) -> None:
    done = app("return cfg.seed")("seed=range(0,9)", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert [trial.value for trial in done.trials()] == [t.params["seed"] for t in done.trials()]
