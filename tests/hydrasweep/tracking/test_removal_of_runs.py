"""What ``Removal`` does with the runs of a sweep in MLflow."""

import re
import shutil

import optuna
import pytest

from hydrasweep.errors import Outage
from hydrasweep.removal import Removal
from hydrasweep.trial_runs import URI

BODY = """
    import mlflow
    with mlflow.start_run():
        return cfg.x
"""


def active(client):
    """The names of the runs that are not in the trash."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return sorted(run.info.run_name for run in client.search_runs([experiment.experiment_id]))


def test_sweep_is_deleted_with_its_runs_and_studies_and_a_copy_without_them(app, client, tmp_path):
    url, task = f"sqlite:///{tmp_path}/studies.db", app(BODY)
    for name in "st":
        done = task(
            "hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1", f"hydra.sweep.dir={name}",
            f"hydra.sweeper.study_name={name}", f"hydra.sweeper.storage={url}",
        )  # fmt: skip
        assert done.code == 0, done.err
    assert active(client) == ["000", "000", "sweep s", "sweep t"]
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    removal = Removal.of(tmp_path / "copy")
    assert f"sqlite:///{tmp_path}/mlflow.db" in str(removal)
    removal.execute()
    assert not (tmp_path / "copy").exists()
    assert active(client) == ["000", "000", "sweep s", "sweep t"]
    assert optuna.get_all_study_names(url) == ["s", "t"]

    (tmp_path / "s").rename(tmp_path / "moved")  # this is no copy
    removal = Removal.of(tmp_path / "moved")
    assert re.search(rf" 2 runs .*sqlite:///{tmp_path}/mlflow\.db", str(removal))
    removal.execute()
    assert not (tmp_path / "moved").exists()
    assert (tmp_path / "t" / "trials.csv").exists()
    assert active(client) == ["000", "sweep t"]
    assert optuna.get_all_study_names(url) == ["t"]


def test_sweep_is_kept_while_its_runs_cannot_be_reached(app, client, tmp_path, monkeypatch):
    done = app(BODY)("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    assert active(client) == ["000", "sweep s"]
    monkeypatch.delenv(URI)
    monkeypatch.chdir(tmp_path)
    store = tmp_path / "mlflow.db"
    store.rename(tmp_path / "away.db")
    removal = Removal.of(tmp_path / "sweep")
    assert removal.runs == []
    assert f"sqlite:///{store}" in str(removal)
    assert not store.exists()  # opening it would have created it
    store.write_text("no database")
    with pytest.raises(Outage, match=f"sqlite:///{store}"):
        Removal.of(tmp_path / "sweep")
    assert (tmp_path / "sweep" / "trials.csv").exists()
