"""Recording: what a run leaves in MLflow, what its status says, and what happens to results
when the store does not answer. A real MLflow each time."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import Mock

import mlflow
import numpy as np
import pytest
import torch
from application import (
    Compose,
    at_line,
    client_of,
    command_line,
    environment,
    epochs_of,
    runs_of,
    server,
)
from mlflow import MlflowClient

from hydrasweep import Outage, UserError
from mnist import config, recording, store
from mnist.recording import Description, Recorder, Run
from mnist.training import NonFiniteLossError
from train import train

QUICK = ("epochs=3", "model=baseline")


def test_run_is_recorded_in_full(
    compose: Compose, root: Path, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose("epochs=3", "data.n_val=50", "seed=7")
    objective = train(cfg, output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("lenet5 lr=0.003")

    # Choices, and numbers that people compare; all settings are in config.yaml.
    params = run.data.params
    assert (params["model"], params["optimizer"]) == ("lenet5", "adamw")
    assert (params["optimizer.lr"], params["data.batch_size"]) == ("0.003", "64")
    assert (params["epochs"], params["seed"], params["model.dropout"]) == ("3", "7", "0.0")
    assert len(params) < 25
    assert not [name for name in params if name.startswith(("paths", "hydra", "tracking"))]

    # Metrics, by epoch.
    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"):
        assert epochs_of(client, run, metric) == [1, 2, 3]
    assert objective == run.data.metrics["val/accuracy"]
    assert {"test/accuracy", "test/loss", "n_parameters"} <= set(run.data.metrics)

    # Marks.
    tags = run.data.tags
    assert tags["architecture"] == "lenet5"
    assert tags["seed"] == "7"
    assert tags["device"] == "cpu"
    assert tags["n_parameters"] == "61706"
    assert tags["host"] == socket.gethostname()
    assert tags["pid"] == str(os.getpid())
    assert tags["version.torch"] == version("torch")

    (dataset,) = run.inputs.dataset_inputs
    data = config.build(cfg.data)
    assert dataset.dataset.name == "mnist"
    assert dataset.dataset.digest == data.digest[:8]

    # Files, below the root whatever the working directory.
    here = root / "mlruns" / "hydrasweep" / run.info.run_id / "artifacts"
    assert {path.name for path in (here / "pictures").iterdir()} == {
        *("first_images.png", "confusion.png", "worst_mistakes.png")
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in (here / "pictures").iterdir())
    assert (here / "config.yaml").exists()
    assert not [p for p in tmp_path.iterdir() if p.name in ("mlruns", "mlflow.db")]

    # The model takes raw pixels, any number of them.
    state = torch.load(here / "model.pt", weights_only=True)
    model = config.build(cfg.model)
    model.load_state_dict(state)
    model.eval()
    (logged,) = client.search_logged_models([run.info.experiment_id])
    assert logged.status == "READY"
    assert logged.source_run_id == run.info.run_id
    assert (root / "mlruns" / "hydrasweep" / "models" / logged.model_id).is_dir()
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    for n in (1, 2, 5):
        images = data.first(n).inputs
        with torch.inference_mode():
            expected = model(data.normalize()(images)).numpy()
        np.testing.assert_allclose(loaded.predict(images.numpy()), expected, atol=1e-5)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    assert loaded.metadata.saved_input_example_info is not None


def test_exception_ends_a_run_failed_with_its_traceback(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    with pytest.raises(NonFiniteLossError):
        train(compose(*QUICK, "optimizer=sgd", "optimizer.lr=1e20"), output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FAILED"
    traceback = Path(client.download_artifacts(run.info.run_id, "traceback.txt")).read_text()
    assert "NonFiniteLossError: the loss is" in traceback


def test_ctrl_c_ends_a_run_killed(compose: Compose, root: Path, output_dir: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with at_line("epoch 2/3", interrupt), pytest.raises(KeyboardInterrupt):
        train(compose(*QUICK), output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "KILLED"
    assert epochs_of(client, run) == [1, 2]


def test_one_setting_records_nothing_anywhere_else(
    compose: Compose, tmp_path: Path, output_dir: Path
) -> None:
    train(compose(*QUICK, "tracking=none", "artifacts=false", "score_test=false"), output_dir)
    assert [path.name for path in tmp_path.iterdir()] == [output_dir.name]
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def about(**params: Any) -> Description:
    return Description("a run", params, {"b": "2"}, ("data", "digest", "place"))


def recorded(root: Path, folder: Path, **params: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").touch()
    return Recorder(str(root), True).run(folder, about(**params))


def test_runs_of_dead_processes_are_marked_failed_at_the_next_start(
    root: Path, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    client = client_of(root)

    def status() -> str:
        return str(client.get_run(id).info.status)

    def begin(name: str) -> None:
        with recorded(root, tmp_path / name):
            pass

    with recorded(root, tmp_path / "alive") as run:
        run.wait()
        ((id, _),) = [(run.info.run_id, run) for run in runs_of(client)]
        begin("second")
        assert status() == "RUNNING"
        client.set_tag(id, "host", "another-machine")
        client.set_tag(id, "pid", str(gone.pid))
        begin("third")
        assert status() == "RUNNING"
        client.set_tag(id, "host", socket.gethostname())
        begin("fourth")
        assert status() == "FAILED"
        client.update_run(id, status="RUNNING")
        client.set_tag(id, "pid", str(os.getpid()))
        client.set_tag(id, "process_started", "12345.67")  # the pid was another's before
        begin("fifth")
        assert status() == "FAILED"
        client.create_run("1", tags={"host": socket.gethostname()})  # somebody else's
        begin("sixth")
    assert status() == "FINISHED"


def test_run_of_a_sweep_has_the_sweeps_name_and_tags_and_leaves_others_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(root)
    with recorded(root, tmp_path / "parent"):
        pass
    (parent,) = runs_of(client)
    dead = client.create_run("1", tags={"host": socket.gethostname(), "pid": "1"}).info.run_id
    client.set_tag(dead, "process_started", "12345.67")
    context = {"mlflow.parentRunId": parent.info.run_id, "mlflow.runName": "cnn-003", "phase": "x"}
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", json.dumps(context))
    with recorded(root, tmp_path / "child"):
        pass
    (child,) = [run for run in runs_of(client) if run.info.run_name == "cnn-003"]
    assert context.items() <= child.data.tags.items()
    assert child.info.status == "FINISHED"
    assert client.get_run(dead).info.status == "RUNNING"


def test_training_begins_before_the_run_is_open_in_mlflow(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open, start = threading.Event(), mlflow.start_run

    def start_run(*args: Any, **kwargs: Any) -> Any:
        assert may_open.wait(60)
        return start(*args, **kwargs)

    monkeypatch.setattr(mlflow, "start_run", start_run)
    with recorded(root, tmp_path / "run") as run:
        run.log({"train/loss": 1.0}, step=1)
        assert runs_of(client_of(root)) == []
        may_open.set()
    (only,) = runs_of(client_of(root))
    assert epochs_of(client_of(root), only) == [1]


def test_run_that_cannot_be_opened_is_told_at_its_end_and_caught_up_when_resumed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow, "start_run", Mock(side_effect=OSError("out of order")))
        with (
            pytest.raises(Outage, match=r"mlflow\.db stopped answering \(OSError: out of order\)"),
            recorded(root, tmp_path / "run") as run,
        ):
            run.log({"train/loss": 1.0}, step=1)
    assert runs_of(client_of(root)) == []
    with recorded(root, tmp_path / "run") as run:
        assert run.history == {1: {"train/loss": 1.0}}
    (only,) = runs_of(client_of(root))
    assert only.info.status == "FINISHED"
    assert epochs_of(client_of(root), only) == [1]


def test_call_is_tried_twice(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0)
    call = Mock(side_effect=[OSError("locked"), None])
    with recorded(root, tmp_path / "run") as run:
        run.send(call)
    assert call.call_count == 2


@pytest.mark.parametrize("named", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_four_processes_may_start_at_once_where_there_is_no_store(
    tmp_path: Path, named: bool
) -> None:
    start = dedent(
        """
        import sys
        from pathlib import Path
        from mnist.recording import Description, Recorder
        root, folder = map(Path, sys.argv[1:])
        folder.mkdir()
        (folder / "config.yaml").touch()
        about = Description("a run", {"a": 1}, {}, ("data", "digest", "place"))
        with Recorder(str(root), True).run(folder, about) as run:
            for epoch in range(1, 4):
                run.log({"train/loss": 1 / epoch}, step=epoch)
        """
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", start, str(tmp_path), str(tmp_path / f"run{i}")],
            env=environment(tmp_path, **({"MLFLOW_TRACKING_URI": uri} if named else {})),
            cwd=tmp_path,  # where the artifacts of a store of one's own go
        )
        for i in range(4)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    client = client_of(tmp_path)
    runs = runs_of(client)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert [epochs_of(client, run) for run in runs] == [[1, 2, 3]] * 4
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    where = client.get_experiment_by_name("hydrasweep").artifact_location
    assert where == (tmp_path / "mlruns" / "hydrasweep").as_uri()


def test_store_that_does_not_answer_is_told_before_training(
    compose: Compose, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(UserError) as told:
        train(compose(*QUICK), output_dir)
    message = str(told.value)
    assert message.startswith("MLflow's store at http://127.0.0.1:9 can't be used")
    assert "MLFLOW_TRACKING_URI" in message
    assert "tracking=none" in message
    assert "\n" not in message
    assert "secret" not in message
    assert not (output_dir / "metrics.jsonl").exists()


def test_store_that_cannot_be_opened_is_told_before_training(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    (root / "mlflow.db").unlink()
    (root / "mlflow.db").mkdir()
    with pytest.raises(UserError, match=r"mlflow\.db can't be used: .*unable to open"):
        train(compose(*QUICK), output_dir)
    assert not (output_dir / "metrics.jsonl").exists()


@pytest.mark.slow
def test_locked_store_is_told_before_training(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow\.db can't be used: .*locked"):
            train(compose(*QUICK), output_dir)
    assert not (output_dir / "metrics.jsonl").exists()


def refuse(root: Path, table: str) -> None:
    """Let the store fail whenever something is written into ``table``."""
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'out of order'); END"
        )


def accept(root: Path) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("DROP TRIGGER refuse")


def test_store_that_goes_away_in_training_loses_nothing(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    cfg = compose("epochs=4")
    with (
        at_line("epoch 2/4", lambda: refuse(root, "metrics")),
        pytest.raises(Outage, match=r"out of order.*Nothing is lost") as told,
    ):
        train(cfg, output_dir)
    assert str(output_dir) in str(told.value)
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (output_dir / "model.pt").exists()
    assert (output_dir / "pictures" / "confusion.png").exists()

    accept(root)
    client = client_of(root)
    (run,) = runs_of(client)
    assert epochs_of(client, run) in ([1], [1, 2])  # they are sent while training goes on
    train(cfg, output_dir)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == [1, 2, 3, 4]
    assert epochs_of(client, run, "val/accuracy") == [1, 2, 3, 4]
    assert run.data.metrics["val/accuracy"] == lines[-1]["val/accuracy"]
    assert "test/accuracy" in run.data.metrics
    assert {"pictures", "model.pt"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


def test_run_that_was_not_described_is_described_when_resumed(root: Path, tmp_path: Path) -> None:
    refuse(root, "params")
    with pytest.raises(Outage, match="Nothing is lost"), recorded(root, tmp_path / "run", a=1):
        pass
    accept(root)
    for _ in range(2):
        with recorded(root, tmp_path / "run", a=1):
            pass
    (run,) = runs_of(client_of(root))
    assert run.data.params == {"a": "1"}
    assert len(run.inputs.dataset_inputs) == 1


def test_finished_run_that_is_resumed_keeps_its_one_model(
    compose: Compose, root: Path, output_dir: Path
) -> None:
    cfg = compose("epochs=1", "score_test=false")
    train(cfg, output_dir)
    train(cfg, output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert run.info.status == "FINISHED"


def test_traceback_has_no_password_and_goes_when_the_run_is_resumed(
    root: Path, tmp_path: Path
) -> None:
    client = client_of(root)

    def artifacts() -> set[str]:
        (run,) = runs_of(client)
        return {file.path for file in client.list_artifacts(run.info.run_id)}

    with pytest.raises(RuntimeError), recorded(root, tmp_path / "run"):
        raise RuntimeError("no postgresql://me:secret@host/db")
    assert artifacts() == {"config.yaml", "traceback.txt"}
    told = (tmp_path / "run" / "traceback.txt").read_text()
    assert "RuntimeError: no postgresql://host/db" in told
    assert "me:secret" not in told
    with recorded(root, tmp_path / "run") as run:
        run.wait()
        assert artifacts() == {"config.yaml"}


@pytest.mark.parametrize("name", ["a b", "it's", "ünï", "100%", "#1", "a?b"])
def test_experiment_of_any_name_keeps_its_files_below_mlruns(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with recorded(root, tmp_path / "run"):
        pass
    (kept,) = root.rglob("config.yaml")
    assert kept.parents[3] == root / "mlruns"
    assert client_of(root).get_experiment_by_name(name)


def test_environment_of_the_user_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    store.use(tmp_path)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://localhost:1"
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "hydrasweep"


def test_damaged_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        Run(tmp_path)


def test_line_that_a_kill_cut_short_is_written_again(compose: Compose, output_dir: Path) -> None:
    cfg = compose(*QUICK, "tracking=none", "artifacts=false", "score_test=false")
    train(cfg, output_dir)
    path = output_dir / "metrics.jsonl"
    path.write_text(path.read_text()[:-10])
    (output_dir / "last.pt").unlink()
    train(cfg, output_dir)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
def test_server_that_is_killed_in_training_loses_nothing(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    folder.mkdir()
    arguments = command_line(
        "train.py", "epochs=12", "data.n_train=2000", f"hydra.run.dir={tmp_path / 'run'}"
    )
    kwargs: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with server(folder) as (port, kill):
        uri = f"http://me:secret@127.0.0.1:{port}"
        env = environment(root, MLFLOW_TRACKING_URI=uri)
        with subprocess.Popen(arguments, env=env, **kwargs) as process:
            assert process.stdout is not None
            shown = ""
            for line in process.stdout:
                shown += line
                if "epoch  3/12" in line:
                    kill()
            assert process.stderr is not None
            errors = process.stderr.read()
    assert process.returncode == 1
    assert f"resume={tmp_path / 'run'}" in errors
    assert "Traceback" not in errors
    assert "epoch 12/12" in shown
    assert "secret" not in shown + errors

    with server(folder) as (port, _):
        uri = f"http://me:secret@127.0.0.1:{port}"
        done = subprocess.run(
            [*arguments[:2], f"resume={tmp_path / 'run'}"],
            env=environment(root, MLFLOW_TRACKING_URI=uri),
            **kwargs,
        )
        assert done.returncode == 0, done.stderr
        assert "secret" not in done.stdout + done.stderr
        client = MlflowClient(uri)
        (run,) = runs_of(client)
        assert run.info.status == "FINISHED"
        assert epochs_of(client, run) == list(range(1, 13))
    assert not (root / "mlruns").exists()
