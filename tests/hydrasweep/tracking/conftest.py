"""Fixtures of the sweeper's tests that need MLflow."""

import shutil
import textwrap
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import apps
import mlflow
import pytest
import shared
from mlflow import MlflowClient

from hydrasweep.trial_runs import NAME, URI

MORE = """
import mlflow

os.environ["MLFLOW_RUN_CONTEXT"] = '{"team": "blue"}'

class Adds(mlflow.pyfunc.PythonModel):
    def __init__(self, x):
        self.x = x

    def predict(self, context, model_input):
        return [value + self.x for value in model_input]
"""
# Trials of stratum a close their run, those of b leave that to the sweeper. One logs a model.
TRACKED = f"""
import contextlib
run = mlflow.start_run()
with run if cfg.kind == "a" else contextlib.nullcontext():
    mlflow.log_metric("loss", cfg.x)
    assert hydrasweep.trial().parent_run_id == run.data.tags["mlflow.parentRunId"]
    if hydrasweep.trial().name == "a-final-000":
        mlflow.pyfunc.log_model(name="model", python_model=Adds(cfg.x), pip_requirements=[])
{textwrap.indent(shared.BODY, "    ")}
"""


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store. Creating one takes MLflow seconds, so tests copy this one."""

    def create(folder: Path) -> None:
        with chdir(folder):  # where MLflow creates its folder of artifacts
            assert MlflowClient("sqlite:///mlflow.db").search_experiments()

    return shared.folder(tmp_path_factory, "store", create) / "mlflow.db"


@pytest.fixture
def client(
    tmp_path: Path, mlflow_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    """A client of a new store, which the environment names."""
    shutil.copy(mlflow_store, tmp_path)
    monkeypatch.setenv(URI, f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv(NAME, "tests")
    # MLflow caches connections by URI. Another spelling keeps forked apps from sharing this one.
    yield MlflowClient(f"sqlite:///{tmp_path}/./mlflow.db")
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> apps.Ended:
    """The sweep ``finished`` with MLflow, whose store is mlflow.db in its folder and whose
    experiment is ``tests``. Tests only read it; one that changes something copies it first."""
    database = shared.root(tmp_path_factory) / "tracked" / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(URI, f"sqlite:///{database}")
        patch.setenv(NAME, "tests")
        return shared.sweep(
            tmp_path_factory,
            "tracked",
            "hydra.sweeper.mlflow=true",
            "hydra.sweeper.registered_model=adds",
            "hydra.sweeper.objective=x",
            body=TRACKED,
            files=[mlflow_store],
            more=MORE,
            main="task(); print('kept', os.environ['MLFLOW_RUN_CONTEXT'], mlflow.active_run())",
        )


@pytest.fixture
def store(tracked: apps.Ended) -> MlflowClient:
    """A client of the store of ``tracked``."""
    return MlflowClient(f"sqlite:///{tracked.folder}/./mlflow.db")
