"""Every command in the README and in docs/ that needs the application runs, at its smallest size.

test_docs.py checks that no command is missing here.
"""

import os
import shlex

import pytest
from application import REPOSITORY, SMALL, environment, run
from documents import BLOCKS, OTHERS, TRAIN
from strokes import draw

pytestmark = pytest.mark.slow

# Sweeps run in their own process, with one trial for each of the three architectures.
TINY = [*SMALL, "epochs=1"]
TINY_SWEEP = [*TINY, "hydra.sweeper.n_workers=1", "hydra.sweeper.n_trials=3"]
FIRST = "python src/train.py -m hparams_search=optuna study=first"
# These read, extend or repeat the study `first`; tests run them in this order.
ON_FIRST = [line for line in TRAIN if "first" in line and line != FIRST]
# A script that does what `python -m hydrasweep` does.
MAIN = "from hydrasweep.__main__ import main; main()"


def key(override):
    return override.partition("=")[0]


def smallest(line):
    """The words of a training command that make it small, in place of the words in the line."""
    words = shlex.split(line)[2:]
    tiny = list(TINY)
    if "hparams_search" in line:
        tiny = TINY_SWEEP
        if "n_trials=90" in line:
            tiny = [word.replace("n_trials=3", "n_trials=6") for word in tiny]
        if "confirm=none" not in line:
            tiny = [*tiny, "hydra.sweeper.confirm.n_seeds=1"]
        if "study=first" not in line:  # only that study exports its winners and is in MLflow
            tiny = [*tiny, "tracking=none", "hydra.sweeper.report=false"]
            if "confirm=none" not in line:
                tiny = [*tiny, "hydra.sweeper.confirm.final=['score_test=true']"]
    replaced = {key(word) for word in tiny}
    return [word for word in words if key(word) not in replaced] + tiny


def execute(root, path, words):
    """Run a script of the repository in ``root``, which stands for the repository."""
    done = run([str(REPOSITORY / path), *words], cwd=root, env=environment(root))
    assert done.returncode == 0, f"{path} {words}: {done.stderr}"
    return done.stdout


@pytest.fixture
def repository_copy(root):
    (root / "data").symlink_to(REPOSITORY / "data")
    return root


@pytest.mark.parametrize("line", [line for line in TRAIN if line not in (FIRST, *ON_FIRST)])
def test_training_command_runs(line, repository_copy):
    assert execute(repository_copy, "src/train.py", smallest(line))


def test_commands_on_finished_sweeps_run(repository_copy):
    root = repository_copy
    for line in (FIRST, *ON_FIRST):
        execute(root, "src/train.py", smallest(line))
    (root / "drawings").mkdir()
    for name in ("seven.png", "a.png", "b.jpg", "drawings/seven.png"):
        draw(7).save(root / name)
    (root / "main.py").write_text(MAIN)
    for line in OTHERS:
        words = shlex.split(line.partition(" >")[0])
        if words[:3] == ["python", "-m", "hydrasweep"]:
            execute(root, os.fspath(root / "main.py"), words[3:])
        else:
            execute(root, words[1], words[2:])
    assert (root / "all.csv").read_text().count("\n") > 6
    assert not (root / "outputs" / "sweeps" / "second").exists()
    # The Python of the pages about the command line and MLflow, for the same sweep.
    for page in ("command_line", "mlflow"):
        (text,) = (e.text for e in BLOCKS if (e.page, e.language) == (page, "python"))
        text = f"from mnist import store\nstore.use('.')\n{text.replace('.show()', '')}"
        (root / "block.py").write_text(text)
        execute(root, os.fspath(root / "block.py"), [])
