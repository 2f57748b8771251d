"""Recording: what a run leaves in MLflow, what its status says, and what happens to results
when the store does not answer. All tests use a real MLflow."""

import functools
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from importlib.metadata import version
from unittest.mock import Mock

import application
import mlflow
import numpy as np
import pytest
import torch
from application import (
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
from train import train

QUICK = ("epochs=3", "model=baseline")
LEAN = ("artifacts=false", "score_test=false")


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run_has_params_metrics_tags_and_its_data_set(trained, compose):
    run, client = trained.run, client_of(trained.root)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "lenet5 lr=0.003 adamw batch=64 seed=7"

    # Choices, and numbers that people compare. All settings are in config.yaml.
    params = run.data.params
    assert (params["model"], params["optimizer"]) == ("lenet5", "adamw")
    assert (params["optimizer.lr"], params["data.batch_size"]) == ("0.003", "64")
    assert (params["epochs"], params["seed"], params["model.dropout"]) == ("3", "7", "0.0")
    assert len(params) < 25
    assert not [name for name in params if name.startswith(("paths", "hydra", "tracking"))]

    for metric in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr"):
        assert epochs_of(client, run, metric) == [1, 2, 3]
    metrics = run.data.metrics
    assert metrics["val/accuracy"] == history(trained.output_dir)[-1]["val/accuracy"]
    assert {"test/accuracy", "test/loss", "n_parameters", "all/accuracy"} <= set(metrics)

    tags = run.data.tags
    assert tags["architecture"] == "lenet5"
    assert tags["seed"] == "7"
    assert tags["device"] == "cpu"
    assert tags["n_parameters"] == "61706"
    assert tags["host"] == socket.gethostname()
    assert tags["version.torch"] == version("torch")

    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "mnist"
    assert dataset.dataset.digest == config.build(compose().data).digest[:8]


def test_run_has_pictures_and_a_model_that_predicts_from_raw_pixels(trained, compose, monkeypatch):
    run, cfg = trained.run, compose()
    mlruns = trained.root / "mlruns" / "hydrasweep"
    artifacts = mlruns / run.info.run_id / "artifacts"
    pictures = [*(artifacts / "pictures").iterdir()]
    assert {path.name for path in pictures} == {
        *("first_images.png", "confusion.png", "worst_mistakes.png")
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)
    assert (artifacts / "config.yaml").exists()

    model = config.build(cfg.model)
    model.load_state_dict(torch.load(artifacts / "model.pt", weights_only=True))
    model.eval()
    (logged,) = client_of(trained.root).search_logged_models([run.info.experiment_id])
    assert logged.status == "READY"
    assert logged.source_run_id == run.info.run_id
    assert (mlruns / "models" / logged.model_id).is_dir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    data = config.build(cfg.data)
    for n in (1, 2, 5):
        images = data.first(n).inputs
        with torch.inference_mode():
            expected = model(data.normalize()(images)).numpy()
        np.testing.assert_allclose(loaded.predict(images.numpy()), expected, atol=1e-5)
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    assert loaded.metadata.saved_input_example_info is not None


def test_run_without_tracking_writes_only_into_its_folder_and_completes_a_cut_line(
    compose, tmp_path, output_dir
):
    cfg = compose(*QUICK, *LEAN, "tracking=none")
    train(cfg, output_dir)
    assert [path.name for path in tmp_path.iterdir()] == [output_dir.name]
    assert [line["step"] for line in history(output_dir)] == [1, 2, 3]
    path = output_dir / "metrics.jsonl"
    path.write_text(path.read_text()[:-10])  # as a kill leaves it
    (output_dir / "last.pt").unlink()
    train(cfg, output_dir)
    assert [line["step"] for line in history(output_dir)] == [1, 2, 3]


def recorded(root, folder, **params):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").touch()
    about = Description("a run", params, {"b": "2"}, ("data", "digest", "place"))
    return Recorder(str(root), True).run(folder, about)


def test_runs_of_dead_processes_are_marked_failed_by_the_next_run(root, tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    client = client_of(root)

    def status():
        return str(client.get_run(id).info.status)

    def begin(name):
        with recorded(root, tmp_path / name):
            pass

    with recorded(root, tmp_path / "alive") as run:
        run.wait()
        (id,) = [run.info.run_id for run in runs_of(client)]
        begin("second")
        assert status() == "RUNNING"
        assert client.get_run(id).data.tags["pid"] == str(os.getpid())
        client.set_tag(id, "host", "another-machine")
        client.set_tag(id, "pid", str(gone.pid))
        begin("third")
        assert status() == "RUNNING"
        client.set_tag(id, "host", socket.gethostname())
        begin("fourth")
        assert status() == "FAILED"
        client.update_run(id, status="RUNNING")
        client.set_tag(id, "pid", str(os.getpid()))
        client.set_tag(id, "process_started", "12345.67")  # another process had the pid
        begin("fifth")
        assert status() == "FAILED"
        client.create_run("1", tags={"host": socket.gethostname()})  # of another program
        begin("sixth")
    assert status() == "FINISHED"


def test_run_of_a_sweep_has_its_name_and_tags_and_marks_no_dead_runs(root, tmp_path, monkeypatch):
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


def test_training_does_not_wait_until_mlflow_has_opened_the_run(root, tmp_path, monkeypatch):
    may_open, start = threading.Event(), mlflow.start_run

    def start_run(*args, **kwargs):
        assert may_open.wait(60)
        return start(*args, **kwargs)

    monkeypatch.setattr(mlflow, "start_run", start_run)
    with recorded(root, tmp_path / "run") as run:
        run.log({"train/loss": 1.0}, step=1)
        assert runs_of(client_of(root)) == []
        may_open.set()
    (only,) = runs_of(client_of(root))
    assert epochs_of(client_of(root), only) == [1]


def test_run_that_cannot_be_opened_ends_with_an_outage_and_is_sent_when_resumed(
    root, tmp_path, monkeypatch
):
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow, "start_run", Mock(side_effect=OSError("out of order")))
        with (
            pytest.raises(Outage, match=r"mlflow\.db.*OSError: out of order"),
            recorded(root, tmp_path / "run") as run,
        ):
            run.log({"train/loss": 1.0}, step=1)
    assert runs_of(client_of(root)) == []
    with recorded(root, tmp_path / "run") as run:
        assert run.history == {1: {"train/loss": 1.0}}
    (only,) = runs_of(client_of(root))
    assert only.info.status == "FINISHED"
    assert epochs_of(client_of(root), only) == [1]


def test_failed_call_of_mlflow_is_repeated_once(root, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0)
    call = Mock(side_effect=[OSError("locked"), None])
    with recorded(root, tmp_path / "run") as run:
        run.send(call)
    assert call.call_count == 2


START = """
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


@pytest.mark.parametrize("named", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_four_processes_can_create_the_store_at_once(tmp_path, named):
    (tmp_path / "start.py").write_text(START)
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"} if named else {}
    processes = [
        application.start(
            [str(tmp_path / "start.py"), str(tmp_path), str(tmp_path / f"run{i}")],
            env=environment(tmp_path, **uri),
            cwd=tmp_path,  # MLflow keeps the artifacts of a named store below it
        )
        for i in range(4)
    ]
    for process in processes:
        done = process.done()
        assert done.returncode == 0, done.stderr
    client = client_of(tmp_path)
    runs = runs_of(client)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert [epochs_of(client, run) for run in runs] == [[1, 2, 3]] * 4
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    where = client.get_experiment_by_name("hydrasweep").artifact_location
    assert where == (tmp_path / "mlruns" / "hydrasweep").as_uri()


def test_server_that_does_not_answer_is_refused_before_training(compose, output_dir, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0)
    with pytest.raises(UserError) as refused:
        train(compose(*QUICK), output_dir)
    message = str(refused.value)
    for part in ("http://127.0.0.1:9", "MLFLOW_TRACKING_URI", "tracking=none"):
        assert part in message
    assert "\n" not in message
    assert "secret" not in message
    assert not (output_dir / "metrics.jsonl").exists()


@pytest.mark.parametrize("is_locked", [False, True])
def test_database_that_cannot_be_used_is_refused_before_training(
    compose, root, output_dir, monkeypatch, is_locked
):
    impatient = functools.partial(sqlite3.connect, timeout=0.1)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        if is_locked:
            connection.execute("BEGIN EXCLUSIVE")
        else:
            (root / "mlflow.db").unlink()
            (root / "mlflow.db").mkdir()
        monkeypatch.setattr(sqlite3, "connect", lambda path, **_: impatient(path))
        with pytest.raises(UserError, match=r"mlflow\.db.*(locked|unable to open)"):
            train(compose(*QUICK), output_dir)
    assert not (output_dir / "metrics.jsonl").exists()


def refuse(root, table):
    """Let the store fail whenever something is written into ``table``."""
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'out of order'); END"
        )


def accept(root):
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("DROP TRIGGER refuse")


def test_results_of_a_run_whose_store_fails_are_sent_when_it_is_resumed(compose, root, output_dir):
    cfg, client = compose("model=baseline", "epochs=4"), client_of(root)

    def fail():  # as soon as the first epoch is in MLflow
        while not any(epochs_of(client, run) for run in runs_of(client)):
            time.sleep(0.01)
        refuse(root, "metrics")

    with (
        at_line("epoch 2/4", fail),
        pytest.raises(Outage, match="out of order") as outage,
    ):
        train(cfg, output_dir)
    assert str(output_dir) in str(outage.value)
    lines = history(output_dir)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (output_dir / "model.pt").exists()
    assert (output_dir / "pictures" / "confusion.png").exists()

    accept(root)
    (run,) = runs_of(client)
    assert epochs_of(client, run) in ([1], [1, 2])
    for _ in range(2):  # a finished run that is resumed keeps its one model
        train(cfg, output_dir)
        (run,) = runs_of(client)
        assert run.info.status == "FINISHED"
        assert len(client.search_logged_models([run.info.experiment_id])) == 1
    assert epochs_of(client, run) == [1, 2, 3, 4]
    assert epochs_of(client, run, "val/accuracy") == [1, 2, 3, 4]
    assert run.data.metrics["val/accuracy"] == lines[-1]["val/accuracy"]
    assert "test/accuracy" in run.data.metrics
    assert {"pictures", "model.pt"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


def test_run_whose_params_were_refused_has_them_when_resumed(root, tmp_path):
    refuse(root, "params")
    with pytest.raises(Outage, match="out of order"), recorded(root, tmp_path / "run", a=1):
        pass
    accept(root)
    for _ in range(2):
        with recorded(root, tmp_path / "run", a=1):
            pass
    (run,) = runs_of(client_of(root))
    assert run.data.params == {"a": "1"}
    assert len(run.inputs.dataset_inputs) == 1


def test_failed_run_has_a_traceback_without_password_until_it_is_resumed(root, tmp_path):
    client = client_of(root)

    def state():
        (run,) = runs_of(client)
        return run.info.status, {file.path for file in client.list_artifacts(run.info.run_id)}

    with pytest.raises(RuntimeError), recorded(root, tmp_path / "run"):
        raise RuntimeError("no postgresql://me:secret@host/db")
    assert state() == ("FAILED", {"config.yaml", "traceback.txt"})
    traceback = (tmp_path / "run" / "traceback.txt").read_text()
    assert "RuntimeError: no postgresql://host/db" in traceback
    assert "me:secret" not in traceback
    with recorded(root, tmp_path / "run") as run:
        run.wait()
        assert state() == ("RUNNING", {"config.yaml"})


@pytest.mark.parametrize("name", ["a b", "it's", "ünï", "100%", "#1", "a?b"])
def test_files_of_an_experiment_with_any_name_are_below_mlruns(root, tmp_path, monkeypatch, name):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    with recorded(root, tmp_path / "run"):
        pass
    (kept,) = root.rglob("config.yaml")
    assert kept.parents[3] == root / "mlruns"
    assert client_of(root).get_experiment_by_name(name)


def test_environment_variables_of_the_user_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    store.use(tmp_path)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://localhost:1"
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == "hydrasweep"


def test_damaged_history_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n\0\0\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        Run(tmp_path)


@pytest.mark.slow
def test_results_of_a_run_whose_server_is_killed_are_sent_when_it_is_resumed(root, tmp_path):
    folder, output_dir = tmp_path / "remote", tmp_path / "run"
    folder.mkdir()
    words = command_line(
        "train.py", "epochs=12", "data.n_train=2000", f"hydra.run.dir={output_dir}"
    )

    def remote(port):
        uri = f"http://me:secret@127.0.0.1:{port}"
        return environment(root, MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")

    with server(folder) as (port, kill):
        process = application.start(words, cwd=tmp_path, env=remote(port))
        process.until_printed("epoch  3/12")
        kill()
        done = process.done()
    assert done.returncode == 1
    assert f"resume={output_dir}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "epoch 12/12" in done.stdout
    assert "secret" not in done.stdout + done.stderr

    with server(folder) as (port, _):
        words = [words[0], f"resume={output_dir}"]
        done = application.run(words, cwd=tmp_path, env=remote(port))
        assert done.returncode == 0, done.stderr
        assert "secret" not in done.stdout + done.stderr
        client = MlflowClient(f"http://127.0.0.1:{port}")
        (run,) = runs_of(client)
        assert run.info.status == "FINISHED"
        assert epochs_of(client, run) == list(range(1, 13))
    assert not (root / "mlruns").exists()
