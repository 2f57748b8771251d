"""Small apps that owe nothing to this repository's own: each gets its sweep by a line of config
and a line in its loop, and is run as its users would."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from foreign import EXAMPLES, children, copy
from omegaconf import OmegaConf
from optuna.study import StudyDirection

APPS = sorted(EXAMPLES.rglob("*.py"))


def states(rows: list[dict[str, str]]) -> Counter[str]:
    return Counter(row["state"] for row in rows)


def config(folder: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))


def test_no_app_knows_the_application_of_this_repository() -> None:
    assert len({path.parent for path in APPS if path.name == "app.py"}) >= 6
    for path in APPS:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        assert not [name for name in names if name.split(".")[0] == "mnist"], path
        assert not [name for name in names if name.startswith("hydrasweep.")], path


def test_the_shortest_app_there_is(tmp_path: Path) -> None:
    app = copy("quickstart", tmp_path)
    printed = app.run("-m")
    assert "lr: 0.001 to 1, logarithmic" in printed
    assert states(app.trials())["COMPLETE"] >= 5
    assert {row["steps"] for row in app.trials() if row["state"] == "COMPLETE"} == {"10"}
    # A study with a name is resumed.
    assert "8 trials" in app.run("-m")
    app.run("-m", "hydra.sweeper.n_trials=9")
    assert len(app.trials()) == 9
    # Without a sweep, nothing is reported and nothing stops.
    app.run("lr=0.2")


def test_scikit_learn_trained_in_parts(tmp_path: Path) -> None:
    app = copy("scikit_learn", tmp_path)
    app.run("-m")
    rows = app.trials()
    assert [row["number"] for row in rows] == list("01234567")
    assert states(rows)["PRUNED"] >= 2
    assert {row["steps"] for row in rows if row["state"] == "COMPLETE"} == {"9"}
    assert {row["steps"] for row in rows if row["state"] == "PRUNED"} <= {"1", "3"}
    # Recorded where the trial came to its record, pruned or not.
    assert all(float(row["n_weights"]) == 74 * int(row["hidden"]) for row in rows)
    for row in rows:
        folder = app.sweep() / f"00{row['number']}"
        assert str(config(folder)["learning_rate"]) == row["learning_rate"]
        logged = re.findall(r"epoch (\d): ", (folder / "app.log").read_text())
        assert logged == [str(epoch) for epoch in range(1, int(row["steps"]) + 1)]
    best = max(float(row["value"]) for row in rows if row["state"] == "COMPLETE")
    results = OmegaConf.load(app.sweep() / "results.yaml")
    assert results.best.all[0]["values"] == [best]
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{app.sweep()}/study.db")
    assert study.direction == StudyDirection.MAXIMIZE
    assert study.best_value == best
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def test_a_loop_in_plain_pytorch(tmp_path: Path) -> None:
    app = copy("plain_torch", tmp_path)
    app.run("-m")
    rows, again = app.trials(), app.trials("confirmation.csv")
    assert Counter(row["optimizer"] for row in rows) == {"adam": 3, "sgd": 3}
    assert states(rows)["PRUNED"] >= 1
    assert Counter(row["phase"] for row in again) == {"confirm": 2, "final": 2}
    assert {row["seed"] for row in again} == {"1"}
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
