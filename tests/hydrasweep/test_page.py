"""The report's page: what it reads, what it shows, and that it needs nothing else."""

import re
import shutil
import sqlite3
from base64 import b64decode
from contextlib import closing
from html import unescape

import numpy as np
import optuna
import pytest
import shared
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from planted import SPACE, journal, plant, searched, trial, with_seeds

from hydrasweep import UserError, page
from hydrasweep.stratum import N_TRIALS
from hydrasweep.trials import MARK

SECTIONS = (
    "Result, Optimization history, Learning curves, Hyperparameter importance, "
    "Parallel coordinates, Slices, Contours, Timeline of workers, Saved by pruning, Trials, "
    "Pictures, Configuration, Versions"
)
# One pixel.
PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
TESTED = [0.9312, 0.9356, 0.9287]
CONFIRMED = [0.93, 0.94, 0.92]
FIGURE = "plotly-graph-div"


def parts(path):
    """Each section's HTML by its title."""
    sections = re.findall(r"<section.*?</section>", path.read_text(), re.DOTALL)
    return {re.findall(r"<h2>(.*?)</h2>", part)[0]: part for part in sections}


def table(part):
    """The cells of a section's table as text, the head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    cells = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows)
    return [[unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in row] for row in cells]


def again(values, minute, **numbers):
    """The winner of ``searched(24)`` on fresh seeds, with what its trials recorded."""
    best = max(searched(24), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    trials = with_seeds(best, values, minute)
    for name, recorded in numbers.items():
        for made, number in zip(trials, recorded, strict=True):
            made.set_user_attr(name.replace("_", "/"), number)
    return trials


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """The folder of a planted sweep with its report. One of two strata has no final trials."""

    def fill(path):
        search = searched(24)
        folder = plant(
            path / "done",
            {
                "/cnn": search,
                "/lenet5": [*search, trial(state=TrialState.FAIL, minute=5)],
                "@confirm/cnn": again(CONFIRMED, 30),
                "@confirm/lenet5": again([0.90, 0.91, 0.92], 40),
                "@final/cnn": again(CONFIRMED, 50, test_accuracy=TESTED),
                "@final/lenet5": [],
            },
        )
        versions = {"python": "3.11.7", "command": "app.py db.password=x"}
        OmegaConf.save(versions, folder / "environment.yaml")
        for label in ("cnn-final-000", "cnn-final-001"):
            (folder / label / "deep").mkdir(parents=True)
            (folder / label / "deep" / "confusion.png").write_bytes(PNG)
        (folder / "cnn-final-000" / "secret.png").symlink_to("/etc/hostname")
        assert page.write(folder) == folder / "report.html"

    return shared.folder(tmp_path_factory, "reported", fill) / "done"


def test_result_has_what_each_phase_measured(reported):
    part = parts(reported / "report.html")["Result"]
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
    text = unescape(part)
    assert re.search(r"\bcnn\b.* lenet5\b.*\b0\.0200\b", text)  # who leads, and by how much
    assert "optimizer.lr 0.0001 to 0.1, log" in text
    assert "+best" not in text


def test_trials_are_listed_with_their_parameters(reported):
    head, *rows = table(parts(reported / "report.html")["Trials"])
    assert head[:5] == ["trial", "state", "val/accuracy", "steps", "seconds"]
    assert head[5:] == ["optimizer.lr", "model.dropout", "data.batch_size"]
    assert len(rows) == 24 + 25
    for label, state, value, steps, _, *params in rows[:24]:
        assert label.startswith("cnn-0")
        assert (state == "PRUNED") == (steps == "1")
        assert 0 < float(value) < 1
        assert all(params)
    assert rows[-1][1:3] == ["FAIL", ""]


def test_result_has_failed_seeds_and_the_command_of_the_winner(tmp_path):
    lost = again([0.5], 60)[0]
    lost.state, lost.values = TrialState.FAIL, None
    phases = {"": searched(24)[:5], "@confirm": [*again(CONFIRMED, 30), lost]}
    folder = plant(tmp_path / "s", phases, sweeper={"confirm": {"seed": "seed"}})
    (folder / "best").mkdir()
    (folder / "best" / "overall.yaml").write_text("# python app.py +best=x\nlr: 1\n")
    result = parts(page.write(folder))["Result"]
    head, row = table(result)
    assert re.search("fail.* 1 ", dict(zip(head, row, strict=True))["val/accuracy confirmed"])
    assert "<code>python app.py +best=x</code>" in result


def test_one_file_holds_every_section_and_loads_nothing(reported):
    path = reported / "report.html"
    assert ", ".join(parts(path)) == SECTIONS
    html = path.read_text()
    assert html.count("plotly.js v") == 1
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", html, count=1, flags=re.DOTALL)
    assert len(without_plotly) < 700_000
    assert not re.findall(
        r"""(?:src|href)=["']?(?!data:|#)[^"'> ]+|@import|url\(""", without_plotly
    )
    drawn = [title for title, part in parts(path).items() if FIGURE in part]
    assert drawn == SECTIONS.split(", ")[1:8]


