"""The report's page: what is read, what stands in it, and that it needs nothing else."""

import re
import shutil
import sqlite3
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from planted import SPACE, journal, plant, searched, trial, with_seeds

from hydrasweep import UserError, page, storage
from hydrasweep.stratum import N_TRIALS
from hydrasweep.trials import MARK

SECTIONS = [
    "Result",
    "Optimization history",
    "Learning curves",
    "Hyperparameter importance",
    "Parallel coordinates",
    "Slices",
    "Contours",
    "Timeline of workers",
    "Saved by pruning",
    "Trials",
    "Pictures",
    "Configuration",
    "Versions",
]
# One pixel.
PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
TESTED = [0.9312, 0.9356, 0.9287]
CONFIRMED = [0.93, 0.94, 0.92]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    storage.close_storages()


def parts(path: Path) -> dict[str, str]:
    """Each section's HTML by its title."""
    sections = re.findall(r"<section.*?</section>", path.read_text(), re.DOTALL)
    return {re.findall(r"<h2>(.*?)</h2>", part)[0]: part for part in sections}


def table(part: str) -> list[list[str]]:
    """The cells of a section's table as text, the head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in cells]


def again(values: Sequence[float], minute: int, **numbers: Sequence[float]) -> list[Any]:
    """The winner of ``searched(24)`` on fresh seeds, with what its trials recorded."""
    best = max(searched(24), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    trials = with_seeds(best, values, minute)
    for name, recorded in numbers.items():
        for made, number in zip(trials, recorded, strict=True):
            made.set_user_attr(name.replace("_", "/"), number)
    return trials


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of all phases, of which one stratum has come to its end, with its
    report."""
    search = searched(24)
    folder = plant(
        tmp_path_factory.mktemp("sweeps") / "done",
        {
            "/cnn": search,
            "/lenet5": [*search, trial(state=TrialState.FAIL, minute=5)],
            "@confirm/cnn": again(CONFIRMED, 30),
            "@confirm/lenet5": again([0.90, 0.91, 0.92], 40),
            "@final/cnn": again(CONFIRMED, 50, test_accuracy=TESTED),
            "@final/lenet5": [],
        },
    )
    OmegaConf.save(
        {"python": "3.11.7", "command": "app.py db.password=x"}, folder / "environment.yaml"
    )
    for label in ("cnn-final-000", "cnn-final-001"):
        (folder / label / "deep").mkdir(parents=True)
        (folder / label / "deep" / "confusion.png").write_bytes(PNG)
    (folder / "cnn-final-000" / "secret.png").symlink_to("/etc/hostname")
    assert page.write(folder) == folder / "report.html"
    return folder


def test_result_has_what_each_phase_measured(finished: Path) -> None:
    part = parts(finished / "report.html")["Result"]
    head, cnn, lenet5 = table(part)
    found = dict(zip(head, cnn, strict=True))
    for name, values in (("test/accuracy", TESTED), ("val/accuracy confirmed", CONFIRMED)):
        mean, sd, *n = re.findall(r"[\d.]+", found[name])
        assert float(mean) == pytest.approx(np.mean(values), abs=1e-4)
        assert float(sd) == pytest.approx(np.std(values, ddof=1), abs=1e-4)
        assert n == (["3"] if "confirmed" in name else [])  # the same seeds
    assert found["val/accuracy in the search"] == "0.9400"
    assert [found[name] for name in ("complete", "pruned", "failed")] == ["16", "8", "0"]
    settings = [word.partition("=")[0] for word in found["settings"].split()]
    assert settings == ["optimizer.lr", "model.dropout", "data.batch_size"]
    second = dict(zip(head, lenet5, strict=True))
    assert (second["failed"], second["test/accuracy"]) == ("1", "—")
    assert "cnn wins: it leads lenet5 by 0.0200, more than two standard errors" in part


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([0.90, 0.91, 0.92], "more than two standard errors"),
        ([0.93, 0.95, 0.90], "less than two standard errors"),
        ([0.90], "single seeds can't tell"),
    ],
)
def test_lead_is_told_from_chance(tmp_path: Path, others: list[float], told: str) -> None:
    phases = {"/a": searched(24), "/b": searched(24)}
    phases |= {"@confirm/a": again(CONFIRMED, 30), "@confirm/b": again(others, 30)}
    part = parts(page.write(plant(tmp_path / "s", phases)))["Result"]
    assert re.search(f"a wins: it leads b by 0.0.*{told}", unescape(part))


