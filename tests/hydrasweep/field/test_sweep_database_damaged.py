"""The file of the studies is damaged.

They: had it on a network disk; from some day on each start ended in a traceback of SQLAlchemy's.
Source: github.com/optuna/optuna/issues/5385, github.com/optuna/optuna/issues/815
Right: one sentence with the file's name and what to do; the file is left as it is.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from apps import SQLITE, App


@pytest.mark.parametrize("when", ["before", "between"])
def test_damaged_file_is_one_sentence(app: Callable[..., App], tmp_path: Path, when: str) -> None:
    task, path = app("return cfg.x"), tmp_path / "sweep" / "study.db"
    if when == "between":
        assert task(SQLITE, "hydra.sweeper.n_trials=1").code == 0
    path.parent.mkdir(exist_ok=True)
    damaged = b"no database" * 1000
    path.write_bytes(damaged)
    done = task(SQLITE, "hydra.sweeper.n_trials=6")
    assert done.code == 1
    assert done.err.startswith(f"Error: hydra.sweeper.storage: {path} ")
    assert len(done.err.splitlines()) == 1
    assert path.read_bytes() == damaged
