"""The report's page: what stands in it, and that it needs nothing else."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from planted import SPACE, plant, searched, trial, with_seeds

from hydrasweep import report

SECTIONS = [
    "Result",
    "Optimisation history",
    "Learning curves",
    "Hyperparameter importance",
    "Parallel coordinates",
    "Slices",
    "Contours",
    "Timeline of workers",
    "Saved by pruning",
    "Confusions and worst mistakes",
    "Configuration",
    "Versions",
]
PNG = b"\x89PNG\r\n\x1a\n"


def parts(path: Path) -> dict[str, str]:
    """Each section's HTML by its title."""
    html = path.read_text()
    sections = re.findall(r"<section.*?</section>", html, re.DOTALL)
    return {re.findall(r"<h2>(.*?)</h2>", part)[0]: part for part in sections}


def table(part: str) -> list[list[str]]:
    """The cells of a section's table as text, the head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[unescape(re.sub(r"<.*?>", "", cell)) for cell in row] for row in cells]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a sweep of all phases."""
    search = searched()
    winner = max((t for t in search if t.state == TrialState.COMPLETE), key=lambda t: t.values[0])
    folder = plant(
        tmp_path / "sweeps" / "done",
        {
            "/cnn": search,
            "/lenet5": [*search, trial(state=TrialState.FAIL, minute=5)],
            "@confirm/cnn": with_seeds(winner, [0.93, 0.94, 0.92], 6),
            "@final/cnn": with_seeds(winner, [0.9312, 0.9356, 0.9287], 9),
        },
    )
    OmegaConf.save({"python": "3.11.7", "torch": "2.15.0"}, folder / "environment.yaml")
    for label in ("cnn-final-000", "cnn-final-001"):
        (folder / label / "pictures").mkdir(parents=True)
        picture = folder / label / "pictures" / "confusion.png"
        picture.write_bytes(PNG + label.encode())
    return folder


def test_result_has_what_each_phase_measured(finished: Path) -> None:
    head, cnn, lenet5 = table(parts(report.write(finished))["Result"])
    found = dict(zip(head, cnn, strict=True))
    for name, values in (
        ("test/accuracy", [0.9312, 0.9356, 0.9287]),
        ("val/accuracy confirmed", [0.93, 0.94, 0.92]),
    ):
        mean, sd, n = re.findall(r"[\d.]+", found[name])
        assert float(mean) == pytest.approx(np.mean(values), abs=5e-4)
        assert float(sd) == pytest.approx(np.std(values, ddof=1), rel=0.05)
        assert n == "3"
    assert found["val/accuracy in the search"] == "0.9400"
    assert found["search minus confirmed"] == "+0.010"
    assert [found[name] for name in ("complete", "pruned", "failed")] == ["6", "2", "0"]
    assert found["best settings"].split() == [
        "optimizer.lr=0.0016",
        "model.dropout=0.2",
        "data.batch_size=64",
    ]
    assert dict(zip(head, lenet5, strict=True))["failed"] == "1"
    assert lenet5[1:3] == ["—", "—"]


def test_one_file_holds_every_section_and_loads_nothing(finished: Path) -> None:
    path = report.write(finished)
    assert path == finished / "report.html"
    assert list(parts(path)) == SECTIONS
    html = path.read_text()
    assert html.count("plotly.js v") == 1
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", html, count=1, flags=re.DOTALL)
    assert len(without_plotly) < 500_000
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:|#)[^"'> ]+|@import|url\(""", without_plotly
    )
    for title, part in parts(path).items():
        drawn = title in SECTIONS[1:8]
        assert ("plotly-graph-div" in part) == drawn, title


