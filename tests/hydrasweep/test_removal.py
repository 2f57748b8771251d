"""What goes with a sweep that is deleted, what stays, and what is refused."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from apps import App
from optuna.trial import TrialState
from planted import journal, plant, searched, trial

from hydrasweep import starts, storage
from hydrasweep.errors import Outage, UserError
from hydrasweep.liveness import OWNER, identity
from hydrasweep.removal import Removal
from hydrasweep.trial_runs import URI

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    storage.close_storages()


def claimed(folder: Path) -> Path:
    (folder / starts.CLAIM).write_text("id")
    return folder


def active(client: "MlflowClient") -> set[str]:
    """The names of the runs that are not in the trash."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return {run.info.run_name for run in client.search_runs([experiment.experiment_id])}


BODY = """
    import mlflow
    with mlflow.start_run():
        mlflow.log_metric("loss", cfg.x)
    return cfg.x
"""


def test_sweep_goes_with_its_runs_and_leaves_those_of_others(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    task = app(BODY)
    for words in ((), ("hydra.sweeper.study_name=t", "hydra.sweep.dir=other")):
        done = task("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=2", *words)
        assert done.code == 0, done.err
    (tmp_path / "sweep" / "notes.txt").write_text("mine")
    assert {"sweep s", "sweep t", "000", "001"} == active(client)
    removal = Removal.of(tmp_path / "sweep")
    told = str(removal)
    assert "Sweep s: finished, 2 COMPLETE" in told
    assert re.search(r"deletes \d+ files of [\d.]+ MB in ", told)
    assert "leaves, as it is not the sweep's: notes.txt" in told
    assert f"moves 3 runs to the trash of sqlite:///{tmp_path}/mlflow.db" in told
    removal.execute()
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["notes.txt"]
    assert active(client) == {"sweep t", "000", "001"}
    assert (tmp_path / "other" / "trials.csv").exists()
    Removal.of(tmp_path / "other").execute()
    assert not (tmp_path / "other").exists()
    assert active(client) == set()
    done = task("hydra.sweeper.n_trials=2")  # the name is free again
    assert done.states() == ["COMPLETE"] * 2


def test_copy_of_a_sweep_goes_without_the_studies_and_runs_of_the_original(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    words = ("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1")
    done = app(BODY)(*words, f"hydra.sweeper.storage={url}")
    assert done.code == 0, done.err
    shutil.copytree(tmp_path / "sweep", tmp_path / "copy")
    removal = Removal.of(tmp_path / "copy")
    assert f"leaves its runs at sqlite:///{tmp_path}/mlflow.db: they are those of " in str(removal)
    removal.execute()
    assert not (tmp_path / "copy").exists()
    assert active(client) == {"sweep s", "000"}
    assert optuna.get_all_study_names(url) == ["s"]
    (tmp_path / "sweep").rename(tmp_path / "moved")  # and no copy
    Removal.of(tmp_path / "moved").execute()
    assert active(client) == set()
    assert optuna.get_all_study_names(url) == []


def test_runs_that_cannot_be_reached_keep_the_sweep(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = app(BODY)("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    assert active(client) == {"sweep s", "000"}
    monkeypatch.delenv(URI)
    monkeypatch.chdir(tmp_path)
    there, away = tmp_path / "mlflow.db", tmp_path / "away.db"
    there.rename(away)
    removal = Removal.of(tmp_path / "sweep")
    assert f"leaves its runs at sqlite:///{there}: they are not there" in str(removal)
    assert not there.exists()  # to look into it would have made it
    there.write_text("no database")
    with pytest.raises(Outage, match=r"MLflow's store at sqlite.* can't be used"):
        Removal.of(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "trials.csv").exists()


def test_studies_in_a_storage_elsewhere_go_by_the_sweeps_name(
    app: Callable[..., App], tmp_path: Path
) -> None:
    task = app("return cfg.x")
    for name in ("s", "s2"):
        done = task(
            "hydra/sweeper/storage=journal",
            f"hydra.sweeper.storage.log_storage.file_path={tmp_path}/shared.journal",
            f"hydra.sweeper.study_name={name}", f"hydra.sweep.dir={name}",
            "kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra/sweeper/confirm=two_seeds",
        )  # fmt: skip
        assert done.code == 0, done.err
    backend = optuna.storages.journal.JournalFileBackend(f"{tmp_path}/shared.journal")
    before = optuna.get_all_study_names(optuna.storages.JournalStorage(backend))
    Removal.of(tmp_path / "s").execute()
    after = optuna.get_all_study_names(optuna.storages.JournalStorage(backend))
    assert len(before) == 12
    assert {name.partition("/")[0] for name in after} == {"s2", "s2@confirm", "s2@final"}
    assert not (tmp_path / "s").exists()


def test_sweep_that_may_run_is_refused(tmp_path: Path) -> None:
    elsewhere = {**identity(), "host": "elsewhere"}
    own = f"process {os.getpid()}"
    for name, owner, told in (
        ("here", identity(), own), ("there", elsewhere, f"{own} on elsewhere"),
    ):  # fmt: skip
        running = trial(state=TrialState.RUNNING, attrs={OWNER: owner})
        folder = claimed(plant(tmp_path / name, {"": [*searched(), running]}))
        with pytest.raises(UserError, match=rf"running, or may be \({told}\): stop it first"):
            Removal.of(folder)
        assert optuna.get_all_study_names(journal(folder)) == [name]


def test_folder_that_no_sweep_has_made_is_refused(tmp_path: Path) -> None:
    folder = plant(tmp_path / "s", {"": searched()})
    with pytest.raises(UserError, match="is no folder that a sweep has made"):
        Removal.of(folder)
    assert (folder / "multirun.yaml").exists()


def test_folder_that_is_more_than_a_sweeps_keeps_the_rest(
    app: Callable[..., App], tmp_path: Path
) -> None:
    """Some put their sweeps into the project's own folder."""
    done = app("return cfg.x")("hydra.sweep.dir=.")
    assert done.code == 0, done.err
    removal = Removal.of(tmp_path)
    assert "not the sweep's: app.py, conf/, err.txt, out.txt" in str(removal)
    removal.execute()
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        "app.py", "conf", "err.txt", "out.txt",
    }  # fmt: skip


def test_link_to_a_sweeps_folder_leads_to_it(app: Callable[..., App], tmp_path: Path) -> None:
    assert app("return cfg.x")().code == 0
    (tmp_path / "outside.txt").write_text("mine")
    (tmp_path / "sweep" / "000" / "link").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "latest").symlink_to("sweep")
    Removal.of(tmp_path / "latest").execute()
    assert not (tmp_path / "sweep").exists()
    assert (tmp_path / "outside.txt").read_text() == "mine"
