"""Small apps that do not use this repository's application. The examples run as their READMEs
say, some of them with a smaller sweep."""

import ast
import re
import shlex
import shutil
import tomllib
from collections import Counter
from contextlib import closing
from typing import Any

import optuna
import pytest
from foreign import APPS, EXAMPLES, STATE, children, example, needs, steps
from omegaconf import OmegaConf
from optuna.storages import RDBStorage
from packaging.requirements import Requirement

OWN = ["lightning", "pytorch", "sklearn", "slurm", "sphere"]


def test_apps_import_neither_the_application_nor_private_modules():
    folders = [APPS, *(EXAMPLES / name for name in OWN)]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    assert sum("@hydra.main" in path.read_text() for path in files) >= 8
    for path in files:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0] == "mnist"], path
        assert not [name for name in names if name.startswith("hydrasweep.")], path


@pytest.mark.parametrize("name", OWN)
def test_readme_is_short_and_installs_packages_of_the_project(name):
    text = (EXAMPLES / name / "README.md").read_text()
    assert len(text.splitlines()) <= 16
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {Requirement(each).name for packages in extras.values() for each in packages}
    (install,) = re.findall(r"^python -m pip install (.*)$", text, re.MULTILINE)
    for requirement in map(Requirement, shlex.split(install)):
        assert requirement.name in known
        assert requirement.extras <= extras.keys()


def test_sphere(tmp_path):
    app = example("sphere", tmp_path)
    sweep, more, alone = app.run_readme()
    assert re.search(r"^  rate: 0.001 to 1\b", sweep, re.MULTILINE)
    assert "Study sphere: 12 trials" in sweep
    assert "Study sphere: 20 trials" in more
    assert alone == ""
    rows = app.trials()
    assert len(rows) == 20
    assert sum(row["state"] == "COMPLETE" for row in rows) >= 5
    assert steps(rows)["COMPLETE"] == {5}


def test_sklearn(tmp_path):
    app = example("sklearn", tmp_path)
    app.run_readme("n_folds=3", "hydra.sweeper.n_trials=8")
    rows, folder = app.trials(), app.sweep()
    assert [int(row["number"]) for row in rows] == [*range(8)]
    assert steps(rows)["COMPLETE"] == {9}
    assert set() < steps(rows)["PRUNED"] <= {1, 3}
    for row in rows:
        assert 0 < float(row["worst_fold"]) <= 1  # recorded, also if pruned
        config: Any = OmegaConf.load(folder / f"00{row['number']}" / ".hydra" / "config.yaml")
        assert str(config.classifier.alpha) == row["classifier.alpha"]
        assert config.classifier.penalty == row["classifier.penalty"]
    best = max(float(row["value"]) for row in rows if row["state"] == "COMPLETE")
    assert OmegaConf.load(folder / "results.yaml").best.all[0]["values"] == [best]
    storage = RDBStorage(f"sqlite:///{folder}/study.db")
    with closing(storage.engine.raw_connection()):
        assert optuna.load_study(study_name="cancer", storage=storage).best_value == best
    storage.engine.dispose()


@needs("torch", "mlflow")
def test_pytorch(tmp_path, mlflow_store):
    app = example("pytorch", tmp_path)
    shutil.copy(mlflow_store, app.folder)
    app.run_readme("epochs=4", "hydra.sweeper.n_trials=6", "hydra.sweeper.confirm.n_seeds=1")
    rows, again = app.trials(), app.trials("confirmation.csv")
    assert Counter(row["optimizer"] for row in rows) == {"adam": 3, "sgd": 3}
    assert "PRUNED" in {row["state"] for row in rows}
    assert Counter(row["phase"] for row in again) == {"confirm": 2, "final": 2}
    assert {(row["seed"], row["state"]) for row in again} == {("1", "COMPLETE")}
    parent, others = children(app.runs())
    assert (parent.name, parent.status) == ("sweep spirals", "FINISHED")
    found = {run.name: run for run in others}
    assert len(found) == len(others) == len(rows) + len(again)
    for row in rows:
        run = found[f"{row['optimizer']}-00{row['number']}"]
        assert (run.status, run.tags.get("state")) == ("FINISHED", STATE[row["state"]])
        assert run.params["lr"] == row["optimizer.lr"]
        assert (run.tags["study"], run.tags["phase"]) == ("spirals", "search")
    assert found["sgd-final-000"].tags["phase"] == "final"
