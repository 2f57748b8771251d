"""Trials that pause at rungs, and go on when they are among the best there."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from apps import App
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.errors import UserError
from hydrasweep.pruners import PromotionPruner
from hydrasweep.trials import GAVE_UP

MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
# Trains up to nine steps, the state in a file; each step that it does is a line of "done".
BODY = """
    folder = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
    state, n = os.path.join(folder, "state"), 0
    if os.path.exists(state):
        n = int(open(state).read())
    while True:
        if n and hydrasweep.report(cfg.x, n) and n < 9:
            return cfg.x
        if n == 9:
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


def paused(*trials: dict[int, float], **attrs: Any) -> list[FrozenTrial]:
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


def promotable(
    trials: list[FrozenTrial], is_full: bool = False, direction: StudyDirection = MAXIMIZE
) -> list[int]:
    found = PromotionPruner().promotable(trials, direction, is_full)
    return [trial.number for trial in found]


def test_app_that_begins_anew_after_a_pause_is_told_what_it_promised(
    app: Callable[..., App],
) -> None:
    task = app("""
        for step in range(1, 10):
            if hydrasweep.report(cfg.x, step):
                break
        return cfg.x
    """)
    done = task(*RESUMABLE, "hydra.sweeper.max_steps=9", "hydra.sweeper.n_trials=9")
    assert done.code == 0, done.err
    # Who begins anew after the rung at 1 reports what a task that goes on reports.
    assert re.search(r"Note of \d trials?: repeated steps that were done before", done.out)
    done = task(*PROMOTION, "hydra.sweep.dir=other", "hydra.sweeper.study_name=t")
    assert "Note" not in done.out


# Rungs


@pytest.mark.parametrize("steps", [[1, 2, 3, 4, 9], [1, 2, 3, 5, 8, 13], [2, 4, 6, 8, 10]])
def test_trial_pauses_at_each_rung_or_at_its_next_report(steps: list[int]) -> None:
    study = optuna.create_study(pruner=PromotionPruner())
    trial = study.ask()
    stops = []
    for step in steps:
        trial.report(0.5, step)
        if trial.should_prune():
            stops.append(step)
    assert stops == {4: [1, 3, 9], 5: [1, 3, 13], 8: [2, 4, 10]}[steps[3]]


def test_rungs_follow_the_settings() -> None:
    pruner = PromotionPruner(min_resource=2, reduction_factor=4, max_resource=32)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    stops = []
    for step in range(1, 40):
        trial.report(0.5, step)
        if trial.should_prune():
            stops.append(step)
    assert stops == [2, 8]


