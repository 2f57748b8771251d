"""What a sweep is said to be, how it is said to have ended, and how it resumes."""

import json
import re
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep import output
from hydrasweep.plan import Plan
from hydrasweep.space import Space
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.winners import Score, Winner

# How it resumes


def named(study_name: str | None, folder: str, **keys: Any) -> DictConfig:
    hydra = {"sweeper": {"study_name": study_name}, "sweep": {"dir": folder}}
    return OmegaConf.create({"hydra": hydra, **keys})


@pytest.mark.parametrize(
    ("config", "added"),
    [
        (named("s", "/sweeps/x"), ["hydra.sweeper.study_name=s", "hydra.sweep.dir=/sweeps/x"]),
        (named(None, "/sweeps/x"), ["hydra.sweeper.study_name=s", "hydra.sweep.dir=/sweeps/x"]),
        (named("${name}", "/sweeps/s", name="s"), ["name=s"]),
        (named("${a.name}", "/sweeps/s", a={"name": "s"}), ["a.name=s"]),
        (named("${name}", "/sweeps/x", name="s"), ["name=s", "hydra.sweep.dir=/sweeps/x"]),
        (
            named("${a}-${b}", "/x", a="s", b="t"),
            ["hydra.sweeper.study_name=s", "hydra.sweep.dir=/x"],
        ),
    ],
)
def test_command_resumes_by_what_names_the_study_and_its_folder(
    monkeypatch: pytest.MonkeyPatch, config: DictConfig, added: list[str]
) -> None:
    words = ["app.py", "-m", "x=interval(0, 1)", "name=old", "hydra.sweeper.study_name=old"]
    monkeypatch.setattr(sys, "argv", words)
    command = shlex.split(output.resume_command(config, "s"))
    assert command[:4] == ["python", "app.py", "-m", "x=interval(0, 1)"]
    assert command[-len(added) :] == added
    assert set(command) - set(added) - {"python"} <= set(words)
    names = [word.partition("=")[0] for word in command]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("folder", ["/a b/c", "/a,b/(c)", "/a=b/{c}", "/it's", "/ünï/[1]"])
def test_folder_of_any_name_is_found_again(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "-m"])
    *_, word = shlex.split(output.resume_command(named("s", folder), "s"))
    (override,) = OverridesParser.create().parse_overrides([word])
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == folder


# What it is said to be

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "n": IntDistribution(2, 8, step=2),
    "opt": CategoricalDistribution(["sgd", "[relu,/x]"]),
}


def plan(**settings: Any) -> tuple[Plan, DictConfig]:
    chosen = OmegaConf.create(
        {
            "direction": "maximize",
            "objective": "val/score",
            "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 1},
            "pruner": {"_target_": "optuna.pruners.MedianPruner"},
            "confirm": {"top": 0},
            "check": None,
            "resumable": False,
            "max_steps": None,
            "leave_out": [],
            **settings,
        }
    )
    space = Space(SPACE, ["epochs=3"], "model", ["cnn", "mlp"])
    storage = OmegaConf.create({"url": "sqlite:////sweeps/study.db"})
    return Plan("s", chosen, space, storage, {}), chosen


CONFIG = OmegaConf.create(
    {
        "hydra": {
            "launcher": {"_target_": "hydra_plugins.hydra_joblib_launcher.JoblibLauncher"},
            "sweep": {"dir": "/sweeps"},
        }
    }
)


