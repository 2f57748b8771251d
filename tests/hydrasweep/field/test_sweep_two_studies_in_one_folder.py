"""Two sweeps have one output folder.

They: started runs whose folders, named by the time or by hand, were the same: each wrote over the
other's files, and nobody could tell which is whose.
Source: github.com/facebookresearch/hydra/issues/1817, github.com/hydra-ecosystem/hydra/issues/2925
Right: the second is refused, and the first goes on as before.
"""

from collections.abc import Callable

from apps import App


def test_second_study_in_a_folder_is_refused(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    rows = task("hydra.sweeper.study_name=first", "hydra.sweeper.n_trials=1").table()
    done = task("hydra.sweeper.study_name=second", "hydra.sweeper.sampler.seed=7")
    assert done.code == 1
    assert "has the trials of another study" in done.err
    assert done.table() == rows
    assert not done.study("second").trials
    done = task("hydra.sweeper.study_name=first", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert done.table()[:1] == rows
    assert len(done.table()) == 2
