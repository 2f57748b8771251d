"""Whole sweeps of tiny apps: the order of their trials, their results and how they resume."""

import shlex
import signal
from dataclasses import fields
from typing import Any

import pytest
from apps import CONFIG, SQLITE
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.settings import SweeperConf

# Trials and their order


def test_several_objectives_end_in_a_pareto_front(app):
    body = """
        assert not hydrasweep.report(cfg.x, 0)  # Optuna accepts no reports on several objectives
        return cfg.x, cfg.y
    """
    done = app(body)(
        "hydra.sweeper.direction=[minimize,maximize]",
        "y=interval(0,1)",
        "hydra.job.chdir=true",
        code=0,
    )
    found: Any = OmegaConf.load(done.folder / "sweep" / "optimization_results.yaml")
    values = [tuple(trial.values) for trial in done.trials()]
    front = [
        (x, y)
        for x, y in values
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    ]
    assert sorted(map(tuple, (s["values"] for s in found.solutions))) == sorted(front)
    assert {row["steps"] for row in done.table()} == {"1"}


def test_grid_runs_each_point_once_and_resumes(app):
    grid = ("hydra/sweeper/sampler=grid", "x=0.5,1.5,2.5", "kind=a,b")
    body = """
        if cfg.x == 1.5 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            end_sweep(signal.SIGINT)
        return cfg.x
    """
    task = app(body)
    done = task(*grid, code=130)
    assert 0 < done.states().count("COMPLETE") < 6
    done = task(*grid)
    points = sorted((t.params["x"], t.params["kind"]) for t in done.trials())
    assert points == [(x, kind) for x in (0.5, 1.5, 2.5) for kind in "ab"]
    assert "is finished: 6 trials" in task(*grid).out


def test_no_trial_begins_after_the_timeout(app):
    done = app("time.sleep(1)\nreturn cfg.x")("hydra.sweeper.timeout=0.5", code=0)
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    assert [row["state"] for row in done.table()] == ["COMPLETE"]


def test_each_stratum_has_a_study_an_equal_share_and_its_enqueued_settings(app):
    done = app("return cfg.x if cfg.kind == 'a' else cfg.x + 10")(
        "kind=choice(a,b,c)",
        "hydra.sweeper.stratify=kind",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.enqueue=[{kind: b, x: 0.25}, {x: -0.75}]",
        code=0,
    )
    for kind, n_trials, first in (("a", 2, [-0.75]), ("b", 2, [0.25, -0.75]), ("c", 1, [-0.75])):
        trials = done.trials(f"s/{kind}")
        assert done.states(f"s/{kind}") == ["COMPLETE"] * n_trials
        assert [trial.params["x"] for trial in trials][: len(first)] == first
        for trial in trials:
            assert trial.value == trial.params["x"] + (0 if kind == "a" else 10)
            assert trial.params.keys() == {"x"}
            assert (done.folder / "sweep" / f"{kind}-{trial.number:03d}").is_dir()
    assert sorted(row["kind"] for row in done.table()) == list("aabbc")


def test_same_seed_gives_the_same_trials(app):
    task = app("return cfg.x**2")
    params = []
    for folder in ("one", "two"):
        done = task(
            f"hydra.sweep.dir={folder}",
            "hydra/sweeper/sampler=tpe",
            "hydra.sweeper.sampler.n_startup_trials=1",
        )
        params.append([trial.params for trial in done.study(folder=folder).trials])
    assert params[0] == params[1]
    assert len({str(each) for each in params[0]}) == 4


def test_zero_trials_show_the_plan_and_run_nothing(app):
    task = app("return cfg.x")
    for override in ("hydra.sweeper.n_trials=0", "hydra.sweeper.dry_run=true"):
        done = task(override, "y=choice(1.0,2.0)", code=0)
        for text in ("x: -1 to 1", "y: ", "1.0, 2.0"):
            assert text in done.out
        assert not (done.folder / "sweep").exists()


def test_address_of_the_storage_is_in_no_file_and_no_output(app, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRASWEEP_STORAGE", f"sqlite:///{tmp_path}/hunter2.db")
    done = app("return cfg.x")("hydra/sweeper/storage=postgresql", code=0)
    assert "hunter2" not in done.out + done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"hydra.yaml", "app.log", "hunter2.db"} <= {path.name for path in files}
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


