"""The sweep in MLflow: one parent, a child for each trial, and statuses that are true."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from apps import App, write

from hydrasweep.errors import Outage
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import CONTEXT, NAME, URI, clean

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

mlflow = pytest.importorskip("mlflow")

MLFLOW = "hydra.sweeper.mlflow=true"


def runs_of(client: "MlflowClient", name: str = "tests") -> "tuple[list[Run], dict[str, Run]]":
    """The sweeps' runs, and those of trials by their names."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id], order_by=["start_time"]))
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["trial"]: run for run in runs if run not in parents}
    assert len(runs) == len(parents) + len(children)
    return parents, children


def statuses(children: "dict[str, Run]") -> dict[str, str]:
    return {name: run.info.status for name, run in children.items()}


# Whole sweeps


def test_runs_of_trials_are_children_of_the_sweeps_run(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path
) -> None:
    body = """
        import json
        import mlflow
        assert json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["team"] == "blue"
        if cfg.kind == "b":
            mlflow.start_run()  # and nobody closes it
        else:
            with mlflow.start_run() as run:
                assert hydrasweep.trial().parent_run_id == run.data.tags["mlflow.parentRunId"]
                mlflow.log_metric("loss", cfg.x)
        return cfg.x
    """
    more = "os.environ['MLFLOW_RUN_CONTEXT'] = '{\"team\": \"blue\"}'"
    main = "task(); print('kept', os.environ['MLFLOW_RUN_CONTEXT'], mlflow.active_run())"
    task = app(body, more=f"import mlflow\n{more}", main=main)
    words = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.report=true",
             "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")  # fmt: skip
    done = task(MLFLOW, *words)
    assert done.code == 0, done.err
    assert 'kept {"team": "blue"} None' in done.out
    assert "Note" not in done.out
    (parent,), children = runs_of(client)
    labels = ("000", "001", "confirm-000", "final-000")
    assert statuses(children) == {f"{k}-{label}": "FINISHED" for k in "ab" for label in labels}
    for name, run in children.items():
        stratum, *phase, _ = name.split("-")
        tags = run.data.tags
        assert run.info.run_name == name
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert (tags["study"], tags["stratum"], tags["team"]) == ("s", stratum, "blue")
        assert tags["phase"] == (phase or ["search"])[0]
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "sweep s"
    assert parent.data.params["n_trials"] == "4"
    assert parent.data.params["space.x"] == "-1 to 1"
    assert parent.data.metrics["trials/complete"] == 4
    for kind in "ab":
        values = [trial.value for trial in done.trials(f"s/{kind}")]
        assert parent.data.metrics[f"best/{kind}"] == min(values)  # type: ignore[type-var]
        assert json.loads(parent.data.tags[f"winner.{kind}"])["params"]["x"] == min(
            trial.params["x"] for trial in done.trials(f"s/{kind}")
        )
    assert not {"study", "phase", "trial"} & parent.data.tags.keys()
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert kept >= {"trials.csv", "confirmation.csv", "results.yaml", "report.html"}
    assert (tmp_path / "mlruns" / "tests" / parent.info.run_id).is_dir()
    leads = (tmp_path / "sweep" / "mlflow.html").read_text()
    assert "#/experiments/" in leads
    assert "tags.study%20%3D%20%27s%27" in leads
    assert re.search(
        r"^MLflow +sweep/mlflow.html, while this runs: mlflow ui", done.out, re.MULTILINE
    )

    done = task(MLFLOW, *words)
    assert "is finished" in done.out
    assert len(runs_of(client)[0]) == 1


@pytest.mark.parametrize("own", ["set_experiment('own')", "set_tracking_uri('sqlite:///own.db')"])
def test_app_that_records_elsewhere_is_told_how_both_come_together(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path, own: str
) -> None:
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
    if "experiment" in own:
        assert note.startswith("Note of 2 trials: its run is in MLflow's experiment own, ")
        assert note.endswith(f"{NAME}=own has both in one")
        experiment = client.get_experiment_by_name("own")
        assert experiment is not None
        led = f"/#/experiments/{experiment.experiment_id}/runs?"
        assert led in (tmp_path / "sweep" / "mlflow.html").read_text()
    else:
        assert note.startswith("Note of 2 trials: its run is not in the sweep's store of MLflow ")
        assert f"but in sqlite:///{tmp_path}/own.db: {URI}=sqlite:///{tmp_path}/own.db " in note


