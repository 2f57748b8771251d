"""Config groups are sorted into folders, and swept over.

They: ``train/loss_fn=bce,dice`` and ``model: image/mlpx``.
Source: github.com/facebookresearch/hydra/issues/1766
Right: each choice is a stratum, whose folders, tables and recipe are named with a ``-``.
"""

from collections.abc import Callable
from pathlib import Path

from apps import CONFIG, App


def test_choice_in_a_folder_is_a_stratum(app: Callable[..., App], tmp_path: Path) -> None:
    defaults = "defaults:\n  - kind: a\n"
    config = CONFIG.replace("kind: a\n", "").replace("defaults:\n", defaults)
    task = app("return cfg.x + cfg.kind.offset", config)
    (tmp_path / "conf" / "kind" / "sub").mkdir(parents=True)
    (tmp_path / "conf" / "kind" / "a.yaml").write_text("offset: 0\n")
    (tmp_path / "conf" / "kind" / "sub" / "b.yaml").write_text("offset: 10\n")
    words = ("kind=choice(a,sub/b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2")
    done = task(*words, "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")
    assert done.code == 0, done.err
    folders = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert {"a-000", "sub-b-000", "sub-b-confirm-000", "sub-b-final-000"} <= folders
    assert {row["kind"]: float(row["value"]) > 5 for row in done.table()} == {
        "a": False,
        "sub/b": True,
    }
    assert "override /kind: sub/b" in (tmp_path / "sweep" / "best" / "sub-b.yaml").read_text()


def test_choices_with_one_name_for_their_folders_are_refused(app: Callable[..., App]) -> None:
    words = ("kind=choice(sub-b,sub/b)", "hydra.sweeper.stratify=kind")
    done = app("return cfg.x")(*words)
    assert done.code == 1
    assert "hydra.sweeper.stratify=null" in done.err
