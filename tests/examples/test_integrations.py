"""Frameworks that report to the sweep by callbacks, or record to MLflow by themselves."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign import Run, children, copy, example


def wants(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if not find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"wants {', '.join(missing)}")


def assert_nested(
    runs: list[Run], rows: list[dict[str, str]], name: str, runs_of_complete: int = 1
) -> None:
    """Each trial's runs are the sweep's children, and have its name and its fate."""
    parent, others = children(runs)
    assert (parent.name, parent.status) == (f"sweep {name}", "FINISHED")
    n_runs = Counter(run.name for run in others)
    state = {"COMPLETE": None, "PRUNED": "PRUNED"}
    for row in rows:
        label = f"00{row['number']}"
        if row["state"] == "COMPLETE":
            assert n_runs.pop(label) == runs_of_complete
        else:
            assert n_runs.pop(label) <= runs_of_complete
        ends = {(run.status, run.tags.get("state")) for run in others if run.name == label}
        assert ends == {("FINISHED", state[row["state"]])}
    assert not n_runs
    assert {run.tags["study"] for run in others} == {name}


def test_autologged_runs_are_nested(tmp_path: Path) -> None:
    app = copy("autolog", tmp_path)
    app.run("-m")
    rows = app.trials()
    assert len(rows) == 4
    assert_nested(app.runs(), rows, "folds", runs_of_complete=3)
    for row in rows:
        recorded = [run for run in app.runs() if run.name == f"00{row['number']}"]
        assert {run.params["sgdclassifier__alpha"] for run in recorded} == {row["alpha"]}
        assert all("training_accuracy_score" in run.metrics for run in recorded)


@wants("xgboost", "optuna_integration")
def test_the_callback_of_xgboost(tmp_path: Path) -> None:
    app = copy("boosting", tmp_path)
    app.run("-m")
    steps = {state: set() for state in ("COMPLETE", "PRUNED")}
    for row in app.trials():
        steps[row["state"]].add(int(row["steps"]))
    assert steps["COMPLETE"] == {20}
    assert steps["PRUNED"]
    assert max(steps["PRUNED"]) < 20
    app.run("n_rounds=2")  # outside a sweep the callback reports to nobody


@pytest.mark.slow
@wants("lightning", "optuna_integration")
def test_the_callback_of_lightning(tmp_path: Path) -> None:
    app = example("lightning", tmp_path)
    sweep, _ = app.run_readme()
    assert "GPU available" not in sweep
    rows = app.trials()
    steps = {state: {int(row["steps"]) for row in rows if row["state"] == state}
             for state in ("COMPLETE", "PRUNED")}  # fmt: skip
    assert steps["PRUNED"] <= {1, 3}
    assert max(steps["COMPLETE"]) > 3
    *swept, alone = app.runs()
    assert_nested(swept, rows, "perceptron")
    assert alone.parent is None
    assert alone.params.items() >= {"model/n_hidden": "64", "data/batch_size": "128"}.items()
