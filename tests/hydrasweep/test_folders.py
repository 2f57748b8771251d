"""How sweeps below a folder are listed and found."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydrasweep import starts
from hydrasweep.errors import UserError
from hydrasweep.folders import below, find, listing


def made(folder, name, when=1e9, **results):
    """A sweep's folder with the files that listing and finding read."""
    folder.mkdir(parents=True)
    (folder / starts.CLAIM).write_text("id")
    with starts.recorded(folder, 0, name, "python app.py -m"):
        pass
    if results:
        path = folder / "results.yaml"
        OmegaConf.save({"study": name, **results}, path)
        os.utime(path, (when, when))
    return folder


def found(value):
    return [{"number": 0, "values": [value]}]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_sweeps_are_listed_by_time_with_state_and_best_values(tmp_path):
    made(
        tmp_path / "a" / "late", "late", 2e9, directions=["maximize"],
        trials={"COMPLETE": 3, "FAIL": 2, "PRUNED": 1, "WAITING": 3, "RUNNING": 1},
        best={"cnn": found(0.5), "mlp": found(0.75), "none": []},
        winners={"cnn": {"confirm": {"mean": 0.625, "sd": 0.25}},
                 "mlp": {"confirm": {"mean": 0.5, "sd": None}}},
    )  # fmt: skip
    made(tmp_path / "early", "early", 1e9, directions=["minimize"], trials={"COMPLETE": 2},
         best={"all": found(0.125)})  # fmt: skip
    made(tmp_path / "two", "two", 1.5e9, directions=["minimize", "maximize"],
         trials={"COMPLETE": 2}, best={"all": [*found(1.0), *found(2.0)]})  # fmt: skip
    made(tmp_path / "begun", "begun")
    head, _, *rows = listing(Path()).strip().splitlines()
    assert head.split() == ["name", "state", "trials", "best", "confirmed", "when", "folder"]
    cells = {row.split()[0]: row.split() for row in rows}
    assert list(cells) == ["early", "two", "begun", "late"]
    assert cells["early"][1:4] == ["finished", "2/2", "0.1250"]
    assert " 2/2 " in rows[1]
    assert " 2 on the front " in rows[1]
    assert cells["begun"][2] == "0/0"
    assert " 6/10, 2 failed " in rows[3]
    assert " 0.7500 mlp " in rows[3]
    assert " 0.6250 ± 0.2500 cnn " in rows[3]
    assert rows[3].endswith(" a/late")


def test_column_without_any_cell_is_left_out(tmp_path):
    made(tmp_path / "s", "s", directions=["minimize"], trials={"COMPLETE": 1},
         best={"all": found(0.5)})  # fmt: skip
    assert "confirmed" not in listing(tmp_path)
    assert listing(tmp_path / "s") == listing(tmp_path)


def test_folder_without_sweeps_is_named(tmp_path):
    assert str(tmp_path) in listing(tmp_path)


def test_damaged_results_hide_no_other_sweep(tmp_path):
    folder = made(tmp_path / "s", "broken", trials={})
    (folder / "results.yaml").write_text("a: [")
    made(tmp_path / "t", "whole", directions=["minimize"], trials={"COMPLETE": 1},
         best={"all": found(0.5)})  # fmt: skip
    shown = listing(tmp_path)
    assert "broken" in shown
    assert " 0.5000 " in shown


def test_trials_virtual_environments_and_hidden_folders_are_not_searched(tmp_path):
    made(tmp_path / "s", "s")
    made(tmp_path / "s" / "000" / "inner", "inner")
    made(tmp_path / ".cache" / "hidden", "hidden")
    made(tmp_path / "venv" / "lib", "lib")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert list(below(Path())) == [Path("s")]


def test_sweep_is_found_by_its_folder_or_by_its_name(tmp_path):
    folder = made(tmp_path / "runs" / "2026-01-02", "lr")
    assert find("runs/2026-01-02").resolve() == folder
    assert find(str(folder)) == folder
    assert find("lr").resolve() == folder
    for name in ("2026-01-02", "l"):
        with pytest.raises(UserError, match=f"{name}:.*{tmp_path}.*python -m hydrasweep list"):
            find(name)
    with pytest.raises(UserError, match=r"runs:.* 2026-01-02"):  # the sweeps below it
        find("runs")


def test_sweep_of_an_earlier_version_has_the_name_of_its_folder(tmp_path):
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / starts.CLAIM).write_text("id")
    assert find("old").resolve() == folder
    assert " unknown " in listing(tmp_path)


def test_name_of_several_sweeps_is_refused_with_their_folders(tmp_path):
    for name in ("a", "b"):
        made(tmp_path / name / "x", "lr")
    with pytest.raises(UserError, match=r"lr:.*a/x, b/x"):
        find("lr")