# The app's process and its settings


def test_app_may_have_settings_with_the_names_of_the_sweepers(app):
    """In trials of all phases the app's values stay as they are in its config, on the command
    line or in the search space."""
    names = {field.name for field in fields(SweeperConf)} | {"phase", "study", "tracking", "name"}
    own = dict.fromkeys(names - {"_target_", "defaults"}, "mine")
    body = f"""
        for key, value in {own | {"direction": "down"}}.items():
            assert cfg[key] == value, key
        return cfg.x
    """
    task = app(body, CONFIG + OmegaConf.to_yaml(OmegaConf.create(own)) + "value: 0.0")
    phases = ("hydra.sweeper.n_trials=2", "hydra/sweeper/confirm=two_seeds")
    overrides = ("value=interval(0,1)", *phases)
    done = task(*overrides, "direction=down", code=0)
    assert {row["state"] for row in done.table() + done.table("confirmation")} == {"COMPLETE"}
    assert [row["phase"] for row in done.table("confirmation")] == ["confirm"] * 2 + ["final"] * 2
    assert all(0 <= float(row["params.value"]) <= 1 for row in done.table())
    done = task(*overrides, "direction=up", in_process=True)
    for text in ("direction", "down", "up"):
        assert text in done.err


COMPARES = """
import joblib  # it sets an environment variable

def see():
    return {
        "signals": {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)},
        "environment": dict(os.environ),
        "verbosity": optuna.logging.get_verbosity(),
        "stdout": (sys.stdout, sys.stdout.errors, sys.stderr),
        "path": list(sys.path),
        "cwd": os.getcwd(),
        "trial": hydrasweep.trial().name,
    }

def compare():
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sys.stdout.reconfigure(errors="strict")
    before = see()
    try:
        task()
    except SystemExit as end:
        print("exit code:", end.code)
    now = see()
    print("changed:", {key: now[key] for key in now if now[key] != before[key]})
"""
WITH_PLAIN_EXIT = COMPARES.replace(
    "    task()\n", "    with hydrasweep.plain_exit():\n            task()\n"
)


@pytest.mark.parametrize(
    ("body", "code", "more"),
    [
        ("return cfg.x", "", COMPARES),
        ("raise hydrasweep.Outage('no disk')", "Error: ", COMPARES),
        ("end_sweep(signal.SIGINT)", "130", COMPARES),
        ("end_sweep(signal.SIGINT)", "130", WITH_PLAIN_EXIT),
        ("end_sweep(signal.SIGTERM)", "143", WITH_PLAIN_EXIT),
    ],
)
def test_sweep_leaves_the_process_as_it_found_it(app, body, code, more):
    done = app(body, more=more, main="compare()")(
        "hydra.job.chdir=true", "hydra.sweeper.n_trials=1", code=0
    )
    assert "changed: {}" in done.out
    assert f"exit code: {code}" in done.out or not code
    assert ("exit code" in done.out) == bool(code)
    assert done.err.count("To resume: ") == code.isdigit()


# Confirmation


CONFIRMED = """
    hydrasweep.record(size=cfg.seed)
    if hydrasweep.trial().phase == "final":
        hydrasweep.record(**{"test/score": cfg.x + cfg.seed})
    elif hydrasweep.trial().phase == "confirm" and os.path.exists(f"kill-{cfg.seed}"):
        os.remove(f"kill-{cfg.seed}")
        end_sweep(signal.SIGKILL)
    assert cfg.scored == (hydrasweep.trial().phase == "final")
    return cfg.x + 0.01 * cfg.seed + (cfg.kind == "a")
"""