def test_figures_of_parameters_name_the_step_that_they_show(reported):
    sections = parts(reported / "report.html")
    for title in ("Hyperparameter importance", "Parallel coordinates", "Slices", "Contours"):
        part = re.sub("<template>.*?</template>", "", sections[title], flags=re.DOTALL)
        assert re.search(r"<p>After step 1\b.*\b48\b", part), title
        assert re.search(r"<summary>After step 3\b.*\b32\b", part), title
        assert part.count(FIGURE) == 1
        assert "accuracy after step 1" in part
        assert "accuracy after step 3" in sections[title]


def test_page_has_what_pruning_saved_pictures_and_versions(reported):
    sections = parts(reported / "report.html")
    head, cnn, _, both = table(sections["Saved by pruning"])
    assert head[1:4] == ["steps run", "steps saved", "share saved"]
    assert cnn[1:4] == ["56", "16", "22 %"]  # 16 trials of 3 steps and 8 of 1
    assert both[1:3] == ["112", "32"]
    pictures = sections["Pictures"]
    assert re.findall("<figcaption>(.*?)<", pictures) == ["cnn-final-000/deep/confusion.png"]
    versions = [["python", "3.11.7"], ["command", "app.py db.password=***"]]
    assert table(sections["Versions"]) == versions


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [trial(state=TrialState.RUNNING, lr=0.1), trial(state=TrialState.WAITING)],
        [trial(state=TrialState.FAIL, lr=0.1)],
        [trial(0.5, state=TrialState.PRUNED, reports=[0.5], lr=0.1)],
        [trial(float("inf"), lr=0.1)] * 2,
        [trial(0.5), trial(0.5)],
        [trial(0.5, lr=10 ** (-1 - i / 15), dropout=0.1 + 0.01 * i) for i in range(1, 30)],
    ],
    ids=["empty", "running", "fail", "pruned", "inf", "same", "equal"],
)
def test_section_without_a_figure_says_why(tmp_path, trials, capfd):
    folder = plant(tmp_path / "early", {"/cnn": trials, "/lenet5": []})
    sections = parts(page.write(folder))
    assert ", ".join(sections) == SECTIONS
    assert "environment.yaml" in sections["Versions"]
    for title in ("Contours", "Hyperparameter importance"):
        assert FIGURE not in sections[title]
        assert "20 trials" in sections[title]
    for title, part in sections.items():
        shown = FIGURE in part or "<td>" in part or "<pre>" in part
        assert shown or re.search(r"<p>\s*\w.*</p>", part), title
    assert capfd.readouterr() == ("", "")


def test_columns_have_the_names_of_recorded_numbers(tmp_path):
    trials = [trial(0.5, lr=0.1, attrs={"size": 3.0, f"{MARK}step": 4.0, "note": "text"})]
    path = page.write(plant(tmp_path / "s", {"": trials}, sweeper={"objective": None}))
    head, _ = table(parts(path)["Result"])
    assert head[1:4] == ["value in the search", "by trial", "size"]
    assert "accuracy" not in re.sub("<script>.*?</script>", "", path.read_text(), flags=re.DOTALL)


def test_page_counts_trials_still_to_begin_and_reloads_itself(tmp_path):
    folder = plant(tmp_path / "s", {"/a": searched(4), "/b": [trial(state=TrialState.RUNNING)]})
    for name in ("s/a", "s/b"):
        study = optuna.load_study(study_name=name, storage=journal(folder))
        study.set_user_attr(N_TRIALS, 6)
    text = page.write(folder, 12.0).read_text()
    assert "search 4 of 12" in text
    assert "setTimeout(() => location.reload(), 12000.0);" in text
    assert "location.reload" in page.compare([folder, folder], 12.0).read_text()
    assert "location.reload" not in page.write(folder).read_text()


def test_several_objectives_have_a_front(tmp_path):
    points = [(0.9, 30.0), (0.8, 10.0), (0.7, 20.0), (0.95, 50.0)]
    trials = [trial(*point, lr=0.01 * (i + 1), dropout=0.1 * i) for i, point in enumerate(points)]
    objective = {"objective": ["val/accuracy", "seconds"]}
    folder = plant(tmp_path / "pareto", {"": trials}, ["maximize", "minimize"], objective)
    sections = parts(page.write(folder))
    head, *rows = table(sections["Result"])
    assert head == ["trial", "val/accuracy", "seconds", "settings"]
    assert [row[0] for row in rows] == ["000", "001", "003"]
    assert FIGURE in sections["Result"]
    assert sections["Slices"].count(FIGURE) == 2
    directions = ["maximize", "minimize", "minimize"]
    folder = plant(tmp_path / "three", {"": [trial(0.9, 1.0, 2.0, lr=0.1)]}, directions)
    head, _ = table(parts(page.write(folder))["Result"])
    assert head[1:4] == ["value 0", "value 1", "value 2"]


