"""The changes and commands of docs/own_project.md, in a project with the layout of
lightning-hydra-template."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign import copy
from omegaconf import OmegaConf

DOCUMENT = Path(__file__).parents[2] / "docs" / "own_project.md"
SEARCH = "configs/hparams_search/mnist_optuna.yaml"
LIT = ["model=lit", "data=lit", "callbacks=lit", "trainer=lit"]


def blocks(language):
    """Return the document's blocks of code in a language."""
    text = DOCUMENT.read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


def apply(diff, project):
    """Apply a diff, whose parts are separated by ``@@`` lines, to the file that it names."""
    name, _, body = diff.removeprefix("--- ").partition("\n")
    path = project.folder / name
    text = path.read_text()
    for part in body.split("@@\n"):
        lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(before) == 1 or not before, f"{name} does not have this once:\n{before}"
        text = text.replace(before, after, 1)
    path.write_text(text)


def test_diffs_have_at_most_ten_changed_lines():
    search, loop = blocks("diff")
    for diff in (search, loop):
        assert 0 < len(re.findall(r"^[+-](?!--)", diff, re.MULTILINE)) <= 10


def commands():
    """Return the arguments of the document's six commands."""
    _, shell = blocks("bash")
    found = [shlex.split(line) for line in shell.splitlines() if line.startswith("python ")]
    assert len(found) == 6
    return [words[1:] for words in found]


def without_lightning(tmp_path):
    """Copy the project and change it as the document says, but for Lightning's callback."""
    project = copy("template", tmp_path)
    for diff in blocks("diff"):
        apply(diff, project)
    search = project.folder / SEARCH
    callback = re.compile(r"^callbacks:\n( .*\n)+", re.MULTILINE)
    assert callback.search(search.read_text())
    search.write_text(callback.sub("", search.read_text()))
    return project


def test_template_without_lightning_runs_and_prunes_a_sweep(tmp_path):
    project = without_lightning(tmp_path)
    _, (app, *sweep), *_ = commands()
    project.run(*sweep, "hydra.sweeper.n_trials=8", app=app)
    rows = project.trials()
    assert len(rows) == 8
    assert any(row["state"] == "PRUNED" for row in rows)
    assert project.sweep().name == "lr"


def test_search_file_may_have_the_other_settings_of_the_document(tmp_path):
    """The plan is printed with all of them, by the document's command for that."""
    project = copy("template", tmp_path)
    apply(blocks("diff")[0], project)
    search = project.folder / SEARCH
    (settings,) = blocks("yaml")
    merged = OmegaConf.merge(OmegaConf.load(search), OmegaConf.create(settings))
    merged.defaults = [*OmegaConf.load(search).defaults, *OmegaConf.create(settings).defaults]
    search.write_text("# @package _global_\n" + OmegaConf.to_yaml(merged))
    (app, *plan), *_ = commands()
    assert "dry_run=true" in plan[-1]
    printed = project.run(*plan, app=app)
    assert "Study lr: 6 trials, 2 at once" in printed
    assert "3 fresh seeds" in printed
    assert not list(project.folder.rglob("study.db"))


@pytest.mark.slow
def test_all_commands_of_the_document(tmp_path):
    project = without_lightning(tmp_path)
    _, (app, *sweep), (_, *resume), *others = commands()
    project.run(*sweep, app=app)
    rows = project.trials()
    project.run(*resume, app=app)
    resumed = project.trials()
    assert (resumed[:6], len(resumed)) == (rows, 12)
    for app, *words in others:
        project.run(*words, app=app)
    sweeps = sorted(path.parent for path in (project.folder / "logs").rglob("trials.csv"))
    parallel, confirmed, reported = (path for path in sweeps if path.name != "lr")
    assert OmegaConf.load(parallel / "multirun.yaml").hydra.sweeper.n_workers == 2
    assert (confirmed / "best" / "overall.yaml").exists()
    assert (reported / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("lightning") and find_spec("optuna_integration")),
    reason="needs lightning and optuna-integration",
)
def test_template_with_lightning(tmp_path):
    project = copy("template", tmp_path)
    apply(blocks("diff")[0], project)
    printed = project.run("-m", "hparams_search=mnist_optuna", *LIT, app="src/train.py")
    assert re.search(r"Trials: \d COMPLETE, [1-9] PRUNED", printed)
    assert "Traceback" not in printed
    # The callback accepts reports without a sweep.
    project.run(*LIT, "hparams_search=mnist_optuna", "hydra.mode=RUN", app="src/train.py")
