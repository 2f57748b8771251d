"""A YAML file is edited between two starts of a sweep.

They: changed a file, or the branch, and went on with the sweep: later jobs use the new values.
Source: github.com/facebookresearch/hydra/issues/1945
Right: refused with the key, what it was and what it is now, unless the key may change.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from apps import CONFIG, App

ONE, TWO = "hydra.sweeper.n_trials=1", "hydra.sweeper.n_trials=2"
MAY = "hydra.sweeper.may_change=[epochs]"


def edit(folder: Path) -> None:
    path = folder / "conf" / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))


@pytest.fixture
def task(app: Callable[..., App]) -> App:
    return app("hydrasweep.record(n=cfg.epochs)\nreturn cfg.x", CONFIG + "epochs: 1\n")


def test_edited_value_is_refused_and_the_advice_works(task: App, tmp_path: Path) -> None:
    assert task(ONE).code == 0
    edit(tmp_path)
    done = task(TWO)
    assert done.code == 1
    assert "exists with other settings" in done.err
    assert "epochs: was 1, now 3" in done.err
    assert MAY in done.err
    assert [row["n"] for row in done.table()] == ["1.0"]
    done = task(TWO, MAY)
    assert done.code == 0, done.err
    assert [row["n"] for row in done.table()] == ["1.0", "3.0"]


def test_value_that_may_change_may_be_edited(task: App, tmp_path: Path) -> None:
    assert task(ONE, MAY).code == 0
    edit(tmp_path)
    done = task(TWO, MAY)
    assert done.code == 0, done.err
    assert [row["n"] for row in done.table()] == ["1.0", "3.0"]


def test_edited_file_of_any_choice_is_refused(app: Callable[..., App], tmp_path: Path) -> None:
    task = app(
        "return cfg.x + cfg.kind.epochs",
        CONFIG.replace("kind: a\n", "").replace("defaults:\n", "defaults:\n  - kind: a\n"),
    )
    (tmp_path / "conf" / "kind").mkdir()
    for kind in "ab":
        (tmp_path / "conf" / "kind" / f"{kind}.yaml").write_text("epochs: 1\n")
    assert task("kind=choice(a,b)", ONE).code == 0
    (tmp_path / "conf" / "kind" / "b.yaml").write_text("epochs: 3\n")
    done = task("kind=choice(a,b)", TWO)
    assert done.code == 1
    assert "kind.epochs" in done.err
    assert "was 1, now 1 or 3" in done.err