@pytest.mark.parametrize(
    "settings", [{"min_resource": 0}, {"min_resource": 1.5}, {"reduction_factor": 1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(UserError, match=f"{name}={settings[name]}: must be"):
        PromotionPruner(**settings)


def test_a_third_of_a_rung_goes_on_the_furthest_first() -> None:
    trials = paused({1: 0.1}, {1: 0.5}, {1: 0.3})
    assert promotable(trials[:2]) == []
    assert promotable(trials) == [1]
    assert promotable(trials, direction=MINIMIZE) == [0]
    # The best of the first rung is still the best of it when it has gone on.
    further = paused({1: 0.1}, {1: 0.5, 2: 0.0, 3: 0.4}, {1: 0.3})
    assert promotable(further) == []
    higher = paused(*({1: 0.1 * i, 3: 0.1 * i} for i in range(3)), *({1: 0.5},) * 6)
    assert promotable(higher) == [2, 3, 4, 5]


def test_where_none_is_to_come_a_share_is_rounded_up() -> None:
    assert promotable(paused({1: 0.1}), is_full=True) == [0]
    assert promotable(paused(*({1: i / 9} for i in range(4))), is_full=True) == [3, 2]
    assert promotable([], is_full=True) == []


def test_what_is_not_a_number_is_the_worst() -> None:
    trials = paused({1: math.nan}, {1: 0.1}, {1: math.nan})
    assert promotable(trials) == [1]
    assert promotable(trials, direction=MINIMIZE) == [1]


def test_who_gave_up_or_failed_does_not_go_on() -> None:
    gave_up = paused({1: 0.9}, **{GAVE_UP: True})
    others = paused({1: 0.1}, {1: 0.5}, {1: 0.3})[1:]
    assert promotable([*gave_up, *others]) == []
    failed = paused({1: 0.9})
    failed[0].state = TrialState.FAIL
    assert promotable([*failed, *others], is_full=True) == [1]


@pytest.mark.parametrize(("n", "last", "total"), [(9, 9, 21), (15, 9, 37), (1, 5, 5), (4, 1, 4)])
def test_steps_of_a_search_are_told_beforehand(n: int, last: int, total: int) -> None:
    assert PromotionPruner().n_steps(n, last) == total


# Sweeps


def steps_done(folder: Path) -> dict[str, list[int]]:
    """The steps that each trial did, in order."""
    paths = folder.glob("sweep/*/done")
    return {path.parent.name: [int(n) for n in path.read_text().split()] for path in paths}


def assert_whole(folder: Path, n_trials: int) -> None:
    """Every setting did each step once, and as many went on as had to."""
    done = steps_done(folder)
    assert len(done) == n_trials
    assert all(steps == list(range(1, len(steps) + 1)) for steps in done.values()), done
    far = Counter(len(steps) for steps in done.values())
    assert set(far) == {1, 3, 9}
    assert far[3] + far[9] >= math.ceil(n_trials / 3)


def test_best_of_each_rung_go_on_where_they_paused(app: Callable[..., App]) -> None:
    done = app(BODY)(*RESUMABLE, "hydra.sweeper.n_trials=9")
    assert done.code == 0, done.err
    assert_whole(done.folder, 9)
    trials = done.trials()
    assert len(trials) == 9
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert max(trials, key=lambda trial: trial.params["x"]) in complete
    assert all(list(t.intermediate_values) == list(range(1, 10)) for t in complete)
    rows = done.table()
    assert len({int(row["number"]) for row in rows}) == 9
    for row in rows:
        assert len(steps_done(done.folder)[f"{int(row['number']):03d}"]) == int(row["steps"])


def test_settings_to_try_first_are_the_same_before_and_after_a_pause(
    app: Callable[..., App],
) -> None:
    tells = 'open(os.path.join(folder, "told"), "a").write(f"{cfg.x!r} {cfg.y!r};")'
    body = BODY.replace("while True:", f"{tells}\n    while True:")
    first = "hydra.sweeper.enqueue=[{x: 1, y: 64.0}]"
    space = "y=choice(32,64)"
    done = app(body)(*RESUMABLE, space, first, "hydra.sweeper.n_trials=3")
    assert done.code == 0, done.err
    told = (done.folder / "sweep" / "000" / "told").read_text()
    assert set(re.findall("(.+?);", told)) == {"1.0 64"}


def test_steps_from_zero_and_a_pruned_exception_do_as_well(app: Callable[..., App]) -> None:
    body = BODY.replace("hydrasweep.report(cfg.x, n) and n < 9", "hydrasweep.report(cfg.x, n - 1)")
    body = body.replace(
        "            return", "            raise optuna.TrialPruned()\n            return"
    )
    done = app(body)(*RESUMABLE, "hydra.sweeper.n_trials=5")
    assert done.code == 0, done.err
    far = Counter(len(steps) for steps in steps_done(done.folder).values())
    assert far == {1: 3, 3: 1, 9: 1}
    assert all(s == [*range(1, len(s) + 1)] for s in steps_done(done.folder).values())


@pytest.mark.parametrize("first", [0, 1])
def test_callbacks_that_ask_the_trial_itself_pause_and_go_on(
    app: Callable[..., App], first: int
) -> None:
    own = f"""trial = hydrasweep.trial()
        if n:
            trial.report(cfg.x, n - 1 + {first})
        if n and trial.should_prune():
            raise optuna.TrialPruned()"""
    body = BODY.replace(
        "if n and hydrasweep.report(cfg.x, n) and n < 9:\n            return cfg.x", own
    )
    done = app(body)(*RESUMABLE, "hydra.sweeper.n_trials=5", "hydra.sweeper.max_steps=9")
    assert done.code == 0, done.err
    assert Counter(len(steps) for steps in steps_done(done.folder).values()) == {1: 3, 3: 1, 9: 1}
    assert all(s == [*range(1, len(s) + 1)] for s in steps_done(done.folder).values())


def test_who_gives_up_by_itself_is_not_gone_on_with(app: Callable[..., App]) -> None:
    body = """
        hydrasweep.report(1.0, 1)
        hydrasweep.report(1.0, 2)
        raise optuna.TrialPruned()
    """
    done = app(body)(*RESUMABLE)
    assert done.states() == ["PRUNED"] * 4
    assert not done.lost()


def test_task_function_that_can_not_go_on_is_stopped(app: Callable[..., App]) -> None:
    done = app(BODY)(*PROMOTION, "hydra.sweeper.n_trials=6")
    assert done.code == 0, done.err
    assert "SuccessiveHalvingPruner" in done.out
    assert "hydra.sweeper.resumable" in done.out
    assert not done.lost()
    assert {"COMPLETE", "PRUNED"} == set(done.states())


def test_sweep_that_is_given_more_trials_goes_on_with_paused_ones(app: Callable[..., App]) -> None:
    sweep = app(BODY)
    first = sweep(*RESUMABLE, "hydra.sweeper.n_trials=3")
    assert first.code == 0, first.err
    n_complete = first.states().count("COMPLETE")
    more = sweep(*RESUMABLE, "hydra.sweeper.n_trials=12")
    assert more.code == 0, more.err
    assert_whole(more.folder, 12)
    assert more.states().count("COMPLETE") >= n_complete


def test_paused_trial_goes_on_in_its_own_mlflow_run(app: Callable[..., App], client: Any) -> None:
    body = BODY.replace("    while True", "    mlflow.start_run()\n    while True", 1)
    body = body.replace(
        "        n += 1", "        n += 1\n        mlflow.log_metric('x', cfg.x, n)"
    )
    done = app(body, more="import mlflow\n")(
        *RESUMABLE, "hydra.sweeper.n_trials=5", "hydra.sweeper.mlflow=true"
    )
    assert done.code == 0, done.err
    (experiment,) = (e for e in client.search_experiments() if e.name == "tests")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert len(runs) == 6
    assert len(children) == 5
    for name, steps in steps_done(done.folder).items():
        run = children[name]
        history = client.get_metric_history(run.info.run_id, "x")
        assert [metric.step for metric in history] == steps
        assert run.info.status == "FINISHED"
        assert run.data.tags.get("state") == (None if len(steps) == 9 else "PRUNED")


def test_killed_where_it_pauses_it_is_paused_and_its_run_closed(
    app: Callable[..., App], client: Any
) -> None:
    body = """
        mlflow.start_run()
        stops = hydrasweep.report(cfg.x, 1)
        if stops and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return cfg.x
    """
    run = app(body, more="import mlflow\n")
    command = (*RESUMABLE, "hydra.sweeper.mlflow=true", "hydra.sweeper.n_trials=3")
    assert run(*command).code == -signal.SIGKILL
    done = run(*command)
    assert done.code == 0, done.err
    assert {trial.state for trial in done.lost()} == {TrialState.PRUNED}
    (experiment,) = (e for e in client.search_experiments() if e.name == "tests")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sum(run.data.tags.get("state") == "PRUNED" for run in runs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_killed_at_any_moment_it_ends_as_undisturbed(
    app: Callable[..., App], tmp_path: Path, n_workers: int
) -> None:
    body = BODY.replace("        n += 1", "        n += 1\n        time.sleep(0.02)", 1)
    run = app(body)
    command = [*RESUMABLE, *GRID, "hydra/launcher=joblib", f"hydra.sweeper.n_workers={n_workers}"]
    undisturbed = run(*command, fresh=True)
    assert undisturbed.code == 0, undisturbed.err
    expected = {row["x"]: row["steps"] for row in undisturbed.table()}
    shutil.rmtree(tmp_path / "sweep")
    for n_steps in (2, 12, 20, 27, 35, 45):
        process = subprocess.Popen(
            [sys.executable, "app.py", "-m", *command],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        while sum(map(len, steps_done(tmp_path).values())) < n_steps:
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = run(*command, fresh=True)
    assert ended.code == 0, ended.err
    assert_done_once(tmp_path)
    assert not {"RUNNING", "WAITING", "FAIL"} & set(ended.states())
    found = {row["x"]: row["steps"] for row in ended.table()}
    assert found.keys() == expected.keys()
    if n_workers == 1:  # of two, who is first is chance
        assert found == expected
    assert found["0.19"] == "9"


def assert_done_once(folder: Path) -> None:
    """A step that was killed before it was saved is done again, and no other is."""
    for name, steps in steps_done(folder).items():
        assert sorted(set(steps)) == list(range(1, max(steps) + 1)), name
        assert len(steps) - len(set(steps)) <= 6, name