def test_winners_are_confirmed_on_fresh_seeds_and_trained_once_more(app, tmp_path):
    overrides = (
        "hydra/sweeper/confirm=fresh_seeds",
        "hydra.sweeper.confirm.final=['scored=true']",
        "hydra.sweeper.confirm.n_seeds=2",
        "kind=choice(a,b)",
        "hydra.sweeper.stratify=kind",
        "seed=7",
    )
    task = app(CONFIRMED, CONFIG + "scored: false\n")
    (tmp_path / "kill-9").touch()
    assert task(*overrides).code == -signal.SIGKILL
    done = task(*overrides, code=0)
    results: Any = OmegaConf.load(tmp_path / "sweep" / "results.yaml")
    for kind in "ab":
        best = min(done.trials(f"s/{kind}"), key=lambda trial: trial.values[0])
        x = best.params["x"]  # it leads the race from start to end
        confirmed, finals = done.trials(f"s@confirm/{kind}"), done.trials(f"s@final/{kind}")
        assert [trial.params for trial in finals] == [{"x": x, "seed": seed} for seed in (8, 9)]
        values = {trial.params["seed"]: trial.value for trial in finals}
        assert sorted(values) == sorted(trial.params["seed"] for trial in confirmed)
        assert all(t.params["x"] == x and t.value == values[t.params["seed"]] for t in confirmed)
        winner = results.winners[kind]
        assert winner.params == {"kind": kind, "x": x}
        assert winner.confirm["values"] == pytest.approx([values[8], values[9]])
        assert winner.final["test/score"]["values"] == pytest.approx([x + 8, x + 9])
        assert winner.final["size"].mean == 8.5
    table = done.table("confirmation")
    assert {row["size"] for row in table} == {"8.0", "9.0"}
    assert "test/score" in table[0]
    assert "test/score" not in done.table()[0]

    again = task(*overrides)
    assert "Study s is finished" in again.out
    assert again.out.partition("best trial")[2] == done.out.partition("best trial")[2] != ""

    recipe = (tmp_path / "sweep" / "best" / "overall.yaml").read_text()
    words = shlex.split(recipe.splitlines()[0].removeprefix("# "))
    assert words[:2] == ["python", "app.py"]
    shown = task(*words[2:], "hydra.run.dir=once", "--cfg", "job", multirun=False, code=0)
    x = results.winners.b.params.x
    expected = {"x": x, "y": 0.0, "kind": "b", "seed": 8, "scored": True}
    assert OmegaConf.create(shown.out) == expected


def test_impossible_confirmation_is_refused_before_any_trial(app):
    task = app("return cfg.x")
    for override, texts in (
        ("hydra.sweeper.confirm.seed=sed", ("hydra.sweeper.confirm.seed=sed",)),
        ("hydra.sweeper.confirm.seed=y", ("hydra.sweeper.confirm.seed=y",)),
        ("seed=range(0,9)", ("hydra.sweeper.confirm.seed=seed",)),
        ("hydra.sweeper.confirm.n_seeds=0", ("hydra.sweeper.confirm.n_seeds=0",)),
        ("hydra.sweeper.confirm.top=-1", ("hydra.sweeper.confirm.top=-1",)),
        ("hydra.sweeper.confirm.final=[no_such=1]", ("no_such",)),
        (
            "hydra.sweeper.direction=[minimize,maximize]",
            ("hydra.sweeper.confirm", "hydra/sweeper/confirm=none"),
        ),
    ):
        done = task("hydra/sweeper/confirm=fresh_seeds", override, in_process=True)
        assert done.code == 1, override
        for text in texts:
            assert text in done.err
        assert not (done.folder / "sweep").exists()


# Resuming


def test_study_resumes_by_its_name(app):
    """More trials, another sampler and another pruner are allowed, and such a change is printed."""
    task, trials = app("return cfg.x"), list[FrozenTrial]()
    for n_trials, overrides, changes in (
        (2, (), []),
        (3, ("hydra.sweeper.sampler.seed=7",), [("sampler", "seed=6", "7")]),
        (
            4,
            ("hydra/sweeper/sampler=tpe", "hydra/sweeper/pruner=median"),
            [("sampler", "RandomSampler", "TPESampler"), ("pruner", "NopPruner", "MedianPruner")],
        ),
    ):
        done = task(*overrides, f"hydra.sweeper.n_trials={n_trials}", code=0)
        lines = [line for line in done.out.splitlines() if line.startswith(("sampler:", "pruner:"))]
        assert len(lines) == len(changes)
        for line, (part, before, now) in zip(lines, changes, strict=True):
            assert line.startswith(part)
            assert 0 < line.index(before) < line.rindex(now)
        assert done.trials()[: len(trials)] == trials
        trials = done.trials()
        assert done.states() == ["COMPLETE"] * n_trials
    done = task(*overrides)
    assert "Study s is finished: 4 trials" in done.out
    assert done.trials() == trials
    assert len({trial.params["x"] for trial in trials}) == 4
    # The trials of another study would have the same folders.
    other = ("hydra.sweeper.study_name=other", "x=interval(-1.0, 2.0)")
    done = task(*other, in_process=True, code=1)
    assert f"hydra.sweep.dir={done.folder / 'sweep'}" in done.err
    done = task(*other, "hydra.sweep.dir=sweep/other", code=0)