def test_trials_are_listed_with_what_was_searched(finished: Path, tmp_path: Path) -> None:
    found = parts(finished / "report.html")
    head, *rows = table(found["Trials"])
    assert head == ["trial", "state", "val/accuracy", "steps", "seconds",
                    "optimizer.lr", "model.dropout", "data.batch_size"]  # fmt: skip
    assert len(rows) == 24 + 25
    for label, state, value, steps, _, *params in rows[:24]:
        assert label.startswith("cnn-0")
        assert (state == "PRUNED") == (steps == "1")
        assert 0 < float(value) < 1
        assert all(params)
    assert rows[-1][1:3] == ["FAIL", ""]
    told = unescape(found["Result"])
    assert "optimizer.lr 0.0001 to 0.1, logarithmic; model.dropout" in told
    assert "The winner again" not in told
    folder = plant(tmp_path / "s", {"/a": searched(4)})
    (folder / "best").mkdir()
    (folder / "best" / "overall.yaml").write_text("# python app.py +best=x\nlr: 1\n")
    made = parts(page.write(folder))
    assert "The winner again: <code>python app.py +best=x</code>" in made["Result"]


def test_seed_that_failed_is_told(tmp_path: Path) -> None:
    lost = again([0.5], 60)[0]
    lost.state, lost.values = TrialState.FAIL, None
    phases = {"": searched(24), "@confirm": [*again(CONFIRMED, 30), lost]}
    sweeper = {"confirm": {"seed": "seed"}}
    head, row = table(parts(page.write(plant(tmp_path / "s", phases, sweeper=sweeper)))["Result"])
    assert dict(zip(head, row, strict=True))["val/accuracy confirmed"].endswith("failed on 1 seeds")


def test_one_file_holds_every_section_and_loads_nothing(finished: Path) -> None:
    path = finished / "report.html"
    assert list(parts(path)) == SECTIONS
    html = path.read_text()
    assert html.count("plotly.js v") == 1
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", html, count=1, flags=re.DOTALL)
    assert len(without_plotly) < 700_000
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:|#)[^"'> ]+|@import|url\(""", without_plotly
    )
    for title, part in parts(path).items():
        assert ("plotly-graph-div" in part) == (title in SECTIONS[1:8]), title


def test_figures_of_parameters_say_what_step_they_compare_trials_after(finished: Path) -> None:
    sections = parts(finished / "report.html")
    for title in ("Hyperparameter importance", "Parallel coordinates", "Slices", "Contours"):
        part = re.sub("<template>.*?</template>", "", sections[title], flags=re.DOTALL)
        assert re.search(r"<p>After step 1, which 48 trials reached\. ", part), title
        assert "<summary>After step 3, which 32 trials reached</summary>" in part, title
        assert part.count("plotly-graph-div") == 1
        assert "accuracy after step 1" in part
        assert "accuracy after step 3" in sections[title]