def test_plan_tells_what_is_tried_and_how_long_that_takes() -> None:
    again = {"top": 2, "n_seeds": 3, "seed": "seed"}
    made, _ = plan(confirm=again, check="app.check", leave_out=["wd", "model.dropout"])
    told = output.describe(made, CONFIG, 20, 2, {"cnn": 90.0, "mlp": 30.0})
    assert told.splitlines() == [
        "Study s: 20 trials, 2 workers (joblib), TPESampler, pruner MedianPruner",
        "  maximize val/score",
        "  lr: 0.0001 to 0.1, logarithmic",
        "  n: 2 to 8 in steps of 2",
        "  opt: one of sgd, [relu,/x]",
        "  left out: wd, model.dropout",
        "  model: cnn, mlp, with equal shares",
        "  storage: /sweeps/study.db",
        "  a whole trial: cnn 2 min, mlp 30 s; all of them unpruned: 10 min",
        "  then the best 2 of each race for 3 fresh seeds, and the winners get the final settings: "
        "12 to 18 trainings",
        "  in all about 16 min to 19 min",
        "  checked: every corner of the space composes, and app.check has tried it",
    ]
    made, _ = plan(pruner=None, direction=["minimize", "maximize"])
    told = output.describe(made, CONFIG, 20, 2, {"cnn": 0.0, "mlp": 0.0})
    assert "pruner none" in told
    made = replace(made, storage=OmegaConf.create({"url": "sqlite:////elsewhere/study.db"}))
    assert "  storage: sqlite database\n" in output.describe(made, CONFIG, 20, 2, {})
    assert "  minimize value 0, maximize value 1" in told
    assert "a whole trial" not in told
    assert "fresh seeds" not in told


def test_plan_tells_what_a_launcher_cannot_and_that_nothing_is_searched() -> None:
    config = OmegaConf.merge(
        CONFIG, {"hydra": {"launcher": {"_target_": "hydra._internal.BasicLauncher"}}}
    )
    made, _ = plan(n_workers=3)
    made = replace(made, space=Space.parse([], None))
    told = output.describe(made, config, 20, 1, {})
    assert "20 trials, 1 worker (basic, which has no more: hydra/launcher=joblib has 3), " in told
    assert "  nothing is searched: all trials have the same settings\n" in told


def test_plan_tells_how_much_a_pruner_that_pauses_saves() -> None:
    made, _ = plan(
        pruner={"_target_": "hydrasweep.pruners.PromotionPruner", "max_resource": 9},
        resumable=True,
        max_steps=9,
    )
    told = output.describe(made, CONFIG, 18, 1, {"cnn": 90.0, "mlp": 90.0})
    assert "  maximize val/score, after at most 9 steps" in told
    # Of nine trials each, nine have one step, three two more, one six more: 21 of 81.
    assert (
        "a whole trial: cnn 2 min, mlp 2 min; all of them unpruned: 27 min, pausing 7 min" in told
    )


def test_sweeps_run_has_the_space_as_parameters() -> None:
    made, chosen = plan()
    assert output.about(made, chosen, 20) == {
        "n_trials": 20,
        **{"space.lr": "0.0001 to 0.1, logarithmic", "space.n": "2 to 8 in steps of 2"},
        **{"space.opt": "one of sgd, [relu,/x]", "space.model": "cnn, mlp"},
        **{"sampler._target_": "optuna.samplers.TPESampler", "sampler.seed": 1},
        "pruner._target_": "optuna.pruners.MedianPruner",
    }


@pytest.mark.parametrize(
    ("known", "now", "told"),
    [
        ({"_target_": "a.B", "n": "1"}, {"_target_": "a.B", "n": "1"}, ""),
        ({"_target_": "a.B", "n": "1"}, {"_target_": "a.C", "m": "2"}, "B before, now C"),
        ({"_target_": "a.B"}, {}, "B before, now none"),
        (
            {"_target_": "a.B", "n": "1", "k": "0"},
            {"_target_": "a.B", "n": "2", "m": "2", "k": "0"},
            "m=None before, now 2; n=1 before, now 2",
        ),
    ],
)
def test_changes_are_the_class_or_its_settings(
    known: dict[str, str], now: dict[str, str], told: str
) -> None:
    assert output.changes(known, now) == told


# How it ended


def ended(value: float, steps: int, state: str = "COMPLETE", opt: str = "sgd") -> FrozenTrial:
    return create_trial(
        state=TrialState[state],
        value=value,
        params={"lr": 0.0123456, "n": 4, "opt": opt},
        distributions=SPACE,
        intermediate_values=dict.fromkeys(range(1, steps + 1), value),
    )


