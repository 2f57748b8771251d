"""The file of the studies is deleted or emptied after a sweep, and the command run once more.

They: wrote into an output folder that was there already: old and new results mix unseen.
Source: github.com/facebookresearch/hydra/issues/1817, github.com/facebookresearch/hydra/issues/2103
Right: refused, since the folder holds another study's trials, of which nothing is read or written
over; another folder works.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from apps import SQLITE, App


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files if not path.name.startswith("study.db")}


@pytest.mark.parametrize("becomes", ["deleted", "empty"])
def test_folder_of_another_studys_trials_is_refused(
    app: Callable[..., App], tmp_path: Path, becomes: str
) -> None:
    task = app("return cfg.x")
    assert task(SQLITE, "hydra.sweeper.n_trials=1").code == 0
    path = tmp_path / "sweep" / "study.db"
    path.unlink()
    if becomes == "empty":
        path.touch()
    before = contents(tmp_path / "sweep")
    done = task(SQLITE, "hydra.sweeper.sampler.seed=7")
    assert done.code == 1
    assert "has the trials of another study" in done.err
    assert contents(tmp_path / "sweep") == before
    done = task(SQLITE, "hydra.sweep.dir=other", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    assert len(done.table(folder="other")) == 1
