"""``python -m hydrasweep``: what each verb does and refuses."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apps
import pytest
from apps import CONFIG
from planted import plant, searched

from hydrasweep import starts

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "command_line.md"
COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for line in DOCUMENT.read_text().splitlines()
    if line.startswith("python -m hydrasweep ") and " VERB" not in line
]
VERBS = ("list", "show", "report", "resume", "compare", "export", "delete")
Verb = Callable[..., tuple[str, str]]


def command(*words, stdout=subprocess.PIPE, **extra):
    """Run ``python -m hydrasweep`` in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-m", "hydrasweep", *map(str, words)],
        text=True, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, **extra,
    )  # fmt: skip


@pytest.fixture
def resume(verb, monkeypatch, tmp_path):
    """``resume("s")`` runs ``python -m hydrasweep resume s`` in this process, and forks the
    command that would replace the process."""

    def resumed(*words, at=tmp_path):
        replaced: list[list[str]] = []
        monkeypatch.setattr(os, "execv", lambda _, words: replaced.append(words))
        _, error = verb("resume", *words, at=at)
        assert error == ""
        ((python, *command),) = replaced
        assert (python, command[:2]) == (sys.executable, ["app.py", "-m"])
        return apps.run(Path.cwd(), tuple(command[2:]))

    return resumed


def test_every_documented_command_works(verb, resume, app, tmp_path):
    sweeps = tmp_path / "outputs" / "sweeps"
    config = CONFIG.replace("dir: sweep", "dir: outputs/sweeps/${hydra.sweeper.study_name}")
    done = app("return cfg.x", config)("hydra.sweeper.study_name=first")
    assert done.code == 0, done.err
    (plant(sweeps / "second", {"": searched(4)}) / starts.CLAIM).write_text("id")
    assert {words[0] for words in COMMANDS} == set(VERBS)
    for verb_name, *words in COMMANDS:
        if verb_name == "resume":
            done = resume(*words)
            assert done.code == 0, done.err
            continue
        out, error = verb(verb_name, *words)
        assert error == "", (verb_name, words)
        assert out, (verb_name, words)
    assert {path.name for path in sweeps.iterdir()} == {"first", "compare-first-second.html"}
    assert (sweeps / "first" / "report.html").exists()
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + 4
    assert (tmp_path / "all.parquet").exists()
    assert len((sweeps / "first" / "trials.csv").read_text().splitlines()) == 1 + 6  # resumed


@pytest.mark.parametrize("name", VERBS)
def test_help_has_an_example(verb, name):
    assert name in verb("--help")[0]
    out, error = verb(name, "--help")
    assert f"python -m hydrasweep {name} " in " ".join(out.split()).rpartition("options:")[2]
    assert error == ""


def test_reports_import_plotly_and_nothing_heavier(tmp_path):
    one, two = (plant(tmp_path / name, {"/cnn": searched(5)}) for name in ("one", "two"))
    env = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    for words, needed, heavy in (
        (("report", one, two), "plotly", {"torch", "mlflow", "mnist", "pandas"}),
        (("list", tmp_path), "hydrasweep.folders", {"optuna", "sqlalchemy", "plotly"}),
    ):
        done = command(*words, env=env)
        imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
        assert needed in imported
        assert not imported & heavy
        if words[0] == "report":
            assert done.stdout == f"{tmp_path / 'compare-one-two.html'}\n"


@pytest.mark.parametrize(
    "words",
    [("show",), ("report",), ("report", "--watch"), ("compare", "s"), ("resume",),
     ("export", "--csv=x.csv"), ("delete", "--yes")],
)  # fmt: skip
def test_name_of_no_sweep_is_refused(verb, tmp_path, words):
    plant(tmp_path / "s", {"": searched(2)})
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty", str(tmp_path)):
        out, error = verb(*words, name)
        assert out == ""
        assert re.match(rf"Error: {name}: [^\n]+$", error)
    assert list((tmp_path / "empty").iterdir()) == []


def test_show_prints_the_summary_of_the_sweep_again(verb, finished):
    ended = finished.out[finished.out.index("\n  best trial") :]
    head, _, rest = verb("show", "s", at=finished.folder)[0].partition("\n")
    assert re.search(r"\bs\b.*\bsweep\b.*\bfinished$", head)
    for part in ended.strip().split("\n\n"):
        assert part.strip() in rest


def test_several_sweeps_of_a_name_are_refused_and_kept(verb, finished, tmp_path):
    for name in "ab":
        shutil.copytree(finished.folder / "sweep", tmp_path / "runs" / name)
    for verb_name in ("show", "delete"):
        assert "runs/a, runs/b" in verb(verb_name, "s")[1]
    out, error = verb("show", "runs/b")
    assert error == ""
    assert "runs/b" in out
    assert (tmp_path / "runs" / "b" / starts.CLAIM).exists()