def test_status_tells_how_a_trial_ended(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path
) -> None:
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
                os.kill(os.getpid(), signal.SIGINT)
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
    (again,), children = runs_of(client)
    assert again.info.run_id == parent.info.run_id
    assert again.info.status == "FINISHED"
    found = {name: run.info.status for name, run in children.items()}
    states = {f"{t.number:03d}": (t.params["kind"], t.state.name) for t in done.study().trials}
    assert {name: (*states[name], status) for name, status in found.items()} == {
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


def test_run_whose_process_died_is_marked_failed_at_the_next_start(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    body = """
        import mlflow
        with mlflow.start_run():
            if not os.path.exists("killed"):
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
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


def test_sweep_whose_run_is_gone_has_a_new_one(
    app: Callable[..., App],
    client: "MlflowClient",
    tmp_path: Path,
    mlflow_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = app("return cfg.x")

    def found(n_trials: int) -> str:
        done = task(MLFLOW, f"hydra.sweeper.n_trials={n_trials}")
        assert done.code == 0, done.err
        (run,), _ = runs_of(client)
        assert run.info.status == "FINISHED"
        return str(run.info.run_id)

    first = found(1)
    client.delete_run(first)
    second = found(2)
    shutil.copy(mlflow_store, tmp_path / "other.db")
    monkeypatch.setenv(URI, f"sqlite:///{tmp_path}/other.db")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/./other.db")
    assert len({first, second, found(3)}) == 3


def test_another_sampler_and_pruner_may_go_on_with_a_sweep(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    task = app("return cfg.x")
    assert task("hydra.sweeper.mlflow=true").code == 0
    others = ("hydra/sweeper/sampler=tpe", "hydra/sweeper/pruner=median")
    done = task("hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=5", *others)
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 5
    (run,), _ = runs_of(client)
    assert run.info.status == "FINISHED"


def test_store_that_goes_away_ends_no_sweep(
    app: Callable[..., App], client: "MlflowClient", tmp_path: Path
) -> None:
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
    assert "Nothing is lost: the trials and their results are in the sweep's folder" in done.err
    assert "To resume: python app.py" in done.err
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


def test_sweep_without_mlflow_imports_none(app: Callable[..., App]) -> None:
    main = "task(); print('imported', {'mlflow', 'torch', 'plotly', 'pandas'} & set(sys.modules))"
    done = app("return cfg.x", main=main)("hydra.sweeper.n_trials=1", fresh=True)
    assert done.code == 0, done.err
    assert "imported set()" in done.out
    assert not list(done.folder.rglob("*mlflow*"))


# The sweep's run alone


def test_store_that_cannot_be_used_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "folder.db").mkdir()
    for uri, shown in (
        ("http://me:hunter2@127.0.0.1:9", "http://127.0.0.1:9"),
        (f"sqlite:///{tmp_path}/folder.db", f"sqlite:///{tmp_path}/folder.db"),
    ):
        monkeypatch.setenv(URI, uri)
        with pytest.raises(Outage) as told:
            SweepRun.open(None, "s", {"n_trials": 1})
        words = str(told.value)
        assert words.startswith(f"MLflow's store at {shown} can't be used (")
        assert "hydra.sweeper.mlflow=false" in words
        assert "hunter2" not in words
        assert "\n" not in words
    assert not {"MLFLOW_HTTP_REQUEST_TIMEOUT", CONTEXT} & os.environ.keys()


def test_locked_store_is_waited_for_once_and_then_left_alone(
    client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrasweep.tracking.RETRY_SECONDS", 0.0)
    run = SweepRun.open(None, "s", {"n_trials": 1})
    calls = []

    def fail(times: int) -> Callable[[Any], None]:
        def call(_: Any) -> None:
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
    with pytest.raises(Outage, match=r"stopped answering \(OSError: locked\)\. Nothing is lost"):
        run.end("FINISHED")
    assert client.get_run(run.run_id).info.status == "FAILED"


def test_sweep_that_records_nothing_needs_no_mlflow() -> None:
    run = SweepRun()
    run.log({"a": 1.0})
    run.keep([Path("no.such")], {"a": "b"})
    run.settle({"000": "FAILED"})
    run.end("FINISHED")
    assert run.context is None
    assert run.link("s", "loss", "minimize") is None


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("best/a", "best/a"), ("a+b=[c]@d", "a_b__c__d"), ("space.x y:z", "space.x y:z"), ("+", "_")],
)
def test_names_are_such_as_mlflow_takes(client: "MlflowClient", name: str, cleaned: str) -> None:
    assert clean(name) == cleaned
    run = SweepRun.open(None, "s", {"n_trials": 1, name: "a"})
    run.log({name: 1.0})
    run.keep([], {name: "a"})
    run.end("FINISHED")
    found = client.get_run(run.run_id)
    assert found.data.metrics == {cleaned: 1.0}
    assert found.data.params == {"n_trials": "1", cleaned: "a"}


@pytest.mark.slow
def test_starts_where_there_is_no_store_share_one(tmp_path: Path) -> None:
    """The default place: mlflow.db in the working directory."""
    body = """
        import mlflow
        with mlflow.start_run():
            return cfg.x
    """
    for name in "abc":
        (tmp_path / name).mkdir()
        write(tmp_path / name, body)
    env = {key: value for key, value in os.environ.items() if key not in (URI, NAME)}
    starts = [
        subprocess.Popen(
            [sys.executable, tmp_path / name / "app.py", "-m", MLFLOW, f"hydra.sweep.dir={name}/s"],
            cwd=tmp_path, env=env,
        )
        for name in "abc"
    ]  # fmt: skip
    assert [start.wait() for start in starts] == [0, 0, 0]

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["0"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 3
    assert len(runs) == 3 + 12
    assert {run.info.status for run in runs} == {"FINISHED"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
