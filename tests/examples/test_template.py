"""docs/own_project.md, done to a project in lightning-hydra-template's layout as it says."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from foreign import Project, copy
from omegaconf import OmegaConf

DOCUMENT = Path(__file__).parents[2] / "docs" / "own_project.md"
SEARCH = "configs/hparams_search/mnist_optuna.yaml"
LIT = ["model=lit", "data=lit", "callbacks=lit", "trainer=lit"]


def blocks(language: str) -> list[str]:
    """The document's blocks of code."""
    found = re.findall(
        rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found
    return found


def apply(diff: str, project: Project) -> None:
    """Change a file as a diff says, whose parts are separated by lines of @@."""
    name, _, body = diff.removeprefix("--- ").partition("\n")
    path = project.folder / name
    text = path.read_text()
    for part in body.split("@@\n"):
        lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(before) == 1 or not before, f"{name} has not this one time:\n{before}"
        text = text.replace(before, after, 1)
    path.write_text(text)


def test_the_diff_has_at_most_ten_lines() -> None:
    search, loop = blocks("diff")
    assert 0 < len(re.findall(r"^[+-](?!--)", search, re.MULTILINE)) <= 10
    assert 0 < len(re.findall(r"^[+-](?!--)", loop, re.MULTILINE)) <= 10


def commands() -> list[list[str]]:
    """The words of the document's commands."""
    _, shell = blocks("bash")
    found = [shlex.split(line) for line in shell.splitlines() if line.startswith("python ")]
    assert len(found) == 6
    return [words[1:] for words in found]


def without_lightning(tmp_path: Path) -> Project:
    """The project after the document's changes; its loop's own line in the callback's place."""
    project = copy("template", tmp_path)
    for diff in blocks("diff"):
        apply(diff, project)
    search = project.folder / SEARCH
    callback = re.compile(r"^callbacks:\n( .*\n)+", re.MULTILINE)
    assert callback.search(search.read_text())
    search.write_text(callback.sub("", search.read_text()))
    return project


def test_the_template_without_lightning(tmp_path: Path) -> None:
    project = without_lightning(tmp_path)
    try_it, sweep, resume, *_ = commands()
    assert "dry_run=true" in try_it[-1]
    project.run(*try_it[1:], app=try_it[0])
    assert not list(project.folder.rglob("study.db"))
    project.run(*sweep[1:], app=sweep[0])
    rows = project.trials()
    assert len(rows) == 6
    project.run(*resume[1:], app=resume[0])
    assert project.trials()[:6] == rows
    assert len(project.trials()) == 12
    assert any(row["state"] == "PRUNED" for row in project.trials())
    assert project.sweep().name == "lr"


@pytest.mark.slow
def test_the_other_commands(tmp_path: Path) -> None:
    project = without_lightning(tmp_path)
    for app, *words in commands()[3:]:
        project.run(*words, app=app)
    sweeps = sorted(path.parent for path in (project.folder / "logs").rglob("trials.csv"))
    parallel, confirmed, reported = sweeps
    assert len(list((parallel / "workers").iterdir())) == 2
    assert (confirmed / "best" / "overall.yaml").exists()
    assert (reported / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (find_spec("lightning") and find_spec("optuna_integration")),
    reason="wants lightning and optuna-integration",
)
def test_the_template_with_lightning(tmp_path: Path) -> None:
    project = copy("template", tmp_path)
    apply(blocks("diff")[0], project)
    printed = project.run("-m", "hparams_search=mnist_optuna", *LIT, app="src/train.py")
    assert re.search(r"Trials: \d COMPLETE, [1-9] PRUNED", printed)
    assert "Traceback" not in printed
    # Without a sweep the callback listens to nobody.
    project.run(*LIT, "hparams_search=mnist_optuna", "hydra.mode=RUN", app="src/train.py")


def test_the_search_file_has_the_document_s_other_settings(tmp_path: Path) -> None:
    project = copy("template", tmp_path)
    apply(blocks("diff")[0], project)
    search = project.folder / SEARCH
    (settings,) = blocks("yaml")
    merged = OmegaConf.merge(OmegaConf.load(search), OmegaConf.create(settings))
    merged.defaults = [*OmegaConf.load(search).defaults, *OmegaConf.create(settings).defaults]
    search.write_text("# @package _global_\n" + OmegaConf.to_yaml(merged))
    printed = project.run(
        "-m", "hparams_search=mnist_optuna", "hydra.sweeper.dry_run=true", app="src/train.py"
    )
    assert "Study lr: 6 trials, 2 workers" in printed
    assert "race for 3 fresh seeds" in printed
