"""Whole sweeps of tiny apps: what is tried, in which order, what is kept, and how they resume."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import CONFIG, App
from omegaconf import OmegaConf
from optuna.trial import TrialState

# What is tried, in which order


def test_several_objectives_end_in_a_pareto_front(app: Callable[..., App]) -> None:
    body = """
        assert not hydrasweep.report(cfg.x, 0)  # Optuna takes none
        return cfg.x, cfg.y
    """
    done = app(body)(
        "hydra.sweeper.direction=[minimize,maximize]", "y=interval(0,1)", "hydra.job.chdir=true"
    )
    assert done.code == 0, done.err
    found: Any = OmegaConf.load(done.folder / "sweep" / "optimization_results.yaml")
    values = [tuple(trial.values) for trial in done.trials()]
    front = [
        (x, y)
        for x, y in values
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    ]
    assert sorted(map(tuple, (s["values"] for s in found.solutions))) == sorted(front)
    assert {row["steps"] for row in done.table()} == {"1"}


def test_grid_tries_each_point_once_and_resumes_where_it_was(app: Callable[..., App]) -> None:
    grid = ("hydra/sweeper/sampler=grid", "x=0.5,1.5,2.5", "kind=a,b")
    body = """
        if cfg.x == 1.5 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            os.kill(os.getpid(), signal.SIGINT)
        return cfg.x
    """
    task = app(body)
    done = task(*grid)
    assert done.code == 130, done.err
    assert 0 < done.states().count("COMPLETE") < 6
    done = task(*grid)
    points = sorted((t.params["x"], t.params["kind"]) for t in done.trials())
    assert points == [(x, kind) for x in (0.5, 1.5, 2.5) for kind in "ab"]
    assert "is finished: 6 trials" in task(*grid).out


def test_no_trial_begins_after_the_timeout(app: Callable[..., App]) -> None:
    done = app("time.time = lambda: 1e12\nreturn cfg.x")("hydra.sweeper.timeout=60")
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    assert [row["state"] for row in done.table()] == ["COMPLETE"]


def test_enqueued_settings_are_tried_first_in_the_strata_that_they_name(
    app: Callable[..., App],
) -> None:
    done = app("return cfg.x")(
        "kind=choice(a,b)",
        "hydra.sweeper.stratify=kind",
        "hydra.sweeper.enqueue=[{kind: b, x: 0.25}, {x: -0.75}]",
    )
    assert done.code == 0, done.err
    begun = {kind: [trial.value for trial in done.trials(f"s/{kind}")] for kind in "ab"}
    assert begun["a"][0] == -0.75
    assert begun["b"] == [0.25, -0.75]
    assert [len(values) for values in begun.values()] == [2, 2]


def test_each_stratum_has_a_study_and_an_equal_share(app: Callable[..., App]) -> None:
    done = app("return cfg.x if cfg.kind == 'a' else cfg.x + 10")(
        "kind=choice(a,b,c)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=5"
    )
    assert done.code == 0, done.err
    for kind in "abc":
        assert done.states(f"s/{kind}") == ["COMPLETE"] * (1 if kind == "c" else 2)
        for trial in done.trials(f"s/{kind}"):
            assert trial.value == trial.params["x"] + (0 if kind == "a" else 10)
            assert trial.params.keys() == {"x"}
            assert (done.folder / "sweep" / f"{kind}-{trial.number:03d}").is_dir()
    assert sorted(row["kind"] for row in done.table()) == list("aabbc")


def test_same_seed_gives_the_same_trials(app: Callable[..., App]) -> None:
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
    assert len(params[0]) == 4


def test_zero_trials_show_the_plan_and_run_nothing(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    for nothing in ("hydra.sweeper.n_trials=0", "hydra.sweeper.dry_run=true"):
        done = task(nothing, "y=choice(1.0,2.0)")
        assert done.code == 0
        assert "x: -1 to 1" in done.out
        assert "y: one of 1.0, 2.0" in done.out
        assert not (done.folder / "sweep").exists()


# Where it is kept


def test_storages_address_is_in_no_file_and_no_output(
    app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRASWEEP_STORAGE", f"sqlite:///{tmp_path}/hunter2.db")
    done = app("return cfg.x")("hydra/sweeper/storage=postgresql")
    assert done.code == 0, done.err
    assert "hunter2" not in done.out + done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"hydra.yaml", "app.log", "hunter2.db"} <= {path.name for path in files}
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_journal_file_is_a_storage(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    done = task("hydra/sweeper/storage=journal")
    assert done.code == 0, done.err
    assert (done.folder / "sweep" / "study.journal").exists()
    assert [row["state"] for row in done.table()] == ["COMPLETE"] * 4
    assert "is finished: 4 trials" in task("hydra/sweeper/storage=journal").out


# The app's own


FOREIGN = """
timeout: 1.5
report: weekly
storage: {path: data}
check: [1, 2]
params: {x: 3}
direction: up
confirm: maybe
sampler: balanced
n_jobs: 4
phase: warm-up
study: cells
tracking: false
enqueue: null
pruner: rose
heartbeat: 60
objective: none
name: mine
n_trials: 7
"""


def test_keys_at_the_top_level_of_the_app_are_its_own(app: Callable[..., App]) -> None:
    """In the trials of all phases, whether on the command line, searched or in the config."""
    given: Any = OmegaConf.to_container(OmegaConf.create(FOREIGN))
    given["direction"] = "down"
    body = f"""
        from omegaconf import OmegaConf
        own = OmegaConf.to_container(cfg)
        own.pop("x"), own.pop("seed"), own.pop("value")
        assert own == {given!r} | {{"y": 0.0, "kind": "a"}}, own
        return cfg.x
    """
    task = app(body, CONFIG + FOREIGN + "value: 0.0")
    words = ("value=interval(0,1)", "hydra.sweeper.n_trials=2", "hydra/sweeper/confirm=two_seeds")
    done = task(*words, "direction=down")
    assert done.code == 0, done.err
    assert {row["state"] for row in done.table() + done.table("confirmation")} == {"COMPLETE"}
    assert [row["phase"] for row in done.table("confirmation")] == ["confirm"] * 2 + ["final"] * 2
    assert all(0 <= float(row["params.value"]) <= 1 for row in done.table())
    done = task(*words, "direction=up")
    assert done.code == 1
    assert "direction: was down, now up" in done.err


SEEN = """
import joblib  # sets an environment variable of its own

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
        print("ended with", end.code)
    now = see()
    print("changed:", {key: now[key] for key in now if now[key] != before[key]})
