"""What ``Removal`` deletes, keeps and refuses. Runs in MLflow: tracking/test_removal_of_runs.py."""

import os
import shutil

import optuna
import pytest
from optuna.trial import TrialState
from planted import journal, plant, searched, trial

from hydrasweep import starts
from hydrasweep.errors import UserError
from hydrasweep.liveness import OWNER, identity
from hydrasweep.removal import Removal


def claimed(folder):
    (folder / starts.CLAIM).write_text("id")
    return folder


def test_all_files_of_a_sweep_are_deleted_and_no_others(finished, tmp_path):
    """Some put their sweeps into the project's own folder."""
    shutil.copytree(finished.folder / "sweep", tmp_path, dirs_exist_ok=True)
    (tmp_path / "app.py").touch()
    (tmp_path / "conf").mkdir()
    n_files = sum(path.is_file() for path in (finished.folder / "sweep").rglob("*"))
    removal = Removal.of(tmp_path)
    assert removal.others == [tmp_path / "app.py", tmp_path / "conf"]
    text = str(removal)
    for part in ("s: finished", "4 COMPLETE, 1 FAIL, 1 PRUNED", f" {n_files} ", "app.py, conf/"):
        assert part in text
    removal.execute()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "app.py", tmp_path / "conf"]
    assert len(finished.names()) == 6  # a copy is deleted without the studies of the original


def test_link_to_a_folder_is_followed_and_links_in_it_are_not(finished, tmp_path):
    shutil.copytree(finished.folder / "sweep", tmp_path / "sweep")
    (tmp_path / "outside.txt").write_text("mine")
    (tmp_path / "sweep" / "a-000" / "link").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "latest").symlink_to("sweep")
    Removal.of(tmp_path / "latest").execute()
    assert not (tmp_path / "sweep").exists()
    assert (tmp_path / "outside.txt").read_text() == "mine"


def test_studies_in_a_storage_elsewhere_are_deleted_by_the_name_of_the_sweep(
    tmp_path,
):
    shared = journal(tmp_path)
    kept = {
        "_target_": "optuna.storages.JournalStorage",
        "log_storage": {"file_path": f"{tmp_path}/study.journal"},
    }
    phases = {f"{phase}/{kind}": searched(1) for phase in ("", "@confirm", "@final")
              for kind in "ab"}  # fmt: skip
    for name in ("s", "s2"):
        folder = claimed(plant(tmp_path / name, phases, sweeper={"storage": kept}))
        own = journal(folder)
        for study in optuna.get_all_study_names(own):
            optuna.copy_study(from_study_name=study, from_storage=own, to_storage=shared)
        (folder / "study.journal").unlink()
    assert len(optuna.get_all_study_names(shared)) == 12
    Removal.of(tmp_path / "s").execute()
    after = optuna.get_all_study_names(journal(tmp_path))
    assert sorted(after) == sorted(f"s2{key}" for key in phases)
    assert not (tmp_path / "s").exists()


def test_sweep_that_may_be_running_is_refused(tmp_path):
    elsewhere = {**identity(), "host": "elsewhere"}
    own = f"process {os.getpid()}"
    for name, owner, shown in (
        ("here", identity(), own),
        ("there", elsewhere, f"{own} on elsewhere"),
    ):
        running = trial(state=TrialState.RUNNING, attrs={OWNER: owner})
        folder = claimed(plant(tmp_path / name, {"": [*searched(), running]}))
        with pytest.raises(UserError, match=rf"{folder}: .*running.*\({shown}\)"):
            Removal.of(folder)
        assert optuna.get_all_study_names(journal(folder)) == [name]


def test_folder_without_the_mark_of_a_sweep_is_refused(tmp_path):
    folder = plant(tmp_path / "s", {"": searched()})
    with pytest.raises(UserError, match=f"{folder}:"):
        Removal.of(folder)
    assert (folder / "multirun.yaml").exists()