def test_running_sweep_is_shown_and_neither_resumed_nor_deleted(verb, app, tmp_path):
    body = """
        until = time.time() + 20
        while hydrasweep.trial().number == 2 and time.time() < until:
            if os.path.exists("go"):
                break
            time.sleep(0.02)
        return cfg.x
    """
    app(body)
    process = apps.fork.Process(target=apps.run, args=(tmp_path, ()))
    process.start()
    results, until = tmp_path / "sweep" / "results.yaml", time.monotonic() + 20
    while not (results.exists() and "COMPLETE: 2" in results.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)  # until the monitor has written two trials
    try:
        assert re.search(r"s +running +2/4", verb("list")[0])
        head, *lines = verb("show", "s")[0].splitlines()
        assert re.search(r"running.* \d+\b", head)
        assert any(line.endswith("2 COMPLETE, 1 RUNNING, 1 WAITING") for line in lines)
        assert not any("hydrasweep resume" in line for line in lines)
        for words in (("resume", "s"), ("delete", "s", "--yes")):
            out, error = verb(*words)
            assert out == ""
            assert re.match(r"Error: sweep: .* running.*process \d+", error)
        assert verb("export", "s", "--csv", "a.csv")[1] == ""
    finally:
        (tmp_path / "go").touch()
        process.join()
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert [row.split(",")[3] for row in rows] == ["state", "COMPLETE", "COMPLETE", "RUNNING"]
    assert re.search(r"s +finished +4/4", verb("list")[0])


ENDS = {
    "killed": ("end_sweep(signal.SIGKILL)", ""),
    "stopped": ("raise hydrasweep.Outage('the disk is full')", "the disk is full"),
}


@pytest.mark.parametrize("how", ENDS)
def test_sweep_that_ended_early_is_resumed(verb, resume, app, tmp_path, how):
    body = f"""
        if hydrasweep.trial().number == 1 and not os.path.exists("once"):
            open("once", "w").close()
            {ENDS[how][0]}
        return cfg.x
    """
    done = app(body)("hydra.sweeper.max_failures=0", "hydra.sweeper.study_name=t")
    assert done.code
    assert re.search(rf"t +{how} +\d/4", verb("list")[0])
    head, *lines = verb("show", "t")[0].splitlines()
    assert re.search(f"{how}.*{ENDS[how][1]}", head)
    assert any(line.endswith(" python -m hydrasweep resume sweep") for line in lines)
    where = tmp_path / "elsewhere"
    where.mkdir()
    ended = resume("../sweep", "hydra.sweeper.n_trials=5", at=where)
    assert ended.code == 0, ended.err
    assert done.states("t").count("COMPLETE") == 5
    assert re.search(r"t +finished +5/5", verb("list")[0])


def test_resumed_sweep_replaces_the_process_and_imports_no_optional_package(verb, app, tmp_path):
    """Its exit code and its way to resume are those of the sweep itself."""
    body = """
        if hydrasweep.trial().number:
            end_sweep(signal.SIGINT)
        return cfg.x
    """
    main = """try:
        task()
    finally:
        print("imported", {"mlflow", "torch", "plotly", "pandas"} & set(sys.modules))"""
    assert app(body, main=main)().code == 130
    assert re.search(r"s +interrupted +1/4", verb("list")[0])
    done = command("resume", "s", cwd=tmp_path)
    assert done.returncode == 130
    assert "python app.py -m" in done.stderr
    assert "imported set()" in done.stdout
    assert not list(tmp_path.rglob("*mlflow*"))


def test_sweep_is_deleted_only_after_yes(verb, finished, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    shutil.copytree(finished.folder / "sweep", folder)
    for answer in ("", "n", "what"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert verb("delete", "s")[1] == ""
        assert (folder / "trials.csv").exists()
    monkeypatch.undo()
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert "--yes" in verb("delete", "s")[1]
    assert (folder / "trials.csv").exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert verb("delete", "s")[1] == ""
    assert not folder.exists()


def test_output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none(
    verb, finished, tmp_path
):
    folder = finished.folder / "sweep"
    with Path("/dev/full").open("w") as full:
        done = command("show", folder, stdout=full)
    assert done.returncode == 1
    assert re.fullmatch("Error: .*No space left on device\n", done.stderr)
    reading, writing = os.pipe()
    os.close(reading)
    ended = command("show", folder, stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    out, error = verb("export", str(folder), "--csv", str(tmp_path / "none" / "a.csv"))
    assert out == ""
    assert re.fullmatch(r"Error: [^\n]*a\.csv [^\n]+", error)
