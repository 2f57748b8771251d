"""The experiment is deleted in MLflow's UI, and the next sweep is to be recorded there.

They: tidied up in the UI; an experiment in the bin keeps its name, and takes no runs.
Source: github.com/mlflow/mlflow/issues/2690, github.com/mlflow/mlflow/issues/6445
Right: told before any trial, with the command that restores it, which works.
"""

import shlex
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

from apps import App

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_sweep_says_how_to_restore_the_experiment(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    task, words = app("return cfg.x"), ("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=1")
    client.delete_experiment(client.create_experiment("tests"))
    done = task(*words)
    assert done.code == 1
    assert done.err.startswith("Error: MLflow's experiment tests was deleted: restore it by MLFLOW")
    assert len(done.err.splitlines()) == 1
    assert done.study().trials == []
    _, _, command = done.err.partition("restore it by ")
    command, _, _ = command.partition(", or ")
    subprocess.run(["env", *shlex.split(command)], check=True, capture_output=True)
    done = task(*words)
    assert done.code == 0, done.err
    assert len(done.table()) == 1
