"""A search file names a setting that one of the models has not.

They: swept over databases of which one has no user; every key must be in every choice.
Source: github.com/facebookresearch/hydra/issues/2888, github.com/facebookresearch/hydra/issues/283
Right: ``~KEY`` takes the setting out of the space, for models with and without it; where a model
without it is chosen, and Hydra refuses that word, ``hydra.sweeper.leave_out`` does.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from apps import CONFIG, App


def test_searched_key_is_taken_out(app: Callable[..., App]) -> None:
    done = app("return cfg.y + cfg.x")("~x", "y=interval(1.0, 2.0)", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert all(trial.params.keys() == {"y"} for trial in done.trials())
    assert [trial.value for trial in done.trials()] == [t.params["y"] for t in done.trials()]


@pytest.fixture
def task(app: Callable[..., App], tmp_path: Path) -> App:
    """An app with two kinds of models, of which the default has what is searched."""
    config = CONFIG.replace("kind: a\n", "").replace("defaults:\n", "defaults:\n  - kind: a\n")
    command = app("return len(cfg.kind)", config.replace("      x: ", "      kind.dropout: "))
    (tmp_path / "conf" / "kind").mkdir()
    (tmp_path / "conf" / "kind" / "a.yaml").write_text("dropout: 0.5\nwidth: 1\n")
    (tmp_path / "conf" / "kind" / "b.yaml").write_text("width: 1\n")
    return command


def test_key_that_one_model_lacks_is_taken_out_for_all(task: App, tmp_path: Path) -> None:
    words = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2")
    done = task(*words)
    assert done.code == 1
    assert "kind.dropout" in done.err
    assert not (tmp_path / "sweep").exists()
    done = task(*words, "~kind.dropout")
    assert done.code == 0, done.err
    assert {row["kind"]: row["value"] for row in done.table()} == {"a": "2.0", "b": "1.0"}


def test_key_that_the_chosen_model_lacks_is_left_out(task: App, tmp_path: Path) -> None:
    words = ("kind=b", "x=interval(0,1)", "hydra.sweeper.n_trials=2")
    assert task(*words, "~kind.dropout").code == 1
    done = task(*words, "hydra.sweeper.leave_out=[kind.width]")
    assert done.code == 1
    assert done.err == (
        "Error: hydra.sweeper.leave_out=['kind.width']: kind.width is not searched; these are: "
        "kind.dropout, x\n"
    )
    assert not (tmp_path / "sweep").exists()
    done = task(*words, "hydra.sweeper.leave_out=[kind.dropout]")
    assert done.code == 0, done.err
    assert "  left out: kind.dropout\n" in done.out
    assert all(trial.params.keys() == {"x"} for trial in done.trials())