@pytest.fixture
def search() -> Studies:
    storage = optuna.storages.InMemoryStorage()
    strata = []
    for value in ("cnn", "mlp"):
        study = optuna.create_study(study_name=value, storage=storage, direction="maximize")
        strata.append(Stratum(value, study))
    strata[0].study.add_trials(
        [ended(0.5, 9), ended(0.75, 9, opt="[relu,/x]"), ended(0.9, 1, "PRUNED")]
    )
    return Studies("s", strata, nullcontext())


def winner(**numbers: float) -> Winner:
    distributions = {"seed": IntDistribution(0, 9)}
    final = create_trial(
        value=0.5, params={"seed": 1}, distributions=distributions, user_attrs=numbers
    )
    params = {"lr": 0.0123456, "opt": "[relu,/x]"}
    found = ended(0.9, 1, "PRUNED")
    found.number = 2
    return Winner("cnn", params, found, Score([0.25, 0.5]), n_failed=1, final=[final])


def test_end_tells_the_best_what_was_saved_and_who_won(search: Studies, tmp_path: Path) -> None:
    won = winner(**{"test/score": 0.625})
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "overall.yaml").write_text("# python app.py +best=overall\nx: 1\n")
    (tmp_path / "mlflow.html").touch()
    told = output.summary(search, [won], tmp_path, "sqlite:///mlflow.db")
    best, _, rest = told.partition("Trials: ")
    assert best.split() == [
        *("best", "trial", "value", "steps", "lr", "n", "opt"),
        *["─" * len(best.splitlines()[2].strip())],
        *("cnn-001", "0.7500", "9", "0.0123", "4", "[relu,/x]"),
    ]
    assert "2 COMPLETE, 1 PRUNED" in rest
    assert "Pruning saved 8 steps" in rest
    assert "0.3750 ± 0.1768 (n=2)" in rest
    assert "0.9000 (pruned after step 1)" in rest
    assert "test/score" in rest
    assert "0.6250" in rest
    assert "cnn failed on 1 seeds" in rest
    assert rest.splitlines()[-3:] == [
        f"Results       {tmp_path}",
        f"MLflow        {tmp_path}/mlflow.html, while this runs: "
        "mlflow ui --backend-store-uri sqlite:///mlflow.db",
        "Winner again  python app.py +best=overall",
    ]
    told = output.summary(search, [won], tmp_path, "http://mlflow.example.org")
    assert f"\nMLflow        {tmp_path}/mlflow.html\n" in told


def test_page_leads_to_an_address_with_any_letters() -> None:
    address = "http://h/#/runs?filter='a' AND \"b\"&x=<1>"
    (url,) = re.findall(r"url=(.*?)\">", output.redirect(address))
    assert unescape(url) == address


def test_sweeps_run_ends_with_counts_the_best_and_the_winners(search: Studies) -> None:
    metrics, tags = output.outcome(search, [winner(size=7.0)])
    assert metrics == {
        **{"trials/complete": 2, "trials/pruned": 1, "trials/fail": 0},
        **{"confirm/cnn": 0.375, "size/cnn": 7.0},
    }
    assert tags["best.cnn"].startswith("#1 [0.75] {")
    assert "best.mlp" not in tags
    head, line, row = tags["mlflow.note.content"].splitlines()
    assert head == "|  | confirmed | in the search | size | lr | opt |"
    assert line == "|" + " --- |" * 6
    assert row.startswith("| cnn | 0.3750 ± 0.1768 (n=2) | 0.9000 (pruned after step 1) | 7.0000 ")
    assert json.loads(tags["winner.cnn"])["search"] == {"number": 2, "value": 0.9, "steps": 1}


def test_environment_tells_versions_and_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "-m", "x=interval(0, 1)"])
    told = output.environment()
    assert told["command"] == "python app.py -m 'x=interval(0, 1)'"
    assert {"cpu", "cores", "platform", "python", "hydrasweep", "hydra-core", "optuna"} < set(told)
    assert all(isinstance(value, str) and value for value in told.values())
