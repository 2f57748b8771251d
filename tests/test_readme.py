"""The README's commands, as they stand there; those of the documents are in test_docs.py."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = [block for language, block in BLOCK.findall(README) if not language]
LINES = list(dict.fromkeys(line for block in BLOCKS for line in block.split("\n")))
TRAINING = [line for line in LINES if line.startswith("python src/train")]


def test_there_are_commands() -> None:
    assert len(TRAINING) > 3
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("line", [line for line in TRAINING if "OUTPUT_DIR" not in line])
def test_every_training_command_composes(line: str) -> None:
    _, script, *words = shlex.split(line, comments=True)
    several = "-m" in words
    words = [w for w in words if w != "-m" and not re.search(r"=(\w+,|tag\()", w)]
    done = subprocess.run(
        [sys.executable, REPOSITORY / script, *words, "--cfg", "job"],
        text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("hparams_search" in line) <= several


def test_the_quickstart_is_what_is_installed_and_tested() -> None:
    trains, tests = (line for line in LINES if line.startswith("python -m pip install"))
    assert trains == 'python -m pip install -e ".[mnist]" && python src/train.py model=lenet5'
    assert tests in (REPOSITORY / ".ci" / "run").read_text()


def test_mlflow_is_served_to_this_machine_alone() -> None:
    from mlflow.cli import server  # of which `mlflow ui` is another name

    (host,) = (option for option in server.params if option.name == "host")
    assert host.get_default(click.Context(server)) == "127.0.0.1"
    assert [line for line in LINES if line.startswith("mlflow ui")] == [
        "mlflow ui --host 127.0.0.1"
    ]


def test_every_file_of_the_tree_exists_and_every_module_is_in_it() -> None:
    (tree,) = (block for block in BLOCKS if "conf/  " in block)
    named = set(re.findall(r"[\w/]+\.py\b", tree))
    source = REPOSITORY / "src"
    modules = {path.name for path in source.glob("*/*.py") if path.name != "__init__.py"}
    entrypoints = {f"src/{path.name}" for path in source.glob("*.py")}
    assert named == modules | entrypoints


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 5
    assert not [link for link in links if not (REPOSITORY / link).exists()]


def test_app_of_ones_own_is_complete_and_sweeps(tmp_path: Path) -> None:
    blocks = dict(BLOCK.findall(README))
    (tmp_path / "app.py").write_text(blocks["python"])
    (tmp_path / "config.yaml").write_text(blocks["yaml"])
    (line,) = re.findall(r"`python (app\.py -m [^`]*)` sweeps", README)
    done = subprocess.run(
        [sys.executable, *shlex.split(line), "hydra.sweeper.n_trials=3"],
        cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "lr: 0.01 to 0.5" in done.stdout
    assert "best trial" in done.stdout
