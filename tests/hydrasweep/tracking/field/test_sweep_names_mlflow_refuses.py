"""Settings have names that MLflow takes no parameters by.

They: logged a metric ``MAP@k`` and a parameter with brackets: MLflow takes letters, digits,
``_-./: `` alone and ends the run.
Source: github.com/mlflow/mlflow/issues/9425, github.com/Lightning-AI/pytorch-lightning/issues/2058
Right: the sweep ends well, and MLflow has the settings by cleaned names.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from apps import App

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_sweep_with_such_names_is_recorded(app: Callable[..., App], client: "MlflowClient") -> None:
    body = """
        assert dict(cfg.note) == {"a@b": 1}
        assert "y" not in cfg
        assert isinstance(cfg.extra, bool)
        return cfg.x
    """
    done = app(body)(
        "hydra.sweeper.mlflow=true", "+note={a@b:1}", "~y", "+extra=choice(true,false)",
        "hydra.sweeper.objective=MAP@k", "hydra.sweeper.n_trials=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 2
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    (key,) = (key for key in run.data.params if key.endswith("extra"))
    assert key.startswith("space.")
    assert run.data.params[key] == "one of True, False"
