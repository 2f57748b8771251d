"""``python -m hydrasweep``: each verb as the documents have it, and what it refuses."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import CONFIG, App
from planted import plant, searched

from hydrasweep.starts import CLAIM

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "command_line.md"
COMMANDS = [
    line
    for line in DOCUMENT.read_text().splitlines()
    if line.startswith("python -m hydrasweep ") and " VERB" not in line
]
VERBS = ("list", "show", "report", "resume", "compare", "export", "delete")
Verb = Callable[..., tuple[str, str]]


def command(
    *words: Any, stdout: Any = subprocess.PIPE, cwd: Path | None = None, **extra: str
) -> Any:
    """What ``python -m hydrasweep`` does as a process of its own, which nobody answers."""
    command = [sys.executable, "-m", "hydrasweep", *map(str, words)]
    return subprocess.run(
        command, env={**os.environ, **extra}, text=True, cwd=cwd, stdin=subprocess.DEVNULL,
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_every_command_of_the_document_does_what_it_says(
    verb: Verb, app: Callable[..., App], tmp_path: Path
) -> None:
    config = CONFIG.replace("dir: sweep", "dir: outputs/sweeps/${hydra.sweeper.study_name}")
    task = app("return cfg.x", config)
    for name in ("first", "second"):
        done = task(f"hydra.sweeper.study_name={name}")
        assert done.code == 0, done.err
    assert {shlex.split(line, comments=True)[3] for line in COMMANDS} == set(VERBS)
    for line in COMMANDS:
        _, _, _, *words = shlex.split(line, comments=True)
        if words[0] == "resume":  # in place of this process
            done = command(*words, cwd=tmp_path)
            said, error = done.stdout, done.stderr
        else:
            said, error = verb(*words)
        assert error == "", line
        assert said, line
    sweeps = tmp_path / "outputs" / "sweeps"
    assert {path.name for path in sweeps.iterdir()} == {"first", "compare-first-second.html"}
    assert (sweeps / "first" / "report.html").exists()
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + 4
    assert (tmp_path / "all.parquet").exists()
    assert len((sweeps / "first" / "trials.csv").read_text().splitlines()) == 1 + 6  # resumed


@pytest.mark.parametrize("name", VERBS)
def test_help_has_an_example(verb: Verb, name: str) -> None:
    assert name in verb("--help")[0]
    told, error = verb(name, "--help")
    assert f"Example: python -m hydrasweep {name} " in " ".join(told.split())
    assert error == ""


def test_reports_need_plotly_and_nothing_heavier(tmp_path: Path) -> None:
    one, two = (plant(tmp_path / name, {"/cnn": searched(5)}) for name in ("one", "two"))
    done = command("report", one)
    assert (done.stdout, done.stderr) == (f"{one / 'report.html'}\n", "")
    done = command("report", one, two, PYTHONPROFILEIMPORTTIME="1")
    assert done.stdout == f"{tmp_path / 'compare-one-two.html'}\n"
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "plotly" in imported
    assert not imported & {"torch", "mlflow", "mnist", "pandas"}
    done = command("list", tmp_path, PYTHONPROFILEIMPORTTIME="1")
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "hydrasweep.folders" in imported
    assert not imported & {"optuna", "sqlalchemy", "plotly"}


@pytest.mark.parametrize(
    "words",
    [("show",), ("report",), ("report", "--watch"), ("compare", "s"), ("resume",),
     ("export", "--csv=x.csv"), ("delete", "--yes")],
)  # fmt: skip
def test_names_that_are_no_sweeps_are_told_in_a_sentence(
    verb: Verb, tmp_path: Path, words: tuple[str, ...]
) -> None:
    plant(tmp_path / "s", {"": searched()})
    (tmp_path / "empty").mkdir()
    said, error = verb(*words, "none")
    assert said == ""
    assert re.match(rf"Error: none: is no folder, and no sweep below {tmp_path} has", error)
    said, error = verb(*words, "empty")
    assert said == ""
    assert error == "Error: empty: is no sweep's folder"
    said, error = verb(*words, str(tmp_path))
    assert said == ""
    assert error.startswith(f"Error: {tmp_path}: is no sweep's folder")
    assert list((tmp_path / "empty").iterdir()) == []


def test_folder_with_sweeps_below_it_is_told_with_their_names(
    verb: Verb, app: Callable[..., App]
) -> None:
    done = app("return cfg.x")("hydra.sweep.dir=runs/a", "hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    _, error = verb("show", "runs")
    assert error == "Error: runs: is no sweep's folder; below it are a, …"


def test_reader_who_has_seen_enough_ends_it_without_a_word(
    app: Callable[..., App], tmp_path: Path
) -> None:
    done = app("return cfg.x")("hydra.sweeper.n_trials=1")
    assert done.code == 0, done.err
    reading, writing = os.pipe()
    os.close(reading)
    ended = command("show", "sweep", stdout=writing, cwd=tmp_path)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_several_sweeps_of_a_name_are_told_and_left_alone(
    verb: Verb, app: Callable[..., App], tmp_path: Path
) -> None:
    done = app("return cfg.x")("hydra.sweep.dir=runs/a")
    assert done.code == 0, done.err
    shutil.copytree(tmp_path / "runs" / "a", tmp_path / "runs" / "b")
    for name in ("show", "delete"):
        _, error = verb(name, "s")
        assert "several sweeps have that name; say which by its folder: runs/a, runs/b" in error
    said, error = verb("show", "runs/b")
    assert error == ""
    assert "Sweep s in runs/b: finished" in said
    assert (tmp_path / "runs" / "b" / CLAIM).exists()


def test_show_says_the_same_as_the_end_of_the_sweep(verb: Verb, app: Callable[..., App]) -> None:
    done = app("return cfg.x")()
    ended = done.out[done.out.index("\n  best trial") :]
    said, _ = verb("show", "sweep")
    head, _, rest = said.partition("\n")
    assert head == "Sweep s in sweep: finished"
    assert rest.strip() == ended.strip()


def test_running_sweep_is_shown_and_neither_resumed_nor_deleted(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        import subprocess
        os.environ.pop("HYDRA_FULL_ERROR", None)  # which a sweep sets
        if hydrasweep.trial().number == 2:
            until = time.time() + 20  # the monitor has written the two before it
            while time.time() < until and not (
                os.path.exists("sweep/results.yaml")
                and "COMPLETE: 2" in open("sweep/results.yaml").read()
            ):
                time.sleep(0.05)
            for words in ("list", "show s", "resume s", "delete s --yes", "export s --csv a.csv"):
                command = [sys.executable, "-m", "hydrasweep", *words.split()]
                with open(words.split()[0] + ".txt", "w") as out:
                    subprocess.run(command, stdout=out, stderr=out)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    told = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert re.search(r"s +running +2/4", told["list"])
    assert re.match(r"Sweep s in sweep: running \(process \d+\)\n", told["show"])
    assert "Trials: 2 COMPLETE, 1 RUNNING, 1 WAITING" in told["show"]
    assert "To resume" not in told["show"]
    assert re.match(r"Error: sweep: its sweep is running \(process \d+\)", told["resume"])
    assert re.match(r"Error: sweep: its sweep is running, or may be", told["delete"])
    assert [row.split(",")[3] for row in (tmp_path / "a.csv").read_text().splitlines()] == [
        "state", "COMPLETE", "COMPLETE", "RUNNING",
    ]  # fmt: skip


ENDS = {
    "interrupted": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", ""),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    "stopped": ("raise hydrasweep.Outage('the disk is full')", "the disk is full"),
}


@pytest.mark.parametrize("how", ENDS)
def test_sweep_that_did_not_come_to_its_end_is_resumed(
    verb: Verb, app: Callable[..., App], tmp_path: Path, how: str
) -> None:
    body = f"""
        if hydrasweep.trial().number == 1 and not os.path.exists("once"):
            open("once", "w").close()
            {ENDS[how][0]}
        return cfg.x
    """
    done = app(body)("hydra.sweeper.max_failures=0", "hydra.sweeper.study_name=t")
    assert done.code
    assert re.search(rf"t +{how} +\d/4", verb("list")[0])
    said, _ = verb("show", "t")
    assert re.match(rf"Sweep t in sweep: {how}( \(.*{ENDS[how][1]}.*\))?\n", said)
    assert "To resume     python -m hydrasweep resume sweep\n" in said
    where = tmp_path / "elsewhere"
    where.mkdir()
    ended = command("resume", "../sweep", "hydra.sweeper.n_trials=5", cwd=where)
    assert ended.returncode == 0, ended.stderr
    assert done.states("t").count("COMPLETE") == 5
    assert re.search(r"t +finished +5/5", verb("list")[0])


def test_resumed_sweep_ends_with_its_own_exit_code(app: Callable[..., App], tmp_path: Path) -> None:
    body = """
        if hydrasweep.trial().number:
            os.kill(os.getpid(), signal.SIGINT)
        return cfg.x
    """
    assert app(body)().code == 130
    done = command("resume", "s", cwd=tmp_path)
    assert done.returncode == 130
    assert "Stopped. To resume: python app.py -m" in done.stderr


def test_question_is_answered_by_yes_alone(
    verb: Verb, app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app("return cfg.x")().code == 0
    for answer in ("", "n", "what"):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        said, error = verb("delete", "s")
        assert (said.splitlines()[-1], error) == ("Nothing was deleted.", "")
    done = command("delete", "s", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "Error: nobody answers: --yes deletes without asking\n",
    )  # fmt: skip
    assert (tmp_path / "sweep" / "trials.csv").exists()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert verb("delete", "s")[0].endswith("Deleted.\n")
    assert not (tmp_path / "sweep").exists()


def test_output_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = plant(tmp_path / "s", {"": searched()})
    with Path("/dev/full").open("w") as full:
        done = command("report", folder, stdout=full)
    assert done.returncode == 1
    assert re.fullmatch("Error: .*No space left on device\n", done.stderr)
    done = command("export", folder, "--csv", tmp_path / "none" / "a.csv")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("Error: .*a.csv can't be written .*\n", done.stderr)
