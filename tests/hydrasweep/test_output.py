"""The plan before a sweep, its summary after it, and the command that resumes it."""

import json
import re
import shlex
import sys
from html import unescape

import planted
import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hydrasweep import output
from hydrasweep.plan import Plan
from hydrasweep.space import Space
from hydrasweep.winners import Score, Winner

SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "n": IntDistribution(2, 8, step=2),
    "opt": CategoricalDistribution(["sgd", "[relu,/x]"]),
}

# The command that resumes a sweep


def named(study_name, folder, **keys):
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
def test_resume_command_names_the_study_and_its_folder(monkeypatch, config, added):
    words = ["app.py", "-m", "x=interval(0, 1)", "name=old", "hydra.sweeper.study_name=old"]
    monkeypatch.setattr(sys, "argv", words)
    command = shlex.split(output.resume_command(config, "s"))
    assert command[:4] == ["python", "app.py", "-m", "x=interval(0, 1)"]
    assert command[-len(added) :] == added
    assert set(command) - set(added) - {"python"} <= set(words)
    names = [word.partition("=")[0] for word in command]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("folder", ["/a b/c", "/a,b/(c)", "/a=b/{c}", "/it's", "/ünï/[1]"])
def test_resume_command_quotes_the_folder(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["app.py", "-m"])
    *_, word = shlex.split(output.resume_command(named("s", folder), "s"))
    (override,) = OverridesParser.create().parse_overrides([word])
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == folder


# The plan


def plan(*overrides, space=None):
    """The plan of a sweep over two models, and the config."""
    with initialize_config_module("hydrasweep.conf"):
        config = compose(
            overrides=[
                *("hydra/sweeper=hydrasweep", "hydra/launcher=joblib", "hydra.sweep.dir=/sweeps"),
                *("hydra.sweeper.direction=maximize", "hydra.sweeper.objective=val/score"),
                *("hydra.sweeper.sampler.seed=1", "hydra/sweeper/pruner=median", *overrides),
            ],
            return_hydra_config=True,
        )
    space = space or Space(SPACE, ["epochs=3"], "model", ["cnn", "mlp"])
    storage = OmegaConf.create({"url": "sqlite:////sweeps/study.db"})
    return Plan("s", config.hydra.sweeper, space, storage, {}), config


def test_plan_shows_the_space_and_how_long_the_sweep_takes():
    made = plan("hydra/sweeper/confirm=fresh_seeds", "hydra.sweeper.check=app.check",
                "hydra.sweeper.leave_out=[wd,model.dropout]")  # fmt: skip
    text = output.describe(*made, 20, 2, {"cnn": 90.0, "mlp": 30.0})
    for pattern in (
        r"\bs\b.*\b20 trials.*\b2 workers.*joblib.*TPESampler.*MedianPruner",
        "maximize val/score",
        r"lr: 0\.0001 to 0\.1, log",
        "n: 2 to 8 .*2",
        r"opt: .*sgd, \[relu,/x\]",
        "wd, model.dropout",
        "model: cnn, mlp",
        "/sweeps/study.db",
        r"cnn 2 min, mlp 30 s\b.*\b10 min",
        r"\b2\b.*\b3\b.*\b12\b.*\b18\b",  # the best 2, 3 seeds, 12 to 18 trainings
        r"\b16 min\b.*\b19 min",
        r"app\.check",
    ):
        assert re.search(pattern, text), pattern
    assert len(text.splitlines()) == 12


def test_plan_leaves_out_what_the_sweep_does_not_have():
    made, config = plan("hydra.sweeper.direction=[minimize,maximize]", "hydra/sweeper/pruner=none",
                        "hydra.sweep.dir=/elsewhere")  # fmt: skip
    text = output.describe(made, config, 20, 2, {"cnn": 0.0, "mlp": 0.0})
    assert "minimize value 0, maximize value 1" in text
    assert not re.search(r"\d (s|min)\b", text)
    assert "seeds" not in text
    assert "sqlite" in text
    assert "/sweeps" not in text  # the address of a storage elsewhere may have a password


@pytest.mark.parametrize(
    ("words", "n_workers", "text"),
    [
        (["hydra/launcher=basic"], 3, "3 at once"),
        (["hydra/launcher=joblib"], 1, "1 worker (joblib)"),
        (["hydra/launcher=joblib", "hydra.sweeper.trials_per_worker=8"], 2, "2 workers (joblib) "
         "with 8 at once each"),
    ],
)  # fmt: skip
def test_plan_says_how_many_trials_run_at_once_and_that_nothing_is_searched(words, n_workers, text):
    made, config = plan(*words, space=Space.parse([], None))
    shown = output.describe(made, config, 20, n_workers, {})
    assert f"20 trials, {text}, " in shown
    assert len(shown.splitlines()) == 5


def test_plan_shows_how_much_a_pruner_that_pauses_saves():
    made, config = plan("hydra/sweeper/pruner=promotion", "hydra.sweeper.max_steps=9",
                        "hydra.sweeper.resumable=true")  # fmt: skip
    text = output.describe(made, config, 18, 1, {"cnn": 90.0, "mlp": 90.0})
    assert re.search(r"maximize val/score\b.*\b9 steps", text)
    # Of nine trials each, nine have one step, three two more, one six more: 21 of 81.
    assert re.search(r"cnn 2 min, mlp 2 min\b.*\b27 min\b.*\b7 min", text)


