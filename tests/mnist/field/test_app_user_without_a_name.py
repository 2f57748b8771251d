"""A container runs as a user that /etc/passwd does not know.

They: ``docker run -u 12345``; asking for the user's name ended in a KeyError before the run.
Source: github.com/mlflow/mlflow/issues/1103, github.com/h2oai/h2o-llmstudio/pull/974
Right: the training runs, and is recorded in MLflow with its model, without a word about it.
"""

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from application import Compose, client_of, command_line, environment, runs_of

from train import train

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
# In a user namespace files stay those of who runs the tests.
UNKNOWN = ("unshare", "--user", "--map-user=12345", "--map-group=12345")


def may_be_unknown() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*UNKNOWN, "true"]).returncode


def assert_recorded(root: Path) -> None:
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.user"].isdecimal()
    assert run.data.tags["mlflow.source.name"]


def test_training_is_recorded(
    compose: Compose,
    root: Path,
    output_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("LOGNAME", "")  # and taken back at the end
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    train(compose("model=baseline", "epochs=1", "artifacts=false"), output_dir)
    assert "uid not found" not in capfd.readouterr().err
    assert_recorded(root)


@pytest.mark.slow
def test_so_is_a_real_users(root: Path, tmp_path: Path) -> None:
    if not may_be_unknown():
        pytest.skip("may not make a user namespace")
    env = {k: v for k, v in environment(root, HOME=str(tmp_path)).items() if k not in NAMES}
    done = subprocess.run(
        [*UNKNOWN, *command_line("train.py", "model=baseline", "epochs=1")],
        cwd=tmp_path, env=env, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_recorded(root)
    assert client_of(root).search_logged_models(["1"])
