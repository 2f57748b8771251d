"""A sweep's run is deleted in MLflow's UI, and the sweep goes on.

They: tidied up in the UI; whatever is written to that run next must be in the active state.
Source: github.com/mlflow/mlflow/issues/689, github.com/mlflow/mlflow/issues/6606
Right: the sweep has a new run, whose children are the new trials' runs, and ends with 0.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from apps import App

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_sweep_whose_run_was_deleted_has_a_new_one(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    body = """
        import mlflow
        with mlflow.start_run():
            mlflow.log_metric("loss", cfg.x)
        return cfg.x
    """
    task = app(body)
    assert task("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1").code == 0
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    for run in client.search_runs([experiment.experiment_id]):
        client.delete_run(run.info.run_id)
    done = task("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == "sweep s")
    (child,) = (run for run in runs if run != parent)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["trial"] == "001"
    assert {run.info.status for run in runs} == {"FINISHED"}