def test_what_pruning_saved_and_the_winners_pictures(finished: Path) -> None:
    sections = parts(finished / "report.html")
    head, cnn, _, both = table(sections["Saved by pruning"])
    assert head[1:4] == ["steps run", "steps saved", "share saved"]
    assert cnn[1:4] == ["56", "16", "22 %"]  # 16 trials of 3 steps and 8 of 1
    assert both[1:3] == ["112", "32"]
    pictures = sections["Pictures"]
    assert re.findall("<figcaption>(.*?)<", pictures) == ["cnn-final-000/deep/confusion.png"]
    assert table(sections["Versions"]) == [
        ["python", "3.11.7"],
        ["command", "app.py db.password=***"],
    ]


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
        [trial(0.5, lr=10 ** (-1 - i / 15), dropout=0.1 + 0.01 * i) for i in range(1, 30)],
    ],
    ids=["empty", "waiting", "run", "fail", "pruned", "first", "inf", "same", "equal"],
)
def test_what_is_missing_is_said(
    tmp_path: Path, trials: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = plant(tmp_path / "early", {"/cnn": trials, "/lenet5": []})
    sections = parts(page.write(folder))
    assert list(sections) == SECTIONS
    assert "No winner has been confirmed" in sections["Result"]
    assert "no environment.yaml" in sections["Versions"]
    assert "It takes 20 trials" in sections["Contours"]
    assert "It takes 20 trials" in sections["Hyperparameter importance"]
    for title, part in sections.items():
        shown = "plotly-graph-div" in part or "<td>" in part or "<pre>" in part
        assert shown or re.search(r"<p>\s*\w.*</p>", part), title
    assert capfd.readouterr() == ("", "")


def test_numbers_are_called_what_they_were_recorded_as(tmp_path: Path) -> None:
    trials = [trial(0.5, lr=0.1, attrs={"size": 3.0, f"{MARK}step": 4.0, "note": "words"})]
    path = page.write(plant(tmp_path / "s", {"": trials}, sweeper={"objective": None}))
    head, _ = table(parts(path)["Result"])
    assert head[1:4] == ["value in the search", "by trial", "size"]
    assert "accuracy" not in re.sub("<script>.*?</script>", "", path.read_text(), flags=re.DOTALL)


def test_trials_that_are_still_to_begin_are_counted(tmp_path: Path) -> None:
    folder = plant(tmp_path / "s", {"/a": searched(4), "/b": [trial(state=TrialState.RUNNING)]})
    for name in ("s/a", "s/b"):
        study = optuna.load_study(study_name=name, storage=journal(folder))
        study.set_user_attr(N_TRIALS, 6)
    assert "search 4 of 12 trials have ended" in page.write(folder).read_text()


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    points = [(0.9, 30.0), (0.8, 10.0), (0.7, 20.0), (0.95, 50.0)]
    trials = [trial(*point, lr=0.01 * (i + 1), dropout=0.1 * i) for i, point in enumerate(points)]
    objective = {"objective": ["val/accuracy", "seconds"]}
    folder = plant(tmp_path / "pareto", {"": trials}, ["maximize", "minimize"], objective)
    sections = parts(page.write(folder))
    head, *rows = table(sections["Result"])
    assert head == ["trial", "val/accuracy", "seconds", "settings"]
    assert [row[0] for row in rows] == ["000", "001", "003"]
    assert "plotly-graph-div" in sections["Result"]
    assert sections["Slices"].count("plotly-graph-div") == 2


def test_three_objectives_are_no_error(tmp_path: Path) -> None:
    directions = ["maximize", "minimize", "minimize"]
    folder = plant(tmp_path / "s", {"": [trial(0.9, 1.0, 2.0, lr=0.1)]}, directions)
    head, _ = table(parts(page.write(folder))["Result"])
    assert head[1:4] == ["value 0", "value 1", "value 2"]


def test_words_of_the_user_are_text_and_passwords_are_not_shown(tmp_path: Path) -> None:
    space = SPACE | {"kind": CategoricalDistribution(["<script>alert(1)</script>", "b"])}
    trials = [trial(0.5, kind=kind, space=space) for kind in space["kind"].choices]
    app = {
        "url": "postgresql+psycopg://me:hunter2@db/x",
        "note": "</pre><script>",
        "api_key": "hunter2",
        "db": {"password": "hunter2 and more"},
    }
    html = page.write(plant(tmp_path / "s", {"": trials}, app=app)).read_text()
    assert "kind=&lt;script&gt;" in html
    assert "<script>alert" not in html
    assert "</pre><script>" not in html
    assert "hunter2" not in html
    assert "//db/x" in html


def test_sweep_is_read_where_it_lies_now(tmp_path: Path) -> None:
    folder = plant(tmp_path / "s", {"": searched()})
    shutil.move(folder, tmp_path / "moved")
    sweep = page.read(tmp_path / "moved")
    assert (sweep.name, len(sweep.search.trials())) == ("s", 8)


def test_phases_and_strata_are_told_by_the_names_of_the_studies(tmp_path: Path) -> None:
    names = ["/cnn", "/lenet5", "@confirm/cnn", "-other/cnn", "x@final/cnn"]
    folder = plant(tmp_path / "s", {name: searched(2) for name in names})
    sweep = page.read(folder)
    assert {phase: len(s.strata) for phase, s in sweep.phases.items()} == {"search": 2}
    assert (sweep.objectives, sweep.stratify, sweep.winners) == (["val/accuracy"], "model", [])


def test_database_in_the_folder_is_read_without_any_other_file(tmp_path: Path) -> None:
    study = optuna.create_study(study_name=tmp_path.name, storage=f"sqlite:///{tmp_path}/study.db")
    study.add_trials(searched())
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    sweep = page.read(tmp_path)
    assert (sweep.name, sweep.objectives) == (tmp_path.name, ["value"])
    assert [t.values for _, t in sweep.search.trials()] == [t.values for t in searched()]
    assert "no multirun.yaml" in parts(page.write(tmp_path))["Configuration"]


@pytest.mark.parametrize(
    "kept",
    [
        {"_target_": "os.mkdir", "path": "${hydra.sweep.dir}/made"},
        {"_target_": "os.mkdir", "file_path": "x", "log_storage": {"file_path": "made"}},
        {"_target_": "pathlib.Path.touch", "url": {"_target_": "os.mkdir", "path": "made"}},
        {
            "_target_": "optuna.storages.JournalStorage",
            "log_storage": {"_target_": "os.mkdir", "path": "made", "file_path": "log"},
        },
        None,
    ],
)
def test_nothing_that_a_folder_names_is_called(tmp_path: Path, kept: Any) -> None:
    folder = plant(tmp_path / "s", {"": searched()}, sweeper={"storage": kept})
    (folder / "journal").unlink()
    (folder / "journal.lock").unlink(missing_ok=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage"):
        page.write(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_without_a_study_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no sweep to read"):
        page.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sweeps_are_compared_beside_their_folders(finished: Path) -> None:
    other = plant(finished.with_name("other"), {"/cnn": searched(5), "/baseline": searched(4)})
    path = page.compare([finished, other])
    assert path == finished.with_name("compare-done-other.html")
    sections = parts(path)
    head, *rows = table(sections["Results"])
    assert [row[:2] for row in rows] == [
        ["done", "cnn"], ["done", "lenet5"], ["other", "cnn"], ["other", "baseline"],
    ]  # fmt: skip
    assert rows[0][head.index("test/accuracy")].startswith("0.9318")
    assert rows[2][head.index("val/accuracy in the search")] == "0.9400"
    assert rows[2][head.index("val/accuracy confirmed")] == "—"
    assert "other baseline" in sections["Best so far"]


def test_sweeps_for_different_things_are_said_to_be_so(tmp_path: Path) -> None:
    one = plant(tmp_path / "one", {"": searched()})
    two = plant(tmp_path / "two", {"": searched()}, sweeper={"objective": "val/loss"})
    less = plant(tmp_path / "less", {"": searched()}, ["minimize"])
    many = plant(tmp_path / "many", {"": [trial(1.0, 2.0, lr=0.1)]}, ["maximize", "minimize"])
    for other in (two, less):
        sections = parts(page.compare([one, other]))
        assert "They search for different things" in sections["Results"]
        assert "plotly-graph-div" not in sections["Best so far"]
    sections = parts(page.compare([many, one]))
    assert "many has several objectives" in sections["Results"]
    assert "plotly-graph-div" in sections["Best so far"]


def test_page_loads_itself_again_where_it_is_to(finished: Path) -> None:
    for path in (page.write(finished, 12.0), page.compare([finished, finished], 12.0)):
        assert "setTimeout(() => location.reload(), 12000.0);" in path.read_text()
        assert "loads itself again every 12 s" in path.read_text()
    assert "location.reload" not in page.write(finished).read_text()


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ("'${oc.env:HYDRASWEEP_STORAGE}'", r"//me:\*+@127.* can't be used"),
        ("{_target_: any, url: '${oc.env:HYDRASWEEP_STORAGE}'}", r"//me:\*+@127.* can't be used"),
        ("'${oc.env:NOT_SET_HERE}'", "NOT_SET_HERE"),
        ("nosuchkind://127.0.0.1:9/db", "nosuchkind://127.* can't be used"),
        ("mssql+pyodbc://127.0.0.1:9/db", "needs a package .*No module named 'pyodbc'"),
        ("'sqlite:///${hydra.sweep.dir}/none/study.db'", "no study.db and no study.journal"),
        ("'sqlite:///${hydra.sweep.dir}/other.db'", "there is no study done"),
        ("'sqlite:///${hydra.sweep.dir}/damaged.db'", "failed .*no such column"),
    ],
)
def test_storage_that_fails_is_told_in_a_sentence(
    tmp_path: Path, kept: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "HYDRASWEEP_STORAGE" in kept:
        pytest.importorskip("psycopg")
    for name in ("other", "damaged"):
        optuna.create_study(study_name=name, storage=f"sqlite:///{tmp_path}/{name}.db")
    with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection:
        connection.execute("ALTER TABLE studies RENAME COLUMN study_name TO other")
    (tmp_path / "multirun.yaml").write_text(
        f"hydra: {{sweeper: {{study_name: done, storage: {kept}}}}}"
    )
    monkeypatch.setenv("HYDRASWEEP_STORAGE", "postgresql://me:hunter2@127.0.0.1:9/db")
    with pytest.raises((UserError, OmegaConfBaseException), match=words) as caught:
        page.read(tmp_path)
    assert "hunter2" not in str(caught.value)


WATCH = """<script>
  const seen = document.documentElement.dataset;
  addEventListener("error", e => seen.error = e.message || e.target.outerHTML, true);
  addEventListener("load", () => seen.loaded = performance.getEntriesByType("resource")
    .filter(entry => !entry.name.startsWith("data:")).length);
</script>"""


@pytest.mark.browser
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_all_figures_are_drawn_from_disk_alone(finished: Path, tmp_path: Path) -> None:
    compared = page.compare([finished, finished])
    report = finished / "report.html"
    for path, details, n_figures in (
        (report, "<details", 7),
        (report, "<details open", 11),
        (compared, "", 1),
    ):
        watched = tmp_path / path.name
        text = path.read_text().replace("<head>", f"<head>{WATCH}")
        watched.write_text(text.replace("<details", details))
        words = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync"
        words += " --disable-background-networking --disable-component-update"
        words += f" --user-data-dir={tmp_path / 'profile'} --window-size=1600,1200"
        words += f" --virtual-time-budget=60000 --dump-dom file://{watched}"
        shown = subprocess.run(
            ["chromium", *words.split()], text=True, capture_output=True, timeout=180
        ).stdout
        (root,) = re.findall(r"<html[^>]*>", shown)
        assert 'data-loaded="0"' in root
        assert "data-error" not in root, root
        shown = re.sub("<template>.*?</template>", "", shown, flags=re.DOTALL)
        assert shown.count('class="plotly-graph-div') == n_figures
        drawn = r'class="plotly-graph-div.*?class="main-svg.*?class="infolayer'
        assert len(re.findall(drawn, shown, re.DOTALL)) == n_figures
