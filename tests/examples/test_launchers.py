"""An app with folders, logging and modules of its own, under each launcher."""

import json

import pytest
from foreign import copy, needs

LAUNCHERS = [
    pytest.param("basic", 1, id="basic", marks=pytest.mark.slow),
    pytest.param("joblib", 2, id="joblib"),
    pytest.param("submitit_local", 2, id="submitit", marks=needs("submitit")),
    pytest.param("ray", 2, id="ray", marks=[pytest.mark.cluster, needs("ray")]),
]


@pytest.mark.parametrize(("launcher", "n_workers"), LAUNCHERS)
def test_app_with_folders_logging_and_modules_of_its_own(tmp_path, launcher, n_workers):
    app = copy("own_folders", tmp_path)
    before = {path.name for path in app.folder.iterdir()}
    cpus = ["+hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray" else []
    printed = app.run("-m", f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=4", *cpus)
    assert "step 1" not in printed  # the log of a trial is not on the screen
    rows = app.trials()
    assert [row["state"] for row in rows] == ["COMPLETE"] * 4
    for row in rows:
        folder = app.sweep() / f"00{row['number']}"
        made = json.loads((folder / "fit.json").read_text())
        assert (made["slope"], made["error"]) == (float(row["slope"]), float(row["value"]))
        lines = [line.split("|") for line in (folder / "line.log").read_text().splitlines()]
        levels, pids, messages = map(list, zip(*lines, strict=True))
        read = f"read 5 points, slope {row['slope']}"
        assert messages == [read, *(f"step {i}" for i in range(5))]
        assert set(pids) == {str(made["pid"])}
        assert set(levels) == {"INFO", "DEBUG"}
        assert (folder / "app.log").read_text().count(f"error: {row['value']}") == 1
        assert (folder / "ended.txt").read_text() == f"COMPLETED {row['slope']}\n"
    assert len(list(app.sweep().rglob("ended.txt"))) == len(rows)  # no callback for workers
    assert {path.name for path in app.folder.iterdir()} - before <= {"sweeps", "__pycache__"}
    # The basic launcher starts no worker.
    assert len(list(app.sweep().glob("workers/*"))) == (0 if launcher == "basic" else n_workers)
