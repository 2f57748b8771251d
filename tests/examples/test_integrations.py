"""Frameworks that report to the sweep by callbacks, or record in MLflow by themselves."""

from collections import Counter

import pytest
from foreign import STATE, children, copy, example, needs, steps


def assert_nested(runs, rows, name, runs_of_complete=1):
    """Each trial's runs are children of the sweep's and have its name and state."""
    parent, others = children(runs)
    assert (parent.name, parent.status) == (f"sweep {name}", "FINISHED")
    assert {run.tags["study"] for run in others} == {name}
    n_runs = Counter(run.name for run in others)
    for row in rows:
        label = f"00{row['number']}"
        n = n_runs.pop(label)
        assert n == runs_of_complete or (row["state"] == "PRUNED" and n < runs_of_complete)
        ends = {(run.status, run.tags.get("state")) for run in others if run.name == label}
        assert ends == {("FINISHED", STATE[row["state"]])}
    assert not n_runs


@pytest.mark.slow
@needs("mlflow")
def test_runs_of_mlflows_autologging_are_nested(tmp_path):
    app = copy("autolog", tmp_path)
    app.run("-m", "n_folds=2", "hydra.sweeper.n_trials=2")
    rows, runs = app.trials(), app.runs()
    assert len(rows) == 2
    assert_nested(runs, rows, "folds", runs_of_complete=2)
    for row in rows:
        recorded = [run for run in runs if run.name == f"00{row['number']}"]
        assert {run.params["sgdclassifier__alpha"] for run in recorded} == {row["alpha"]}
        assert all("training_accuracy_score" in run.metrics for run in recorded)


@needs("xgboost", "optuna_integration")
def test_pruning_callback_of_xgboost(tmp_path):
    app = copy("boosting", tmp_path)
    app.run("-m")
    found = steps(app.trials())
    assert found["COMPLETE"] == {20}
    assert found["PRUNED"]
    assert max(found["PRUNED"]) < 20
    app.run("n_rounds=2")  # without a sweep


@pytest.mark.slow
@needs("mlflow", "lightning", "optuna_integration")
def test_lightning(tmp_path):
    app = example("lightning", tmp_path)
    sweep, _ = app.run_readme()
    assert "GPU available" not in sweep
    rows = app.trials()
    found = steps(rows)
    assert found["PRUNED"] <= {1, 3}
    assert max(found["COMPLETE"]) > 3
    *swept, alone = app.runs()
    assert_nested(swept, rows, "perceptron")
    assert alone.parent is None
    assert alone.params.items() >= {"model/n_hidden": "64", "data/batch_size": "128"}.items()
