"""The package lies in a repository of its own, and the user's script elsewhere.

They: found runs without a commit, or with that of a project which the script is no part of.
Source: github.com/mlflow/mlflow/issues/10853, github.com/mlflow/mlflow/issues/2379
Right: nothing asks git about the folder of the package; versions come from what is installed.
"""

from importlib.metadata import version
from pathlib import Path

import pytest
from application import REPOSITORY, Compose, client_of, runs_of

from train import train


def test_git_is_not_asked_about_the_package(
    compose: Compose, root: Path, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git, asked = tmp_path / "bin" / "git", tmp_path / "asked.txt"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\necho "$PWD $*" >> {asked}\nexit 1\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(git.parent), prepend=":")
    monkeypatch.setattr("sys.argv", [str(tmp_path / "elsewhere" / "train.py")])
    train(compose("model=baseline", "epochs=1", "artifacts=false"), output_dir)
    lines = asked.read_text().splitlines() if asked.exists() else []
    # GitPython's import asks which git it is, in whatever folder.
    assert not [line for line in lines if str(REPOSITORY) in line and not line.endswith(" version")]
    (run,) = runs_of(client_of(root))
    assert "mlflow.source.git.commit" not in run.data.tags
    assert run.data.tags["version.torch"] == version("torch")