def test_text_is_escaped_and_passwords_are_masked(tmp_path):
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


# Reading a sweep


def test_names_of_studies_tell_phases_and_strata_also_in_a_moved_folder(tmp_path):
    names = ["/cnn", "/lenet5", "@confirm/cnn", "-other/cnn", "x@final/cnn"]
    shutil.move(plant(tmp_path / "s", {name: searched(2) for name in names}), tmp_path / "moved")
    sweep = page.read(tmp_path / "moved")
    assert {phase: len(s.strata) for phase, s in sweep.phases.items()} == {"search": 2}
    assert (sweep.name, sweep.objectives, sweep.stratify) == ("s", ["val/accuracy"], "model")
    assert sweep.winners == []
    assert len(sweep.search.trials()) == 4


def test_database_in_the_folder_is_read_without_any_other_file(tmp_path):
    study = optuna.create_study(study_name=tmp_path.name, storage=f"sqlite:///{tmp_path}/study.db")
    study.add_trials(searched(2))
    study._storage._backend.engine.dispose()
    sweep = page.read(tmp_path)
    assert (sweep.name, sweep.objectives) == (tmp_path.name, ["value"])
    assert [t.values for _, t in sweep.search.trials()] == [t.values for t in searched(2)]
    assert "multirun.yaml" in parts(page.write(tmp_path))["Configuration"]


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
def test_nothing_that_a_folder_names_is_called(tmp_path, kept):
    folder = plant(tmp_path / "s", {"": searched(2)}, sweeper={"storage": kept})
    (folder / "study.journal").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage"):
        page.write(folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_without_a_study_is_refused_and_stays_as_it_was(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        page.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ("'${oc.env:HYDRASWEEP_STORAGE}'", r"//me:\*+@127"),
        ("{_target_: any, url: '${oc.env:HYDRASWEEP_STORAGE}'}", r"//me:\*+@127"),
        ("'${oc.env:NOT_SET_HERE}'", "NOT_SET_HERE"),
        ("nosuchkind://127.0.0.1:9/db", "nosuchkind://127"),
        ("mssql+pyodbc://127.0.0.1:9/db", "package .*pyodbc"),
        ("'sqlite:///${hydra.sweep.dir}/none/study.db'", r"study\.db.* study\.journal"),
        ("'sqlite:///${hydra.sweep.dir}/other.db'", "study done"),
        ("'sqlite:///${hydra.sweep.dir}/damaged.db'", "no such column"),
    ],
)
def test_storage_that_fails_is_named_without_its_password(tmp_path, kept, shown, monkeypatch):
    if "HYDRASWEEP_STORAGE" in kept:
        pytest.importorskip("psycopg")
    for name in ("other", "damaged"):
        if name in kept:
            optuna.create_study(study_name=name, storage=f"sqlite:///{tmp_path}/{name}.db")
    if "damaged" in kept:
        with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection:
            connection.execute("ALTER TABLE studies RENAME COLUMN study_name TO other")
    (tmp_path / "multirun.yaml").write_text(
        f"hydra: {{sweeper: {{study_name: done, storage: {kept}}}}}"
    )
    monkeypatch.setenv("HYDRASWEEP_STORAGE", "postgresql://me:hunter2@127.0.0.1:9/db")
    with pytest.raises((UserError, OmegaConfBaseException), match=shown) as caught:
        page.read(tmp_path)
    assert "hunter2" not in str(caught.value)


# Several sweeps


def test_sweeps_are_compared_beside_the_first_folder(reported, tmp_path):
    done = shutil.copytree(reported, tmp_path / "done", symlinks=True)
    other = plant(tmp_path / "other", {"/cnn": searched(5), "/baseline": searched(4)})
    path = page.compare([done, other])
    assert path == tmp_path / "compare-done-other.html"
    sections = parts(path)
    head, *rows = table(sections["Results"])
    names = [("done", "cnn"), ("done", "lenet5"), ("other", "cnn"), ("other", "baseline")]
    assert [tuple(row[:2]) for row in rows] == names
    assert rows[0][head.index("test/accuracy")].startswith("0.9318")
    assert rows[2][head.index("val/accuracy in the search")] == "0.9400"
    assert rows[2][head.index("val/accuracy confirmed")] == "—"
    assert "other baseline" in sections["Best so far"]


def test_sweeps_with_different_objectives_have_no_common_figure(tmp_path):
    one = plant(tmp_path / "one", {"": searched(3)})
    loss = plant(tmp_path / "loss", {"": searched(3)}, sweeper={"objective": "val/loss"})
    less = plant(tmp_path / "less", {"": searched(3)}, ["minimize"])
    many = plant(tmp_path / "many", {"": [trial(1.0, 2.0, lr=0.1)]}, ["maximize", "minimize"])
    for other in (loss, less):
        assert FIGURE not in parts(page.compare([one, other]))["Best so far"]
    sections = parts(page.compare([many, one]))
    assert re.search(r"many\b.* several objectives", sections["Results"])
    assert FIGURE in sections["Best so far"]
