"""The functions that task functions call, inside a sweep and outside."""

import json
import subprocess
import sys

import optuna
import pytest
from apps import CONFIG
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

import hydrasweep
from hydrasweep import api
from hydrasweep.trials import SweepTrial, n_steps

# Outside a sweep


def test_reports_outside_a_sweep_never_stop():
    for step in range(3):
        assert hydrasweep.report(0.5, step) is False
    hydrasweep.record(size=3)


def test_trial_outside_a_sweep_accepts_reports_and_names_no_sweep():
    level = optuna.logging.get_verbosity()
    trial = hydrasweep.trial()
    assert isinstance(trial, optuna.Trial)
    facts = (trial.sweep, trial.phase, trial.stratum, trial.name, trial.parent_run_id)
    assert facts == (None,) * 5
    for step in range(3):
        trial.report(0.5, step)
        assert not trial.should_prune()
    trial.set_user_attr("a", 1)
    assert hydrasweep.trial() is trial
    assert optuna.logging.get_verbosity() == level


@pytest.mark.parametrize("value", ["abc", None, [1.0]])
def test_only_numbers_are_recorded(value):
    with pytest.raises((TypeError, ValueError)):
        hydrasweep.record(size=value)


def test_packages_names_and_what_every_app_imports():
    """Every Hydra app in the environment imports the plugin at its start: it must be fast."""
    code = (
        "import json, sys, hydrasweep, hydrasweep.plugin;"
        "hydrasweep.report(0.5, 1); hydrasweep.record(a=1);"
        "print(json.dumps([hydrasweep.__all__, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = json.loads(done.stdout)
    assert names == ["Outage", "UserError", "load", "plain_exit", "record", "report", "trial"]
    assert {"hydrasweep.api", "hydrasweep.plugin"} <= set(modules)
    heavy = {"optuna", "torch", "mlflow", "plotly", "matplotlib", "pandas", "sqlalchemy", "rich"}
    assert not heavy & set(modules)


# Reports


class StopsAt(optuna.pruners.BasePruner):
    """Stops each trial at one step."""

    def __init__(self, step):
        self.step = step

    def prune(self, study, trial):
        del study
        return trial.last_step is not None and trial.last_step >= self.step


def trial_of(study):
    return SweepTrial(study, study.ask({"x": FloatDistribution(0, 1)})._trial_id, sweep="s")


@pytest.fixture
def current():
    """``current(study)`` makes its next trial the one that this process works on."""

    def begun(study):
        trial = trial_of(study)
        api.set_current(trial)
        return trial

    yield begun
    api.set_current(None)


def test_reports_and_records_go_to_the_current_trial(
    current,
):
    trial = current(optuna.create_study(pruner=StopsAt(2)))
    assert hydrasweep.trial() is trial
    assert [hydrasweep.report(value, step) for step, value in ((1, 0.5), (2, 0.25))] == [
        False,
        True,
    ]
    hydrasweep.record(size=3, **{"test/score": 0.5})
    frozen = trial.study.trials[0]
    assert frozen.intermediate_values == {1: 0.5, 2: 0.25}
    assert frozen.user_attrs == {"size": 3.0, "test/score": 0.5}


@pytest.mark.parametrize("by", [hydrasweep.report, lambda v, s: hydrasweep.trial().report(v, s)])
def test_steps_are_stored_from_1_on(current, by):
    study = optuna.create_study()
    for first in (0, 1, 5):
        trial = current(study)
        for step in range(first, first + 3):
            by(0.5, step)
        frozen = study.trials[trial.number]
        assert list(frozen.intermediate_values) == list(range(max(1, first), max(1, first) + 3))
        assert n_steps(frozen) == max(1, first) + 2


def test_steps_are_counted_although_several_objectives_allow_no_reports(
    current,
):
    for first in (0, 1):
        study = optuna.create_study(directions=["minimize", "maximize"])
        current(study)
        assert [hydrasweep.report(0.5, step) for step in range(first, first + 3)] == [False] * 3
        assert n_steps(study.trials[0]) == 3


def test_trial_that_is_stopped_at_the_last_step_of_others_is_complete():
    study = optuna.create_study(pruner=StopsAt(3))

    def ended(n, value):
        trial = trial_of(study)
        for step in range(1, n + 1):
            trial.stops_at(0.5, step)
        return trial.is_pruned(value)

    assert ended(3, 0.5)  # no trial is complete yet
    whole = trial_of(study)
    for step in range(1, 5):
        whole.report(0.5, step)
    study.tell(whole, 0.5)
    assert ended(3, 0.5)
    assert not ended(2, 0.5)  # the pruner did not stop it
    assert not ended(4, 0.5)
    assert ended(4, None)


# In whole sweeps

HALVING = CONFIG.replace("sampler: random", "sampler: random\n  - override hydra/sweeper/pruner: "
                         "successive_halving")  # fmt: skip
EACH = "{x: -0.9}, {x: 0.9}, {x: -0.8}, {x: 0.8}"  # the lower the better


@pytest.mark.parametrize("first", [0, 1])
def test_steps_from_0_and_from_1_prune_equally(app, first):
    body = f"""
        for epoch in range({first}, {first} + 9):
            value = cfg.x + 0.01 * epoch
            if hydrasweep.report(value, epoch):
                break
        hydrasweep.record(n=epoch - {first} + 1)
        return value
    """
    done = app(body, HALVING)(f"hydra.sweeper.enqueue=[{EACH}]", code=0)
    assert [(row["state"], row["steps"], row["n"]) for row in done.table()] == [
        ("COMPLETE", "9", "9.0"),
        ("PRUNED", "1", "1.0"),
        ("PRUNED", "1", "1.0"),
        ("PRUNED", "1", "1.0"),
    ]
    assert "24 steps" in done.out


def test_trial_that_is_stopped_at_the_last_rung_is_complete(app):
    """Successive halving stops at its rungs, also at the last step of a whole trial."""
    body = """
        for epoch in range(1, 4):
            if hydrasweep.report(1.0 if epoch < 3 else cfg.x, epoch):
                hydrasweep.record(stopped=epoch)
                break
        return cfg.x
    """
    done = app(body, HALVING)(f"hydra.sweeper.enqueue=[{EACH}]", code=0)
    assert [(row["state"], row["steps"]) for row in done.table()] == [("COMPLETE", "3")] * 4
    assert [row["stopped"] for row in done.table()] == ["", "3.0", "3.0", "3.0"]
    assert [trial.value for trial in done.trials()] == [-0.9, 0.9, -0.8, 0.8]


def test_task_function_may_raise_trial_pruned(app):
    body = """
        hydrasweep.trial().report(cfg.x, 0)
        if cfg.x < 0:
            raise optuna.TrialPruned("too low")
        return cfg.x
    """
    done = app(body)("hydra.sweeper.max_failures=0", code=0)
    assert done.states() == ["COMPLETE", "PRUNED"] * 2
    for trial in done.trials():
        log = done.log(f"{trial.number:03d}") if trial.state == TrialState.PRUNED else ""
        assert "Traceback" not in log
        assert "rror" not in log
        assert trial.value == trial.params["x"]  # of a pruned one the last report


def test_trial_knows_its_sweep(app, tmp_path):
    body = """
        import json
        trial = hydrasweep.trial()
        assert isinstance(trial, optuna.Trial)
        facts = [trial.sweep, trial.phase, trial.stratum, trial.name, trial.parent_run_id]
        print(json.dumps([*facts, trial.number, trial.params]), file=open("facts", "a"))
        assert trial.params.get("x") == cfg.x
        assert os.path.isdir(f"sweep/{trial.name}")
        return cfg.x
    """
    more = "assert hydrasweep.trial().name is None"
    done = app(body, more=more)(
        "kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=2",
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1",
        "hydra.sweeper.enqueue=[{x: 0.5}]",
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "facts").read_text().splitlines()]
    assert sorted(lines, key=str) == sorted(
        [
            ["s", phase, kind, f"{kind}-{word}000", None, 0, {"x": 0.5} | seed]
            for kind in "ab"
            for phase, word, seed in (
                ("search", "", {}),
                ("confirm", "confirm-", {"seed": 1}),
                ("final", "final-", {"seed": 1}),
            )
        ],
        key=str,
    )
