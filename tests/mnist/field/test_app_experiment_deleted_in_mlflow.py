"""The experiment is deleted in MLflow's UI, and the next training is to be recorded there.

They: tidied up in the UI; an experiment in the bin keeps its name, and takes no runs.
Source: github.com/mlflow/mlflow/issues/2690, github.com/mlflow/mlflow/issues/6445
Right: told before anything is trained, with the command that restores it, whether MLflow is a file
or a server.
"""

from pathlib import Path

import pytest
from application import Compose, client_of, runs_of, server
from mlflow import MlflowClient

from hydrasweep import Outage
from train import train

WORDS = ("model=baseline", "epochs=1", "artifacts=false", "score_test=false")


def test_training_says_how_to_restore_the_experiment(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    client = client_of(root)
    number = client.create_experiment("hydrasweep")
    client.delete_experiment(number)
    with pytest.raises(Outage, match=f"restore --experiment-id {number}, ") as error:
        train(compose(*WORDS), output_dir)
    assert f"MLFLOW_TRACKING_URI=sqlite:///{root}/mlflow.db" in str(error.value)
    assert not (output_dir / "metrics.jsonl").exists()
    client.restore_experiment(number)
    train(compose(*WORDS), output_dir)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_servers_experiment_is_told_as_well(
    compose: Compose, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path) as (port, _):
        uri = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        client = MlflowClient(uri)
        number = client.create_experiment("hydrasweep")
        client.delete_experiment(number)
        with pytest.raises(Outage, match=f"{uri} mlflow experiments restore --experiment-id"):
            train(compose(*WORDS), output_dir)
    assert not (output_dir / "metrics.jsonl").exists()
