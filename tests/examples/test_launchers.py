"""An app with folders, logging and modules of its own, under each launcher."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign import copy

LAUNCHERS = [
    "basic",
    "joblib",
    pytest.param(
        "submitit_local",
        marks=pytest.mark.skipif(not find_spec("submitit"), reason="wants hydra-submitit-launcher"),
    ),
    pytest.param(
        "ray",
        marks=[
            pytest.mark.cluster,
            pytest.mark.skipif(not find_spec("ray"), reason="wants hydra-ray-launcher"),
        ],
    ),
]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_app_with_folders_logging_and_modules_of_its_own(tmp_path: Path, launcher: str) -> None:
    app = copy("own_folders", tmp_path)
    before = {path.name for path in app.folder.iterdir()}
    words = ["+hydra.launcher.ray.init.num_cpus=2"] if launcher == "ray" else []
    printed = app.run("-m", f"hydra/launcher={launcher}", *words)
    assert "step 1" not in printed  # what a trial logs stays off the screen
    rows = app.trials()
    assert Counter(row["state"] for row in rows) == {"COMPLETE": 6}
    for row in rows:
        folder = app.sweep() / f"00{row['number']}"
        made = json.loads((folder / "fit.json").read_text())
        assert made["slope"] == float(row["slope"])
        assert made["error"] == float(row["value"])
        text = (folder / "line.log").read_text()
        levels, pids, messages = zip(*(line.split("|") for line in text.splitlines()), strict=True)
        assert messages == (
            "read 5 points, slope " + row["slope"],
            *(f"step {i}" for i in range(5)),
        )
        assert set(pids) == {str(made["pid"])}
        assert set(levels) == {"INFO", "DEBUG"}
        printed = (folder / "app.log").read_text()
        assert printed.count(f"error: {row['value']}") == 1
        assert (folder / "ended.txt").read_text() == f"COMPLETED {row['slope']}\n"
    assert len(list(app.sweep().rglob("ended.txt"))) == len(rows)  # a worker's own job has none
    created = {path.name for path in app.folder.iterdir()} - before
    assert created <= {"sweeps", "__pycache__"}
    n_workers = 1 if launcher == "basic" else 2
    assert len(list((app.sweep() / "workers").iterdir())) == n_workers
