"""A training's run is deleted in MLflow's UI, and the training resumed.

They: tidied up in the UI; whatever is written to that run next must be in the active state.
Source: github.com/mlflow/mlflow/issues/689, github.com/mlflow/mlflow/issues/6606
Right: a new run holds all epochs, those before the deletion too, and a line says so.
"""

import logging
from pathlib import Path

import pytest
from application import Compose, at_line, client_of, epochs_of, runs_of
from mlflow.entities import ViewType

from train import train

WORDS = ("model=baseline", "epochs=3", "artifacts=false", "score_test=false")


def test_resumed_training_has_a_new_run(
    compose: Compose, root: Path, output_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with at_line("epoch 2/3", stop), pytest.raises(KeyboardInterrupt):
        train(compose(*WORDS), output_dir)
    client = client_of(root)
    (first,) = runs_of(client)
    client.delete_run(first.info.run_id)
    caplog.set_level(logging.WARNING, "mnist")
    train(compose(*WORDS), output_dir)
    assert f"{first.info.run_id} was deleted in MLflow" in caplog.text
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == epochs_of(client, run, "val/accuracy") == [1, 2, 3]
    assert (output_dir / "mlflow_run_id").read_text() == run.info.run_id
    ids = [first.info.experiment_id]
    (deleted,) = client.search_runs(ids, run_view_type=ViewType.DELETED_ONLY)
    assert deleted.info.run_id == first.info.run_id


def test_run_of_another_store_is_a_new_one(compose: Compose, root: Path, output_dir: Path) -> None:
    (output_dir / "mlflow_run_id").write_text("0" * 32)
    train(compose(*WORDS, "epochs=1"), output_dir)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1]