def test_another_search_under_the_same_name_is_refused_with_the_difference(app):
    task = app("return cfg.x")
    strata = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2")
    done = task(*strata, code=0)
    for override, key, before, now in (
        ("x=interval(-1.0, 2.0)", "x", "-1 to 1", "-1 to 2"),
        ("y=interval(0, 1)", "y", "", "0 to 1"),
        ("y=0.5", "y", "0.0", "0.5"),
        ("hydra.sweeper.direction=maximize", "hydra.sweeper.direction", "minimize", "maximize"),
        (
            "hydra.sweeper.direction=[minimize,maximize]",
            "hydra.sweeper.direction",
            "minimize",
            "minimize, maximize",
        ),
        ("hydra.sweeper.objective=loss", "hydra.sweeper.objective", "value", "loss"),
        ("kind=choice(a,b,c)", "kind", '["a", "b"]', '["a", "b", "c"]'),
        ("kind=choice(c,d)", "kind", '["a", "b"]', '["c", "d"]'),
        ("kind=a", "kind", '["a", "b"]', '["a"]'),
        ("hydra.sweeper.stratify=null", "kind", '["a", "b"]', ""),
    ):
        done = task(*strata, override, in_process=True)
        assert done.code == 1, override
        _, found, difference = done.err.partition(f"{key}: ")
        assert found, done.err
        assert 0 <= difference.index(before) <= difference.rindex(now)
    done = task(*strata, code=0)
    assert "is finished: 2 trials" in done.out


NAMES = {
    "a name": CONFIG,
    "a setting of the app": CONFIG.replace("study_name: s", "study_name: ${name}") + "name: s\n",
    "the time": CONFIG.replace("study_name: s", "study_name: null"),
}


@pytest.mark.parametrize(
    ("named", "handler"),
    [
        ("a name", "raise"),
        ("a setting of the app", "raise AttributeError from None"),
        ("the time", "pass"),
    ],
)
def test_interrupted_sweep_resumes_by_the_command_that_it_prints(app, named, handler):
    """``handler`` is what a library does with the interruption."""
    body = f"""
        if cfg.x < 0 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            try:
                end_sweep(signal.SIGINT)
            except KeyboardInterrupt:
                {handler}
        return cfg.x
    """
    task = app(body, NAMES[named].replace("dir: sweep", "dir: sweeps/${now:%H-%M-%S-%f}"))
    done = task("seed=3", "hydra.sweeper.n_trials=3", code=130)
    assert "KeyboardInterrupt" not in done.err
    (name,) = done.names()
    assert (name == "s") == (named != "the time")
    n_done = done.states(name).count("COMPLETE")
    assert sorted(done.states(name)) == ["COMPLETE"] * n_done + ["WAITING"] * (3 - n_done)
    lost = done.lost(name)
    assert len(lost) == 1
    words = shlex.split(done.err.partition("To resume: ")[2])
    assert words[:3] == ["python", "app.py", "-m"]
    done = task(*words[3:], code=0)
    assert done.states(name) == ["COMPLETE"] * 3
    again = sorted(done.trials(name), key=lambda trial: trial.datetime_start)[n_done]
    assert [again.params] * len(lost) == [trial.params for trial in lost]


@pytest.mark.parametrize("storage", ["hydra/sweeper/storage=journal", SQLITE])
def test_sweep_whose_process_is_killed_resumes(app, storage):
    body = """
        if cfg.x < 0 and not os.path.exists("killed"):
            open("killed", "w").close()
            end_sweep(signal.SIGKILL)
        return cfg.x
    """
    task = app(body)
    done = task(storage, code=-signal.SIGKILL)
    finished = [trial for trial in done.trials() if trial.state == TrialState.COMPLETE]
    assert len(finished) == 1
    done = task(storage, code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert done.trials()[0] == finished[0]
    (lost,) = done.lost()
    assert lost.params in [trial.params for trial in done.trials()]
    assert len(done.table()) == 4
    assert "is finished: 4 trials" in task(storage).out