"""


PLAIN = SEEN.replace("    task()\n", "    with hydrasweep.plain_exit():\n            task()\n")


@pytest.mark.parametrize(
    ("end", "told", "more"),
    [
        ("return cfg.x", "", SEEN),
        ("raise hydrasweep.Outage('no disk')", "ended with Error: the sweep was stopped", SEEN),
        ("os.kill(os.getpid(), signal.SIGINT)", "ended with 130", SEEN),
        ("os.kill(os.getpid(), signal.SIGINT)", "ended with 130", PLAIN),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended with 143", PLAIN),
    ],
)
def test_process_is_left_as_it_was_found(
    app: Callable[..., App], end: str, told: str, more: str
) -> None:
    done = app(end, more=more, main="compare()")("hydra.job.chdir=true", "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert "changed: {}" in done.out
    assert told in done.out
    assert ("ended with" in done.out) == bool(told)
    assert done.err.count("Stopped") + done.err.count("Terminated") == told.count("ended with 1")


# Confirmation


CONFIRMING = """
    hydrasweep.record(size=cfg.seed)
    if hydrasweep.trial().phase == "final":
        hydrasweep.record(**{"test/score": cfg.x + cfg.seed})
    elif hydrasweep.trial().phase == "confirm" and os.path.exists(f"kill-{cfg.seed}"):
        os.remove(f"kill-{cfg.seed}")
        os.kill(os.getpid(), signal.SIGKILL)
    assert cfg.scored == (hydrasweep.trial().phase == "final")
    return cfg.x + 0.01 * cfg.seed + (cfg.kind == "a")
