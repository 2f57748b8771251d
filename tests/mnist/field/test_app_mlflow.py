"""MLflow's store is tidied up, refuses names, or does not know the user."""

import json
import logging
import pwd
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
from application import (
    REPOSITORY,
    at_line,
    client_of,
    command_line,
    environment,
    epochs_of,
    runs_of,
    server,
)
from mlflow import MlflowClient
from mlflow.entities import ViewType
from omegaconf import open_dict

from hydrasweep import Outage
from train import train

LEAN = ("model=baseline", "epochs=1", "artifacts=false", "score_test=false")


def test_training_whose_run_was_deleted_is_resumed_in_a_new_run(compose, root, output_dir, caplog):
    """A training is stopped, its run is deleted in MLflow's UI, and the training is resumed.

    What happened: MLflow refuses to write to a deleted run.
    Sources: github.com/mlflow/mlflow/issues/689, github.com/mlflow/mlflow/issues/6606
    Expected: a new run holds all epochs, also the earlier ones, and a warning says so.
    """

    def stop():
        raise KeyboardInterrupt

    words = (*LEAN, "epochs=3")
    with at_line("epoch 2/3", stop), pytest.raises(KeyboardInterrupt):
        train(compose(*words), output_dir)
    client = client_of(root)
    (first,) = runs_of(client)
    client.delete_run(first.info.run_id)
    caplog.set_level(logging.WARNING, "mnist")
    train(compose(*words), output_dir)
    assert first.info.run_id in caplog.text
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == epochs_of(client, run, "val/accuracy") == [1, 2, 3]
    assert (output_dir / "mlflow_run_id").read_text() == run.info.run_id
    ids = [first.info.experiment_id]
    (deleted,) = client.search_runs(ids, run_view_type=ViewType.DELETED_ONLY)
    assert deleted.info.run_id == first.info.run_id


def test_run_of_another_store_is_replaced_by_a_new_run(compose, root, output_dir):
    """The run's id belongs to a store that is no longer used (see the sources above)."""
    (output_dir / "mlflow_run_id").write_text("0" * 32)
    train(compose(*LEAN), output_dir)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1]


def test_deleted_experiment_is_refused_with_the_command_that_restores_it(compose, root, output_dir):
    """The experiment is deleted in MLflow's UI, and the next training starts.

    What happened: a deleted experiment keeps its name and accepts no runs.
    Sources: github.com/mlflow/mlflow/issues/2690, github.com/mlflow/mlflow/issues/6445
    Expected: the training is refused before its first epoch, with the command.
    """
    client = client_of(root)
    number = client.create_experiment("hydrasweep")
    client.delete_experiment(number)
    with pytest.raises(Outage, match=f"restore --experiment-id {number}") as error:
        train(compose(*LEAN), output_dir)
    assert f"MLFLOW_TRACKING_URI=sqlite:///{root}/mlflow.db" in str(error.value)
    assert not (output_dir / "metrics.jsonl").exists()
    client.restore_experiment(number)
    train(compose(*LEAN), output_dir)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_deleted_experiment_of_a_server_is_refused_in_the_same_way(
    compose, output_dir, tmp_path, monkeypatch
):
    with server(tmp_path) as (port, _):
        uri = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        client = MlflowClient(uri)
        client.delete_experiment(client.create_experiment("hydrasweep"))
        with pytest.raises(Outage, match=f"{uri} mlflow experiments restore --experiment-id"):
            train(compose(*LEAN), output_dir)
    assert not (output_dir / "metrics.jsonl").exists()


TOP_K = """
from mnist.tasks import Classification

class TopK(Classification):
    def metrics(self, outputs, targets):
        hits = (outputs.topk(3).indices == targets[:, None]).any(1)
        return {**super().metrics(outputs, targets), "acc@3": hits.double().mean()}
"""


def test_names_that_mlflow_refuses_are_cleaned(compose, root, output_dir, users):
    """A metric is named ``MAP@k``, and a setting has brackets in its name.

    What happened: MLflow accepts letters, digits and ``_-./: `` only, and ended the run.
    Sources: github.com/mlflow/mlflow/issues/9425, github.com/verl-project/verl/issues/119
    Expected: MLflow has cleaned names; the output folder has the original ones.
    """
    users(TOP_K)
    cfg = compose("model=baseline", "epochs=1", "artifacts=false", "+note={a@b:1}")
    with open_dict(cfg):
        cfg["timing(s)"] = 3
        cfg.optimizer["lr"] = 0.01
        cfg.task._target_ = "users.TopK"
        cfg.task.directions["acc@3"] = "maximize"
        cfg.objective = "val/acc@3"
    value = train(cfg, output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.params["timing_s_"] == "3"
    assert run.data.metrics["val/acc_3"] == value
    assert epochs_of(client, run, "train/acc_3") == [1]
    (epoch,) = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    assert epoch["val/acc@3"] == value


NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
# In a user namespace, files still belong to the user who runs the tests.
UNKNOWN = ("unshare", "--user", "--map-user=12345", "--map-group=12345")


def assert_recorded(root):
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.user"].isdecimal()
    assert run.data.tags["mlflow.source.name"]


def test_training_of_a_user_without_a_name_is_recorded(
    compose,
    root,
    output_dir,
    monkeypatch,
    capfd,
):
    """A container runs with ``docker run -u 12345``: /etc/passwd does not know the user.

    What happened: looking up the user's name raised a KeyError.
    Sources: github.com/mlflow/mlflow/issues/1103, github.com/h2oai/h2o-llmstudio/pull/974
    Expected: the training is recorded in MLflow, and prints no warning about the name.
    """

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("LOGNAME", "")  # restored at the end, although it is deleted next
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    train(compose(*LEAN), output_dir)
    assert "uid not found" not in capfd.readouterr().err
    assert_recorded(root)


@pytest.mark.slow
def test_training_of_a_real_user_without_a_name_is_recorded(root, tmp_path):
    if not shutil.which("unshare") or subprocess.run([*UNKNOWN, "true"]).returncode:
        pytest.skip("this machine allows no user namespaces")
    env = {k: v for k, v in environment(root, HOME=str(tmp_path)).items() if k not in NAMES}
    words = [*UNKNOWN, sys.executable, *command_line("train.py", "model=baseline", "epochs=1")]
    done = subprocess.run(words, cwd=tmp_path, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_recorded(root)
    assert client_of(root).search_logged_models(["1"])


def test_git_is_not_asked_about_the_package(compose, root, output_dir, tmp_path, monkeypatch):
    """The package lies in a repository of its own, and the user's script elsewhere.

    What happened: runs had no commit, or that of a project which the script does not belong to.
    Sources: github.com/mlflow/mlflow/issues/10853, github.com/mlflow/mlflow/issues/2379
    Expected: nothing asks git about the package's folder. Versions come from the packages.
    """
    git, asked = tmp_path / "bin" / "git", tmp_path / "asked.txt"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\necho "$PWD $*" >> {asked}\nexit 1\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=":")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "elsewhere" / "train.py")])
    train(compose(*LEAN), output_dir)
    lines = asked.read_text().splitlines() if asked.exists() else []
    # While it is imported, GitPython asks for git's version in the working directory.
    assert not [line for line in lines if str(REPOSITORY) in line and not line.endswith(" version")]
    (run,) = runs_of(client_of(root))
    assert "mlflow.source.git.commit" not in run.data.tags
    assert run.data.tags["version.torch"] == version("torch")
