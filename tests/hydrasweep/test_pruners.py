"""Trials that pause at rungs and continue if they are among the best there."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import apps
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from hydrasweep.errors import UserError
from hydrasweep.pruners import PromotionPruner
from hydrasweep.trials import GAVE_UP

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
# Runs up to nine steps and saves its state after each of them. The file "done" lists all steps.
BODY = """
    folder = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
    state, n = os.path.join(folder, "state"), 0
    if os.path.exists(state):
        n = int(open(state).read())
    while True:
        if n and hydrasweep.report(cfg.x, n) or n == 9:
            return cfg.x
        n += 1
        with open(os.path.join(folder, "done"), "a") as file:
            file.write(f"{n}\\n")
        with open(f"{state}.new", "w") as file:
            file.write(str(n))
        os.replace(f"{state}.new", state)
"""
PROMOTION = ("hydra/sweeper/pruner=promotion", "hydra.sweeper.direction=maximize")
RESUMABLE = (*PROMOTION, "hydra.sweeper.resumable=true")
GRID = ("hydra/sweeper/sampler=grid", f"x=choice({','.join(str(i / 100) for i in range(20))})")


def paused(*trials, **attrs):
    made = [
        create_trial(
            state=TrialState.PRUNED,
            value=None,
            params={"x": 0.5},
            distributions={"x": FloatDistribution(0, 1)},
            intermediate_values=values,
            user_attrs=attrs,
        )
        for values in trials
    ]
    for i, trial in enumerate(made):
        trial.number = i
    return made


def promotable(trials, is_full=False, direction=MAXIMIZE):
    found = PromotionPruner().promotable(trials, direction, is_full)
    return [trial.number for trial in found]


# Rungs


@pytest.mark.parametrize(
    ("settings", "steps", "pauses"),
    [
        ({}, [1, 2, 3, 4, 9], [1, 3, 9]),
        ({}, [1, 2, 3, 5, 8, 13], [1, 3, 13]),
        ({}, [2, 4, 6, 8, 10], [2, 4, 10]),
        (
            {"min_resource": 2, "reduction_factor": 4, "max_resource": 32},
            list(range(1, 40)),
            [2, 8],
        ),
    ],
)
def test_trial_pauses_at_each_rung_or_at_its_next_report(settings, steps, pauses):
    trial = optuna.create_study(pruner=PromotionPruner(**settings)).ask()
    found = []
    for step in steps:
        trial.report(0.5, step)
        if trial.should_prune():
            found.append(step)
    assert found == pauses


@pytest.mark.parametrize(
    "settings", [{"min_resource": 0}, {"min_resource": 1.5}, {"reduction_factor": 1}]
)
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(UserError, match=f"{name}={settings[name]}"):
        PromotionPruner(**settings)


def test_best_third_of_a_rung_is_promoted_the_highest_rung_first():
    trials = paused({1: 0.1}, {1: 0.5}, {1: 0.3})
    assert promotable(trials[:2]) == []
    assert promotable(trials) == [1]
    assert promotable(trials, direction=MINIMIZE) == [0]
    # A promoted trial still counts at the rungs below.
    further = paused({1: 0.1}, {1: 0.5, 2: 0.0, 3: 0.4}, {1: 0.3})
    assert promotable(further) == []
    higher = paused(*({1: 0.1 * i, 3: 0.1 * i} for i in range(3)), *({1: 0.5},) * 6)
    assert promotable(higher) == [2, 3, 4, 5]


def test_share_of_a_rung_is_rounded_up_when_no_trial_is_to_come():
    assert promotable(paused({1: 0.1}), is_full=True) == [0]
    assert promotable(paused(*({1: i / 9} for i in range(4))), is_full=True) == [3, 2]
    assert promotable([], is_full=True) == []


def test_nan_is_the_worst_value():
    trials = paused({1: math.nan}, {1: 0.1}, {1: math.nan})
    assert promotable(trials) == [1]
    assert promotable(trials, direction=MINIMIZE) == [1]


def test_trials_that_gave_up_or_failed_are_not_promoted():
    gave_up = paused({1: 0.9}, **{GAVE_UP: True})
    others = paused({1: 0.1}, {1: 0.5}, {1: 0.3})[1:]
    assert promotable([*gave_up, *others]) == []
    failed = paused({1: 0.9})
    failed[0].state = TrialState.FAIL
    assert promotable([*failed, *others], is_full=True) == [1]


@pytest.mark.parametrize(("n", "last", "total"), [(9, 9, 21), (15, 9, 37), (1, 5, 5), (4, 1, 4)])
def test_number_of_steps_of_a_search_is_known_beforehand(n, last, total):
    assert PromotionPruner().n_steps(n, last) == total


# Sweeps


def steps_done(folder):
    """The steps that each trial ran, in order."""
    paths = folder.glob("sweep/*/done")
    return {path.parent.name: [int(n) for n in path.read_text().split()] for path in paths}


def test_best_of_each_rung_continue_where_they_paused(app):
    """Also when the sweep is resumed with more trials."""
    notes = 'open(os.path.join(folder, "notes"), "a").write(f"{cfg.x!r} {cfg.y!r};")'
    sweep = app(BODY.replace("while True:", f"{notes}\n    while True:"))
    overrides = (*RESUMABLE, "y=choice(32,64)", "hydra.sweeper.enqueue=[{x: 1, y: 64.0}]")
    first = sweep(*overrides, "hydra.sweeper.n_trials=3", code=0)
    n_complete = first.states().count("COMPLETE")
    done = sweep(*overrides, "hydra.sweeper.n_trials=12", code=0)

    steps, trials = steps_done(done.folder), done.trials()
    assert len(steps) == len(trials) == 12
    assert all(each == list(range(1, len(each) + 1)) for each in steps.values()), steps
    lengths = Counter(map(len, steps.values()))
    assert set(lengths) == {1, 3, 9}
    assert lengths[3] + lengths[9] >= 4
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == lengths[9] >= n_complete
    assert max(trials, key=lambda trial: trial.params["x"]) in complete
    assert all(list(t.intermediate_values) == list(range(1, 10)) for t in complete)
    rows = {f"{int(row['number']):03d}": int(row["steps"]) for row in done.table()}
    assert rows == {name: len(each) for name, each in steps.items()}
    # A trial has the same settings before and after a pause.
    notes = (done.folder / "sweep" / "000" / "notes").read_text()
    assert notes.count(";") >= 3
    assert set(notes.split(";")) == {"1.0 64", ""}


@pytest.mark.parametrize(
    "pause",
    [
        """if n and hydrasweep.report(cfg.x, n - 1) and n < 9:
            raise optuna.TrialPruned()""",
        """trial = hydrasweep.trial()
        if n:
            trial.report(cfg.x, n - 1)
        if n and trial.should_prune():
            raise optuna.TrialPruned()""",
    ],
    ids=["report", "callback"],
)
def test_steps_may_begin_at_zero_and_pauses_may_be_exceptions(app, pause):
    """Pruning callbacks use the methods of Optuna's trial."""
    body = BODY.replace(
        "if n and hydrasweep.report(cfg.x, n) or n == 9:", f"{pause}\n        if n == 9:"
    )
    done = app(body)(*RESUMABLE, "hydra.sweeper.n_trials=5", "hydra.sweeper.max_steps=9", code=0)
    steps = steps_done(done.folder).values()
    assert Counter(map(len, steps)) == {1: 3, 3: 1, 9: 1}
    assert all(each == list(range(1, len(each) + 1)) for each in steps)