"""
SEEDS = ("hydra/sweeper/confirm=fresh_seeds", "hydra.sweeper.confirm.final=['scored=true']",
         "hydra.sweeper.confirm.n_seeds=2", "kind=choice(a,b)", "hydra.sweeper.stratify=kind",
         "seed=7")  # fmt: skip


def test_winners_are_confirmed_on_fresh_seeds_and_trained_once_more(
    app: Callable[..., App], tmp_path: Path
) -> None:
    task = app(CONFIRMING, CONFIG + "scored: false\n")
    (tmp_path / "kill-9").touch()
    assert task(*SEEDS).code == -signal.SIGKILL
    done = task(*SEEDS)
    assert done.code == 0, done.err
    results: Any = OmegaConf.load(tmp_path / "sweep" / "results.yaml")
    for kind in "ab":
        best = sorted(done.trials(f"s/{kind}"), key=lambda trial: trial.values[0])
        confirmed, finals = done.trials(f"s@confirm/{kind}"), done.trials(f"s@final/{kind}")
        tried = [(trial.params["x"], trial.params["seed"]) for trial in confirmed]
        winner = best[0].params["x"]  # it leads the race from its start to its end
        assert sorted(tried) == [(winner, seed) for seed in (8, 9)]
        assert [trial.params for trial in finals] == [{"x": winner, "seed": s} for s in (8, 9)]
        again = {t.params["seed"]: t.value for t in confirmed if t.params["x"] == winner}
        assert {t.params["seed"]: t.value for t in finals} == again  # the same objective
        told = results.winners[kind]
        assert told.params == {"kind": kind, "x": winner}
        assert told.confirm["values"] == pytest.approx([again[seed] for seed in (8, 9)])
        scores = pytest.approx([winner + seed for seed in (8, 9)])
        assert told.final["test/score"]["values"] == scores
        assert told.final["size"].mean == 8.5
    numbers = {row["size"] for row in done.table("confirmation")}
    assert numbers == {"8.0", "9.0"}
    assert "test/score" in done.table("confirmation")[0]
    assert "test/score" not in done.table()[0]
    assert "On fresh seeds" in done.out

    assert "Study s is finished" in (again := task(*SEEDS)).out
    assert again.out.partition("best trial")[2] == done.out.partition("best trial")[2]

    recipe = (tmp_path / "sweep" / "best" / "overall.yaml").read_text()
    words = shlex.split(recipe.splitlines()[0].removeprefix("# "))
    assert words[:2] == ["python", "app.py"]
    run = subprocess.run(
        [sys.executable, *words[1:], "hydra.run.dir=once", "--cfg", "job"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    cfg = OmegaConf.create(run.stdout)
    assert cfg == {
        **{"x": results.winners.b.params.x, "y": 0.0, "kind": "b"},
        **{"seed": 8, "scored": True},
    }


def test_confirmation_that_cannot_work_is_refused_before_any_trial(app: Callable[..., App]) -> None:
    fresh = "hydra/sweeper/confirm=fresh_seeds"
    task = app("return cfg.x")
    for words, told in (
        (("hydra.sweeper.confirm.seed=sed",), "hydra.sweeper.confirm.seed=sed: must name"),
        (("hydra.sweeper.confirm.seed=y",), "hydra.sweeper.confirm.seed=y: must name"),
        (("seed=range(0,9)",), "hydra.sweeper.confirm.seed=seed: "),
        (("hydra.sweeper.confirm.n_seeds=0",), "confirm.n_seeds=0: must be 1 or more"),
        (("hydra.sweeper.confirm.top=-1",), "confirm.top=-1: must be 1 or more"),
        (("hydra.sweeper.confirm.final=[no_such=1]",), "no_such"),
        (("hydra.sweeper.direction=[minimize,maximize]",), "hydra/sweeper/confirm=none"),
    ):
        done = task(fresh, *words)
        assert done.code == 1, words
        assert told in done.err
        assert "Traceback" not in done.err
        assert not list(done.folder.rglob("study.db"))


# Resuming


def test_study_resumes_by_its_name(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    first = task().trials()
    done = task()
    assert done.code == 0
    assert "Study s is finished: 4 trials." in done.out
    assert done.trials() == first
    done = task("hydra.sweeper.n_trials=6")
    assert done.trials()[:4] == first
    assert done.states() == ["COMPLETE"] * 6
    assert len({trial.params["x"] for trial in done.trials()}) == 6
    other = ("hydra.sweeper.study_name=other", "x=interval(-1.0, 2.0)")
    done = task(*other)  # whose trials would have the same folders
    assert done.code == 1
    assert "has the trials of another study in it" in done.err
    done = task(*other, "hydra.sweep.dir=sweep/other")
    assert done.code == 0, done.err


def test_another_search_under_the_same_name_is_refused_with_the_difference(
    app: Callable[..., App],
) -> None:
    task = app("return cfg.x")
    strata = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2")
    done = task(*strata)
    assert done.code == 0, done.err
    for words, told in (
        (("x=interval(-1.0, 2.0)",), ["x: was -1 to 1, now -1 to 2"]),
        (("y=interval(0, 1)",), ["y: was not there, now 0 to 1"]),
        (("y=0.5",), ["y: was 0.0, now 0.5"]),
        (
            ("hydra.sweeper.direction=maximize",),
            ["hydra.sweeper.direction: was minimize, now maximize"],
        ),
        (("hydra.sweeper.direction=[minimize,maximize]",), ["now minimize, maximize"]),
        (("hydra.sweeper.objective=loss",), ["hydra.sweeper.objective: was value, now loss"]),
        (("kind=choice(a,b,c)",), ['kind: was ["a", "b"], now ["a", "b", "c"]']),
        (("kind=choice(c,d)",), ['kind: was ["a", "b"], now ["c", "d"]']),
        (("kind=a",), ['kind: was ["a", "b"], now ["a"]']),
        (("hydra.sweeper.stratify=null",), ['kind: was ["a", "b"], now']),
    ):
        done = task(*strata, *words)
        assert done.code == 1, words
        assert "study s exists with other settings" in done.err
        for each in told:
            assert each in done.err
        assert "Traceback" not in done.err
    done = task(*strata)
    assert done.code == 0, done.err
    assert "is finished: 2 trials" in done.out


def test_another_sampler_or_pruner_is_told(app: Callable[..., App]) -> None:
    task, n = app("return cfg.x"), 0

    def told(*words: str) -> list[str]:
        nonlocal n
        n += 1
        done = task(*words, f"hydra.sweeper.n_trials={n}")
        assert done.code == 0, done.err
        return [line for line in done.out.splitlines() if " before, now " in line]

    assert told() == told() == []
    assert told("hydra.sweeper.sampler.seed=7") == ["sampler: seed=6 before, now 7"]
    assert told("hydra/sweeper/sampler=tpe", "hydra/sweeper/pruner=median") == [
        "sampler: RandomSampler before, now TPESampler",
        "pruner: NopPruner before, now MedianPruner",
    ]


NAMES = {
    "as it is": CONFIG,
    "by a setting of the app": CONFIG.replace("study_name: s", "study_name: ${name}") + "name: s\n",
    "by the time": CONFIG.replace("study_name: s", "study_name: null"),
}


@pytest.mark.parametrize(
    ("named", "becomes"),
    [
        ("as it is", "raise"),
        ("by a setting of the app", "raise AttributeError from None"),
        ("by the time", "pass"),
    ],
)
def test_interrupted_sweep_resumes_by_the_command_that_it_prints(
    app: Callable[..., App], named: str, becomes: str
) -> None:
    """Whatever a library makes of the interruption where that comes in the middle of its work."""
    body = f"""
        if cfg.x < 0 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                {becomes}
        return cfg.x
    """
    task = app(body, NAMES[named].replace("dir: sweep", "dir: sweeps/${now:%H-%M-%S-%f}"))
    done = task("seed=3")
    assert done.code == 130
    assert "KeyboardInterrupt" not in done.err
    (name,) = done.names()
    assert (name == "s") == (named != "by the time")
    n_done = done.states(name).count("COMPLETE")
    assert sorted(done.states(name)) == ["COMPLETE"] * n_done + ["WAITING"] * (4 - n_done)
    lost = done.lost(name)
    assert len(lost) == (becomes != "pass")
    words = shlex.split(done.err.partition("Stopped. To resume: ")[2])
    assert words[:3] == ["python", "app.py", "-m"]
    done = task(*words[3:])
    assert done.code == 0, done.err
    assert done.states(name) == ["COMPLETE"] * 4
    again = sorted(done.trials(name), key=lambda trial: trial.datetime_start)[n_done]  # type: ignore[arg-type,return-value]
    assert [again.params] * len(lost) == [trial.params for trial in lost]


def test_name_of_the_study_may_change_the_app_but_not_the_sweep(app: Callable[..., App]) -> None:
    """``study_name: ${name}`` makes ``name`` no part of what is searched."""
    task = app("return cfg.x", NAMES["by a setting of the app"])
    words = ("hydra.sweeper.n_trials=1", "hydra.sweep.dir='sweep/${name}'")
    for name in ("first", "second", "first"):
        done = task(*words, f"name={name}")
        assert done.code == 0, done.err
    assert "Study first is finished: 1 trials" in done.out


def test_sweep_whose_process_is_killed_resumes(app: Callable[..., App]) -> None:
    body = """
        if cfg.x < 0 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return cfg.x
    """
    task = app(body)
    done = task()
    assert done.code == -signal.SIGKILL
    finished = [trial for trial in done.trials() if trial.state == TrialState.COMPLETE]
    assert len(finished) == 1
    done = task()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 4
    assert done.trials()[0] == finished[0]
    (lost,) = done.lost()
    assert lost.params in [trial.params for trial in done.trials()]
    assert len(done.table()) == 4
