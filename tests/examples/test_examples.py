"""Small apps that owe nothing to this repository's own: each gets its sweep by a line of config
and a line in its loop. Those under ``examples/`` are run as their READMEs say."""

import ast
import json
import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from foreign import APPS, EXAMPLES, children, copy, example
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from packaging.requirements import Requirement

OWN = {"sphere", "sklearn", "pytorch", "lightning", "slurm"}
FILES = [path for folder in (APPS, *(EXAMPLES / name for name in OWN))
         for path in sorted(folder.rglob("*.py"))]  # fmt: skip


def states(rows: list[dict[str, str]]) -> Counter[str]:
    return Counter(row["state"] for row in rows)


def config(folder: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))


def test_no_app_knows_the_application_of_this_repository() -> None:
    assert sum("@hydra.main" in path.read_text() for path in FILES) >= 10
    for path in FILES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0] == "mnist"], path
        assert not [name for name in names if name.startswith("hydrasweep.")], path


@pytest.mark.parametrize("name", sorted(OWN))
def test_readme_is_short_and_installs_what_is_known_to_work(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    assert len(text.splitlines()) <= 16
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {Requirement(word).name for words in extras.values() for word in words}
    (install,) = re.findall(r"^python -m pip install (.*)$", text, re.MULTILINE)
    for word in map(Requirement, shlex.split(install)):
        assert word.name in known
        assert word.extras <= extras.keys()


def test_the_shortest_there_is(tmp_path: Path) -> None:
    app = example("sphere", tmp_path)
    sweep, more, alone = app.run_readme()
    assert "rate: 0.001 to 1, logarithmic" in sweep
    assert "Study sphere: 12 trials" in sweep
    assert "Study sphere: 20 trials" in more
    rows = app.trials()
    assert len(rows) == 20
    assert states(rows)["COMPLETE"] >= 5
    assert {row["steps"] for row in rows if row["state"] == "COMPLETE"} == {"5"}
    assert alone == ""


def test_scikit_learn_cross_validated_in_parts(tmp_path: Path) -> None:
    app = example("sklearn", tmp_path)
    sweep, _ = app.run_readme()
    assert "Study cancer: 12 trials, 1 worker (basic, which has no more" in sweep
    rows, folder = app.trials(), app.sweep()
    assert [int(row["number"]) for row in rows] == [*range(12)]
    assert states(rows)["PRUNED"] >= 4
    assert {row["steps"] for row in rows if row["state"] == "COMPLETE"} == {"9"}
    assert {row["steps"] for row in rows if row["state"] == "PRUNED"} <= {"1", "3"}
    # Recorded where the trial came to its record, pruned or not.
    assert all(0 < float(row["worst_fold"]) <= 1 for row in rows)
    for row in rows:
        classifier = config(folder / f"{int(row['number']):03d}")["classifier"]
        assert str(classifier["alpha"]) == row["classifier.alpha"]
        assert classifier["penalty"] == row["classifier.penalty"]
    best = max(float(row["value"]) for row in rows if row["state"] == "COMPLETE")
    results = OmegaConf.load(folder / "results.yaml")
    assert results.best.all[0]["values"] == [best]
    study = optuna.load_study(study_name="cancer", storage=f"sqlite:///{folder}/study.db")
    assert study.direction == StudyDirection.MAXIMIZE
    assert study.best_value == best
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_a_loop_in_plain_pytorch(tmp_path: Path) -> None:
    app = example("pytorch", tmp_path)
    app.run_readme()
    rows, again = app.trials(), app.trials("confirmation.csv")
    assert Counter(row["optimizer"] for row in rows) == {"adam": 4, "sgd": 4}
    assert states(rows)["PRUNED"] >= 1
    assert Counter(row["phase"] for row in again) == {"confirm": 4, "final": 4}
    assert {row["seed"] for row in again} == {"1", "2"}
    assert {row["state"] for row in again} == {"COMPLETE"}

    parent, others = children(app.runs())
    assert (parent.name, parent.status) == ("sweep spirals", "FINISHED")
    found = {run.name: run for run in others}
    assert len(found) == len(others) == len(rows) + len(again)
    state = {"COMPLETE": None, "PRUNED": "PRUNED"}
    for row in rows:
        run = found[f"{row['optimizer']}-00{row['number']}"]
        assert run.status == "FINISHED"
        assert run.tags.get("state") == state[row["state"]]
        assert run.params["lr"] == row["optimizer.lr"]
        assert run.tags.items() >= {"study": "spirals", "phase": "search"}.items()
    assert found["sgd-final-000"].tags["phase"] == "final"


def test_two_objectives(tmp_path: Path) -> None:
    app = copy("two_objectives", tmp_path)
    app.run("-m")
    rows = app.trials()
    assert states(rows) == {"COMPLETE": 10}
    points = {(float(row["value_0"]), float(row["value_1"])) for row in rows}
    best = OmegaConf.load(app.sweep() / "results.yaml").best.all
    front = {
        point for point in points
        if not any(a >= point[0] and b <= point[1] and (a, b) != point for a, b in points)
    }  # fmt: skip
    assert {tuple(trial["values"]) for trial in best} == front


def test_an_app_whose_keys_have_the_names_of_ours(tmp_path: Path) -> None:
    app = copy("crowded_keys", tmp_path)
    printed = app.run("-m")
    assert "Trials: 4 COMPLETE" in printed
    app.run("hydra.run.dir=once")
    once = json.loads((app.folder / "once" / "seen.json").read_text())
    assert once["trial"] == [None] * 5
    keys = (
        "timeout report storage check params direction confirm sampler n_jobs phase study tracking"
    )
    assert once["cfg"].keys() >= set(keys.split())
    seen = {
        path.parent.name: json.loads(path.read_text()) for path in app.sweep().rglob("seen.json")
    }
    assert len(seen) == 4 + 2 + 2
    for name, each in seen.items():
        expected = {**once["cfg"], "params": {**once["cfg"]["params"]}}
        phase = name.split("-")[0] if "-" in name else "search"
        assert each["trial"] == ["crowded", phase, "", name, None]
        expected["params"]["x"] = each["cfg"]["params"]["x"]
        if phase != "search":
            expected["random"] = {"seed": 12 + int(name[-1])}
        if phase == "final":
            expected["report"] = "annual"
        assert each["cfg"] == expected
    assert len({each["cfg"]["params"]["x"] for each in seen.values()}) == 4
    # The recipe names the app's own groups.
    app.run("--config-dir", str(app.sweep()), "+best@_global_=overall", "hydra.run.dir=best")
    best = json.loads((app.folder / "best" / "seen.json").read_text())
    assert best["cfg"] == seen["final-000"]["cfg"]