def test_run_of_the_sweep_has_the_space_as_parameters():
    made, config = plan()
    about = output.about(made, config.hydra.sweeper, 20)
    assert {k: v for k, v in about.items() if not k.startswith(("sampler.", "pruner."))} == {
        **{"n_trials": 20, "space.model": "cnn, mlp", "space.n": "2 to 8 in steps of 2"},
        **{"space.lr": "0.0001 to 0.1, logarithmic", "space.opt": "one of sgd, [relu,/x]"},
    }
    assert about["sampler._target_"] == "optuna.samplers.TPESampler"
    assert about["pruner._target_"] == "optuna.pruners.MedianPruner"
    assert about["sampler.seed"] == 1


@pytest.mark.parametrize(
    ("known", "now", "shown"),
    [
        ({"_target_": "a.B", "n": "1"}, {"_target_": "a.B", "n": "1"}, "^$"),
        ({"_target_": "a.B", "n": "1"}, {"_target_": "a.C", "m": "2"}, "^B .*C$"),
        ({"_target_": "a.B"}, {}, "^B .*none$"),
        (
            {"_target_": "a.B", "n": "1", "k": "0"},
            {"_target_": "a.B", "n": "2", "m": "2", "k": "0"},
            r"^m=None\b.*2\b.*n=1\b.*2$",
        ),
    ],
)
def test_changes_are_those_of_the_class_or_its_settings(known, now, shown):
    assert re.search(shown, output.changes(known, now))


# The summary


@pytest.fixture
def search():
    pruned = planted.trial(0.9, state=TrialState.PRUNED, reports=[0.9])
    params = {"lr": 0.0123456, "n": 4, "opt": "[relu,/x]"}
    cnn = [planted.trial(v, reports=[v] * 9, space=SPACE, **params) for v in (0.5, 0.75)]
    return planted.studies(cnn=[*cnn, pruned], mlp=[])


def winner(search, **numbers):
    """The pruned trial, which was confirmed on two seeds and failed on one."""
    final = create_trial(value=0.5, user_attrs=numbers)
    found = search.strata[0].study.trials[2]
    params = {"lr": 0.0123456, "opt": "[relu,/x]"}
    return Winner("cnn", params, found, Score([0.25, 0.5]), n_failed=1, final=[final])


def test_summary_has_the_best_trial_what_was_saved_and_the_winner(search, tmp_path):
    won = winner(search, **{"test/score": 0.625})
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "overall.yaml").write_text("# python app.py +best=overall\nx: 1\n")
    (tmp_path / "mlflow.html").touch()
    text = output.summary(search, [won], tmp_path, "sqlite:///mlflow.db")
    head, _, row, *rest = [line for line in text.splitlines() if line]
    assert head.split()[2:] == ["value", "steps", "lr", "n", "opt"]
    assert row.split() == ["cnn-001", "0.7500", "9", "0.0123", "4", "[relu,/x]"]
    shown = "\n".join(rest)
    for part in ("2 COMPLETE, 1 PRUNED", "0.3750 ± 0.1768 (n=2)", "test/score", "0.6250"):
        assert part in shown
    assert re.search(r"[Pp]run.*\b8 steps", shown)
    assert re.search(r"0\.9000 .*\b1\b", shown)  # the winner was pruned after one step
    assert re.search(r"cnn .*\b1 seed", shown)  # on which it failed
    for pointer in (tmp_path, f"{tmp_path}/mlflow.html.*mlflow ui --backend-store-uri "
                    "sqlite:///mlflow.db", r"python app\.py \+best=overall"):  # fmt: skip
        assert re.search(rf"^\w[\w ]+  {pointer}$", shown, re.MULTILINE)
    text = output.summary(search, [won], tmp_path, "http://mlflow.example.org")
    assert "mlflow.html" in text
    assert "mlflow ui" not in text


def test_summary_ends_the_output_of_a_sweep(finished):
    *_, results, report, again = finished.out.strip().splitlines()
    assert results.endswith(" sweep")
    assert report.endswith(" sweep/report.html")
    assert again.endswith(" python app.py --config-dir sweep +best@_global_=overall")


def test_redirect_keeps_every_letter_of_the_address():
    address = "http://h/#/runs?filter='a' AND \"b\"&x=<1>"
    (url,) = re.findall(r"url=(.*?)\">", output.redirect(address))
    assert unescape(url) == address


def test_run_of_the_sweep_ends_with_counts_best_trials_and_winners(search):
    metrics, tags = output.outcome(search, [winner(search, size=7.0)])
    assert metrics == {
        **{"trials/complete": 2, "trials/pruned": 1, "trials/fail": 0},
        **{"confirm/cnn": 0.375, "size/cnn": 7.0},
    }
    assert tags["best.cnn"].startswith("#1 [0.75] {")
    assert "best.mlp" not in tags
    head, line, row = tags["mlflow.note.content"].splitlines()
    assert head.endswith(" size | lr | opt |")
    assert line == "|" + " --- |" * 6
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["cnn", "0.3750 ± 0.1768 (n=2)"]
    assert cells[3:] == ["7.0000", "0.0123", "[relu,/x]"]
    assert json.loads(tags["winner.cnn"])["search"] == {"number": 2, "value": 0.9, "steps": 1}


def test_environment_has_the_command_versions_and_hardware(finished):
    kept = OmegaConf.load(finished.folder / "sweep" / "environment.yaml")
    command = shlex.split(kept.command)
    assert command[:4] == ["python", "app.py", "-m", "kind=choice(a,b)"]
    assert {"cpu", "cores", "platform", "python", "hydrasweep", "hydra-core", "optuna"} < set(kept)
    assert all(isinstance(value, str) and value for value in kept.values())