def test_trial_that_gives_up_is_not_continued(app):
    body = """
        hydrasweep.report(1.0, 1)
        hydrasweep.report(1.0, 2)
        raise optuna.TrialPruned()
    """
    done = app(body)(*RESUMABLE)
    assert done.states() == ["PRUNED"] * 4
    assert not done.lost()


def test_task_function_that_is_not_resumable_is_stopped_instead(app):
    done = app(BODY)(*PROMOTION, "hydra.sweeper.n_trials=6", code=0)
    assert "SuccessiveHalvingPruner" in done.out
    assert "hydra.sweeper.resumable" in done.out
    assert "Note" not in done.out
    assert not done.lost()
    assert {"COMPLETE", "PRUNED"} == set(done.states())


def test_task_function_that_repeats_steps_although_resumable_is_noted(app):
    body = """
        for step in range(1, 10):
            if hydrasweep.report(cfg.x, step):
                break
        return cfg.x
    """
    done = app(body)(*RESUMABLE, "hydra.sweeper.max_steps=9", code=0)
    (note,) = (line for line in done.out.splitlines() if line.startswith("Note"))
    assert "hydra.sweeper.resumable=true" in note


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_sweep_that_is_killed_at_any_moment_ends_like_an_undisturbed_one(app, tmp_path, n_workers):
    task = app(BODY.replace("        n += 1", "        n += 1\n        time.sleep(0.02)", 1))
    overrides, fresh = [*RESUMABLE, *GRID], n_workers > 1
    if fresh:
        overrides += ["hydra/launcher=joblib", f"hydra.sweeper.n_workers={n_workers}"]
    undisturbed = task(*overrides, fresh=fresh, code=0)
    expected = {row["x"]: row["steps"] for row in undisturbed.table()}
    shutil.rmtree(tmp_path / "sweep")
    for n_steps in (12, 35) if fresh else (2, 20, 27, 45):
        words = ["app.py", "-m", *overrides]
        process: Any = (
            subprocess.Popen([sys.executable, *words], cwd=tmp_path, start_new_session=True)
            if fresh
            else apps.start(tmp_path, words)
        )
        while sum(map(len, steps_done(tmp_path).values())) < n_steps:
            time.sleep(0.01)
        (os.killpg if fresh else os.kill)(process.pid, signal.SIGKILL)
        (process.wait if fresh else process.join)()
    ended = task(*overrides, fresh=fresh, code=0)
    for name, steps in steps_done(tmp_path).items():
        assert sorted(set(steps)) == list(range(1, max(steps) + 1)), name
        # Only steps that were killed before they were saved run again.
        assert len(steps) - len(set(steps)) <= 6, name
    assert not {"RUNNING", "WAITING", "FAIL"} & set(ended.states())
    found = {row["x"]: row["steps"] for row in ended.table()}
    assert found.keys() == expected.keys()
    assert found["0.19"] == "9"
    if n_workers == 1:  # the order of two workers is random
        assert found == expected