def test_what_pruning_saved_and_the_winners_pictures(finished: Path) -> None:
    sections = parts(report.write(finished))
    head, cnn, _, both = table(sections["Saved by pruning"])
    assert head[1:4] == ["epochs trained", "epochs saved", "share saved"]
    assert cnn[1:4] == ["20", "4", "17%"]  # 6 trials of 3 epochs and 2 of 1
    assert both[1:3] == ["40", "8"]
    pictures = sections["Confusions and worst mistakes"]
    assert pictures.count("data:image/png;base64,") == 1
    assert "cnn-final-000 has no worst_mistakes.png" in pictures
    assert "lenet5 has no complete final trial" in pictures
    assert table(sections["Versions"])[0] == ["python", "3.11.7"]


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(state=TrialState.WAITING)] * 3,
        [trial(state=TrialState.RUNNING, lr=0.1), trial(state=TrialState.WAITING)],
        [trial(state=TrialState.FAIL, lr=0.1)],
        [trial(0.5, state=TrialState.PRUNED, reports=[0.5], lr=0.1)],
        [trial(0.5, lr=0.1), trial(state=TrialState.RUNNING, lr=0.1, reports=[0.4])],
        [trial(float("inf"), lr=0.1)] * 2,
        [trial(0.5), trial(0.5)],
    ],
    ids=["empty", "waiting", "running", "failed", "pruned", "first", "infinite", "no parameters"],
)
def test_sweep_that_has_hardly_begun_says_what_is_missing(
    tmp_path: Path, trials: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = plant(tmp_path / "early", {"/cnn": trials, "/lenet5": []})  # type: ignore[dict-item]
    sections = parts(report.write(folder))
    assert list(sections) == SECTIONS
    assert "no complete trial of the confirm phase" in sections["Result"]
    assert "no environment.yaml" in sections["Versions"]
    for title, part in sections.items():
        shown = "plotly-graph-div" in part or "<td>" in part or "<pre>" in part
        assert shown or re.search(r"<p>.*\w.*</p>", part), title
    assert "It takes two" in sections["Contours"]
    assert capfd.readouterr() == ("", "")


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    points = [(0.9, 30.0), (0.8, 10.0), (0.7, 20.0), (0.95, 50.0)]
    trials = [trial(*point, lr=0.01 * (i + 1), dropout=0.1 * i) for i, point in enumerate(points)]
    config = {"objective": ["val/accuracy", "seconds"]}
    folder = plant(tmp_path / "pareto", {"": trials}, ["maximize", "minimize"], config)
    sections = parts(report.write(folder))
    head, *rows = table(sections["Result"])
    assert head == ["model", "trial", "val/accuracy", "seconds", "settings"]
    assert [row[1] for row in rows] == ["0", "1", "3"]
    assert "plotly-graph-div" in sections["Result"]
    assert sections["Slices"].count("plotly-graph-div") == 2
    assert "several objectives" in sections["Learning curves"]


def test_words_of_the_user_are_text_and_passwords_are_not_shown(tmp_path: Path) -> None:
    space = SPACE | {"kind": CategoricalDistribution(["<script>alert(1)</script>", "b"])}
    trials = [trial(0.5, kind="<script>alert(1)</script>", space=space)]
    config = {"url": "postgresql+psycopg://me:hunter2@db/x", "note": "</pre><script>"}
    path = report.write(plant(tmp_path / "s", {"": trials}, config=config))
    html = path.read_text()
    assert "kind=&lt;script&gt;" in html
    assert "<script>alert" not in html
    assert "</pre><script>" not in html
    assert "hunter2" not in html
    assert "me:***@db/x" in html


def test_sweeps_are_compared_beside_their_folders(finished: Path) -> None:
    other = plant(finished.with_name("other"), {"/cnn": searched(5), "/baseline": searched(4)})
    path = report.compare([finished, other])
    assert path == finished.with_name("compare-done-other.html")
    sections = parts(path)
    head, *rows = table(sections["Results"])
    assert [row[0] for row in rows] == ["cnn", "lenet5", "baseline"]
    assert head.count("done: test/accuracy") == head.count("other: test/accuracy") == 1
    assert rows[0][head.index("other: val/accuracy in the search")] == "0.9400"
    assert rows[2][head.index("done: val/accuracy in the search")] == "—"
    assert "plotly-graph-div" in sections["Best so far"]


def test_sweeps_for_different_things_are_said_to_be_so(tmp_path: Path) -> None:
    one = plant(tmp_path / "one", {"": searched()})
    two = plant(tmp_path / "two", {"": searched()}, config={"objective": "val/loss"})
    many = plant(tmp_path / "many", {"": [trial(1.0, 2.0, lr=0.1)]}, ["maximize", "minimize"])
    assert "They search for different things" in parts(report.compare([one, two]))["Results"]
    sections = parts(report.compare([many, one]))
    assert "many has several objectives" in sections["Results"]
    assert "plotly-graph-div" not in parts(report.compare([many]))["Best so far"]


def command(
    folder: Path, *words: str, stdout: Any = subprocess.PIPE, **extra: str
) -> "subprocess.CompletedProcess[str]":
    """What ``python src/report.py`` does for the sweeps in ``folder``."""
    script = Path(report.__file__).parents[2] / "report.py"
    words = (*words, f"paths.outputs={folder.parent}")
    env = {**os.environ, **extra}
    command = [sys.executable, script, *words]
    return subprocess.run(command, env=env, text=True, stdout=stdout, stderr=subprocess.PIPE)


def test_command_writes_compares_and_helps(finished: Path) -> None:
    sweeps = finished.parent
    plant(sweeps / "other", {"/cnn": searched(5)})
    done = command(sweeps, "study=done")
    assert (done.stdout, done.stderr) == (f"{finished / 'report.html'}\n", "")
    done = command(sweeps, "study=done,other", PYTHONPROFILEIMPORTTIME="1")
    assert done.stdout == f"{sweeps / 'compare-done-other.html'}\n"
    assert (sweeps / "compare-done-other.html").exists()
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "plotly" in imported
    assert not imported & {"torch", "mlflow"}
    assert "study=A,B" in command(sweeps, "--help").stdout


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("'${oc.env:HYDRASWEEP_STORAGE}'", "//me:[*]+@127.* can't be used"),
        (
            "{_target_: hydrasweep.search.storage.database, url: '${oc.env:HYDRASWEEP_STORAGE}'}",
            r"//me:\*+@127.* can't be used",
        ),
        ("nosuchkind://127.0.0.1:9/db", "nosuchkind://127.* can't be used"),
        ("mssql+pyodbc://127.0.0.1:9/db", "needs a package .*No module named 'pyodbc'"),
        ("'sqlite:///${hydra.sweep.dir}/none/study.db'", "no study of this name"),
        ("'sqlite:///${hydra.sweep.dir}/damaged.db'", "failed .*no such column"),
    ],
)
def test_storage_that_fails_is_told_in_a_sentence(finished: Path, storage: str, words: str) -> None:
    if "oc.env" in storage:
        pytest.importorskip("psycopg")
    kept = optuna.create_study(study_name="done", storage=f"sqlite:///{finished}/damaged.db")
    kept.add_trials(searched())
    with closing(sqlite3.connect(finished / "damaged.db")) as connection:
        connection.execute("ALTER TABLE studies RENAME COLUMN study_name TO other")
    (finished / "multirun.yaml").write_text(
        f"hydra: {{sweep: {{dir: here}}, sweeper: {{storage: {storage}}}}}"
    )
    url = "postgresql://me:hunter2@127.0.0.1:9/db"
    done = command(finished.parent, "study=done", HYDRASWEEP_STORAGE=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"Error: .*{words}.*\n", done.stderr)
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("word", ["study=done", "--help"])
def test_output_that_cannot_be_written_is_told_in_a_sentence(finished: Path, word: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = command(finished.parent, word, stdout=full)
    assert done.returncode == 1
    assert re.fullmatch("Error: .*No space left on device\n", done.stderr)


def test_unknown_study_is_answered_with_those_that_are_known(finished: Path) -> None:
    unknown = ("nope", "done,nope", "../sweeps/done", ".", "..", "", str(finished), "x" * 300)
    for words in ([], *([f"study={name}"] for name in unknown)):
        done = command(finished.parent, *words)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1
        assert line.startswith("Error: study=")
        assert line.endswith("there are done")
    for word, told in (("pathz.outputs=x", "pathz"), ("paths=3", "paths.outputs")):
        done = command(finished.parent, "study=done", word)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr
