"""The sweep in MLflow: one parent run, a child run for each trial, and their statuses."""

import json
import os
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import apps
import pytest
from mlflow import MlflowClient

from hydrasweep.errors import Outage
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import CONTEXT, NAME, URI, clean

MLFLOW = "hydra.sweeper.mlflow=true"


def runs_of(client, name="tests"):
    """The sweeps' runs, and those of trials by their names."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], order_by=["start_time"]))
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["trial"]: run for run in runs if run not in parents}
    assert len(runs) == len(parents) + len(children)
    return parents, children


def statuses(children):
    return {name: run.info.status for name, run in children.items()}


# Whole sweeps


def test_runs_of_trials_are_children_of_the_sweeps_run(tracked, store):
    assert 'kept {"team": "blue"} None' in tracked.out
    assert "Note" not in tracked.out
    (parent,), children = runs_of(store)
    labels = ("000", "001", "002", "confirm-000", "confirm-001", "final-000", "final-001")
    names = [f"{kind}-{label}" for kind in "ab" for label in labels]
    assert statuses(children) == dict.fromkeys(names, "FINISHED") | {"b-001": "FAILED"}
    for name, run in children.items():
        stratum, *phase, _ = name.split("-")
        tags = run.data.tags
        assert run.info.run_name == name
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["study"], tags["stratum"], tags["team"]) == ("s", stratum, "blue")
        assert tags["phase"] == (phase or ["search"])[0]
        assert tags.get("state") == ("PRUNED" if name == "a-001" else None)


def test_run_of_the_sweep_has_its_results_and_files(tracked, store):
    (parent,), _ = runs_of(store)
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "sweep s")
    assert parent.data.params["n_trials"] == "6"
    assert parent.data.params["space.x"] == "-1 to 1"
    counts = {"trials/complete": 4, "trials/pruned": 1, "trials/fail": 1}
    assert counts.items() <= parent.data.metrics.items()
    for kind in "ab":
        complete = [t for t in tracked.trials(f"s/{kind}") if t.state.name == "COMPLETE"]
        best = min(complete, key=lambda trial: trial.values[0])
        assert parent.data.metrics[f"best/{kind}"] == best.value
        assert json.loads(parent.data.tags[f"winner.{kind}"])["params"] == best.params
    assert not {"study", "phase", "trial"} & parent.data.tags.keys()
    kept = {file.path for file in store.list_artifacts(parent.info.run_id)}
    assert kept >= {"trials.csv", "confirmation.csv", "results.yaml", "report.html"}
    assert (tracked.folder / "mlruns" / "tests" / parent.info.run_id).is_dir()
    link = (tracked.folder / "sweep" / "mlflow.html").read_text()
    assert "#/experiments/" in link
    assert "tags.study%20%3D%20%27s%27" in link
    assert re.search(r"sweep/mlflow\.html.* mlflow ui --backend-store-uri sqlite:", tracked.out)


@pytest.mark.parametrize("own", ["set_experiment('own')", "set_tracking_uri('sqlite:///own.db')"])
def test_note_says_where_an_app_records_its_runs(app, client, tmp_path, own):
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "own.db")
    body = f"""
        import mlflow
        mlflow.{own}
        with mlflow.start_run():
            mlflow.log_metric("loss", cfg.x)
        return cfg.x
    """
    done = app(body)(MLFLOW, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    (note,) = (line for line in done.out.splitlines() if line.startswith("Note"))
    assert "2 trials" in note
    if "experiment" in own:
        assert f"{NAME}=own" in note
        experiment = client.get_experiment_by_name("own")
        assert experiment is not None
        link = f"/#/experiments/{experiment.experiment_id}/runs?"
        assert link in (tmp_path / "sweep" / "mlflow.html").read_text()
    else:
        assert f"{URI}=sqlite:///{tmp_path}/own.db" in note


def test_status_of_a_run_is_how_its_trial_ended(app, client, tmp_path):
    body = f"interrupted = '{tmp_path}/interrupted'\n" + dedent("""
        import mlflow
        with mlflow.start_run():
            for step in range(0 if cfg.kind == "returns_nothing" else 4):
                if cfg.kind == "raises":
                    raise RuntimeError("no")
                if hydrasweep.report(cfg.x, step):
                    break
            if cfg.kind == "prunes":
                raise optuna.TrialPruned
            if cfg.kind == "is_interrupted" and not os.path.exists(interrupted):
                open(interrupted, "w").close()
                end_sweep(signal.SIGINT)
        if cfg.kind == "returns_nothing":
            return None
        os.chdir("/")  # where no store is
        return cfg.x
    """)
    kinds = ["whole", "is_stopped", "prunes", "raises", "returns_nothing", "is_interrupted"]
    enqueue = ",".join(f"{{kind: {kind}, x: {i / 10}}}" for i, kind in enumerate(kinds))
    task = app(body)
    words = (
        MLFLOW,
        f"hydra.sweeper.enqueue=[{enqueue}]",
        f"kind=choice({','.join(kinds)})",
        "hydra.sweeper.n_trials=6",
        "hydra/sweeper/pruner=percentile",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.sweeper.pruner.n_warmup_steps=1",
    )
    done = task(*words)
    assert done.code == 130, done.err
    (parent,), children = runs_of(client)
    assert parent.info.status == "KILLED"
    done = task(*words)
    assert done.code == 0, done.err
    assert task(*words).code == 0  # the sweep is finished and has no further run
    (again,), children = runs_of(client)
    assert again.info.run_id == parent.info.run_id
    assert again.info.status == "FINISHED"
    states = {f"{t.number:03d}": (t.params["kind"], t.state.name) for t in done.study().trials}
    assert {name: (*states[name], status) for name, status in statuses(children).items()} == {
        "000": ("whole", "COMPLETE", "FINISHED"),
        "001": ("is_stopped", "PRUNED", "FINISHED"),
        "002": ("prunes", "PRUNED", "FINISHED"),
        "003": ("raises", "FAIL", "FAILED"),
        "004": ("returns_nothing", "FAIL", "FAILED"),
        "005": ("is_interrupted", "FAIL", "KILLED"),
        "006": ("is_interrupted", "PRUNED", "FINISHED"),
    }
    for name, run in children.items():  # MLflow has no such status
        assert (run.data.tags.get("state") == "PRUNED") == (states[name][1] == "PRUNED")


def test_run_whose_process_died_is_marked_failed_at_the_next_start(app, client):
    body = """
        import mlflow
        with mlflow.start_run():
            if not os.path.exists("killed"):
                open("killed", "w").close()
                end_sweep(signal.SIGKILL)
            assert mlflow.search_runs(filter_string="tags.trial = '000'").status[0] == "FAILED"
        return cfg.x
    """
    task = app(body)
    words = (MLFLOW, "hydra.sweeper.n_trials=1")
    assert task(*words).code == -signal.SIGKILL
    (parent,), children = runs_of(client)
    assert (parent.info.status, statuses(children)) == ("RUNNING", {"000": "RUNNING"})
    done = task(*words)
    assert done.code == 0, done.err
    (parent,), children = runs_of(client)
    assert parent.info.status == "FINISHED"
    assert statuses(children) == {"000": "FAILED", "001": "FINISHED"}


def test_store_that_fails_does_not_end_the_search(app, client, tmp_path):
    body = """
        import sqlite3
        if cfg.x < 0 and not os.path.exists("refused"):
            open("refused", "w").close()
            connection = sqlite3.connect("mlflow.db")
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON metrics "
                "BEGIN SELECT RAISE(ABORT, 'out of order'); END"
            )
            connection.close()
        return cfg.x
    """
    task = app(body)
    done = task(MLFLOW)
    assert done.code == 1
    assert "out of order" in done.err
    assert "python app.py" in done.err
    assert [row["state"] for row in done.table()] == ["COMPLETE"] * 4
    (parent,), _ = runs_of(client)
    assert parent.info.status == "FAILED"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("DROP TRIGGER refuse")
    done = task(MLFLOW, "hydra.sweeper.n_trials=5")
    assert done.code == 0, done.err
    (parent,), _ = runs_of(client)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials/complete"] == 5


# The sweep's run alone


def test_run_is_opened_again_also_with_other_settings_unless_it_is_gone(
    client, tmp_path, mlflow_store, monkeypatch
):
    first = SweepRun.open(None, "s", {"n_trials": 1, "sampler": "tpe"})
    again = SweepRun.open(first.run_id, "s", {"n_trials": 2, "sampler": "random"})
    assert again.run_id == first.run_id
    client.delete_run(first.run_id)
    second = SweepRun.open(first.run_id, "s", {"n_trials": 2})
    shutil.copy(mlflow_store, tmp_path / "other.db")
    monkeypatch.setenv(URI, f"sqlite:///{tmp_path}/other.db")
    third = SweepRun.open(second.run_id, "s", {"n_trials": 3})
    assert len({first.run_id, second.run_id, third.run_id}) == 3


def test_unusable_store_is_named_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "folder.db").mkdir()
    for uri, shown in (
        ("http://me:hunter2@127.0.0.1:9", "http://127.0.0.1:9"),
        (f"sqlite:///{tmp_path}/folder.db", f"sqlite:///{tmp_path}/folder.db"),
    ):
        monkeypatch.setenv(URI, uri)
        with pytest.raises(Outage) as caught:
            SweepRun.open(None, "s", {"n_trials": 1})
        message = str(caught.value)
        assert shown in message
        assert "hydra.sweeper.mlflow=false" in message
        assert "hunter2" not in message
        assert "\n" not in message
    assert not {"MLFLOW_HTTP_REQUEST_TIMEOUT", CONTEXT} & os.environ.keys()


def test_locked_store_is_tried_twice_and_then_left_alone(client, monkeypatch):
    monkeypatch.setattr("hydrasweep.tracking.RETRY_SECONDS", 0.0)
    run = SweepRun.open(None, "s", {"n_trials": 1})
    calls = []

    def fail(times):
        def call(_):
            calls.append(times)
            if len(calls) <= times:
                raise OSError("locked")

        return call

    run.send(fail(1))
    assert (len(calls), run.lost) == (2, None)
    calls.clear()
    run.send(fail(9))
    assert (len(calls), run.lost) == (2, "OSError: locked")
    run.send(fail(9))
    assert len(calls) == 2
    with pytest.raises(Outage, match="OSError: locked"):
        run.end("FINISHED")
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_sweep_without_a_run_records_nothing():
    run = SweepRun()
    run.log({"a": 1.0})
    run.keep([Path("no.such")], {"a": "b"})
    run.settle({"000": "FAILED"})
    run.end("FINISHED")
    assert run.context is None
    assert run.link("s", "loss", "minimize") is None


def test_names_are_changed_to_those_that_mlflow_accepts(client):
    names = {"best/a": "best/a", "a+b=[c]@d": "a_b__c__d", "space.x y:z": "space.x y:z", "+": "_"}
    run = SweepRun.open(None, "s", {"n_trials": 1, **dict.fromkeys(names, "a")})
    run.log(dict.fromkeys(names, 1.0))
    run.keep([], dict.fromkeys(names, "a"))
    run.end("FINISHED")
    found = client.get_run(run.run_id)
    assert [clean(name) for name in names] == list(names.values())
    assert found.data.metrics == dict.fromkeys(names.values(), 1.0)
    assert found.data.params == {"n_trials": "1", **dict.fromkeys(names.values(), "a")}


@pytest.mark.slow
def test_concurrent_starts_create_one_store(app, tmp_path, monkeypatch):
    """By default the store is mlflow.db in the working directory."""
    body = """
        import mlflow
        with mlflow.start_run():
            return cfg.x
    """
    app(body)
    for name in (URI, NAME):
        monkeypatch.delenv(name, raising=False)
    commands = [(MLFLOW, f"hydra.sweep.dir={name}") for name in "abc"]
    starts = [apps.fork.Process(target=apps.run, args=(tmp_path, words)) for words in commands]
    for start in starts:
        start.start()
    for start in starts:
        start.join()

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["0"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 3
    assert len(runs) == 3 + 12
    assert {run.info.status for run in runs} == {"FINISHED"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("records", [True, False])
def test_each_trial_has_a_run_of_its_own_although_the_environment_names_one(
    app, client, monkeypatch, records
):
    """As Azure ML and ``mlflow run`` do. The trials leave their runs open."""
    outer = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    body = """
        import mlflow
        run = mlflow.start_run()
        mlflow.log_param("x", cfg.x)
        return cfg.x
    """
    done = app(body)(*([MLFLOW] if records else []), "hydra.sweeper.n_trials=3", code=0)
    assert done.states() == ["COMPLETE"] * 3
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = {run.info.run_id: run for run in client.search_runs(experiments)}
    assert not runs[outer].data.params
    trials = [run for run in runs.values() if "x" in run.data.params]
    assert len(trials) == 3
    assert {run.info.status for run in trials} == {"FINISHED"}
    assert len({run.data.tags.get("mlflow.parentRunId") for run in trials}) == 1
    assert all(("mlflow.parentRunId" in run.data.tags) == records for run in trials)
