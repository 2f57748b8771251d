"""The search of a sweep of real trainings. Most tests read the one sweep that all share."""

import re
import shutil
from html import unescape

import application
import pytest
import torch
from application import client_of, command_line, copy_store, environment
from omegaconf import OmegaConf
from optuna.trial import TrialState
from sweeps import ALONE, MODELS, SWEEP, UNCONFIRMED, WHOLE, Sweep, history

from hydrasweep.stratum import ERROR
from hydrasweep.trials import PHASES, SEARCH


def test_architectures_have_equal_shares_and_worse_trials_are_pruned(sweep):
    trials = sweep.trials()
    assert {name: (trial.state.name, trial.last_step) for name, trial in trials.items()} == {
        "baseline-000": ("COMPLETE", 2),
        "baseline-001": ("PRUNED", 1),
        "baseline-002": ("FAIL", None),
        "lenet5-000": ("COMPLETE", 2),
        "lenet5-001": ("PRUNED", 1),
    }
    assert sweep.folders() == trials.keys()


def test_trial_that_diverges_fails_alone_with_its_traceback(sweep):
    assert "NonFiniteLossError" in sweep.trials()["baseline-002"].user_attrs[ERROR]
    assert "NonFiniteLossError" in (sweep.folder / "baseline-002" / "traceback.txt").read_text()
    assert sweep.runs_in(SEARCH)["baseline-002"].info.status == "FAILED"
    assert "Traceback" not in sweep.out


def test_promoted_trial_equals_a_run_that_never_paused(sweep, script, tmp_path):
    name = "lenet5-000"
    assert len(sweep.all_trials()) > len(sweep.trials())  # promoted trials are continued
    overrides = OmegaConf.load(sweep.folder / name / ".hydra" / "overrides.yaml")
    skipped = ("study=", "hparams_search=")
    words = [word for word in map(str, overrides) if not word.startswith(skipped)]
    own = ("epochs=2", "score_test=false", "artifacts=false", "tracking=none")
    single = ("data.n_train=600", "data.n_val=200", f"hydra.run.dir={tmp_path / name}")
    done = script("train.py", *words, *own, *single)
    assert done.returncode == 0, done.stderr
    folders = (sweep.folder / name, tmp_path / name)
    lines = [
        [{k: v for k, v in epoch.items() if not k.startswith("time/")} for epoch in history(folder)]
        for folder in folders
    ]
    assert lines[0] == lines[1]
    weights = [torch.load(each / "last.pt", weights_only=True)["model"] for each in folders]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_files_agree_with_the_study(sweep):
    trials = sweep.trials()
    table = {f"{row['model']}-{int(row['number']):03d}": row for row in sweep.table()}
    assert list(sweep.table()[0]) == [
        *("number", "state", "value", "steps", "duration_s", "model"),
        *("optimizer.lr", "model.dropout", "data.batch_size"),
        *("n_parameters", "time/train_seconds"),
    ]
    assert table.keys() == trials.keys()
    for name, trial in trials.items():
        epochs = history(sweep.folder / name)
        assert [epoch["step"] for epoch in epochs] == list(trial.intermediate_values)
        assert table[name]["state"] == trial.state.name
        assert float(table[name]["optimizer.lr"]) == trial.params["optimizer.lr"]
        if epochs:
            assert trial.value == float(table[name]["value"]) == epochs[-1]["val/accuracy"]
    for model in MODELS:
        (best,) = sweep.results.best[model]
        assert best.folder == f"{model}-000"
        assert best["values"] == trials[best.folder].values


def test_mlflow_has_one_parent_run_with_a_child_for_each_trial(sweep):
    trials, children, (parents, _) = sweep.trials(), sweep.runs_in(SEARCH), sweep.runs()
    (parent,), client = parents, client_of(sweep.root)
    assert (parent.info.run_name, parent.info.status) == ("sweep whole", "FINISHED")
    assert parent.data.params["n_trials"] == "5"
    for model in MODELS:
        assert parent.data.metrics[f"best/{model}"] == trials[f"{model}-000"].value
        assert f"best.{model}" in parent.data.tags
    assert children.keys() == trials.keys()
    assert len(sweep.all_runs()) == 1 + 5 + 4  # final runs continue those of the confirmation
    assert len({frozenset(run.data.params) for run in children.values()}) == 1
    for name, run in children.items():
        tags, trial, model = run.data.tags, trials[name], name.partition("-")[0]
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        named = [tags[key] for key in ("study", "stratum", "trial", "architecture")]
        assert named == ["whole", model, name, model]
        for setting in ("optimizer.lr", "model.dropout", "data.batch_size"):
            assert float(run.data.params[setting]) == trial.params[setting]
        is_failed = trial.state == TrialState.FAIL
        assert run.info.status == ("FAILED" if is_failed else "FINISHED")
        assert (tags.get("state") == "PRUNED") == (trial.state == TrialState.PRUNED)
        points = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert {point.step: point.value for point in points} == trial.intermediate_values


def test_trials_write_to_their_own_logs_and_the_sweep_to_the_screen(sweep):
    assert not re.search(r"epoch +\d+/", sweep.out)
    for name, trial in sweep.trials().items():
        log = (sweep.folder / name / "train.log").read_text()
        assert log.count("val ") >= len(trial.intermediate_values)
        assert len(re.findall(rf"^.*{name} {trial.state.name} ", sweep.out, re.MULTILINE)) == 1
        assert ("rror" in log) == (trial.state == TrialState.FAIL)


def test_output_ends_with_the_best_trials_and_a_link_to_the_charts(sweep):
    end = sweep.out.partition("best trial")[2]
    for model in MODELS:
        assert f" {model}-000" in end
    (shown,) = re.findall(r"^MLflow +(\S+),", end, re.MULTILINE)
    assert sweep.root / shown == sweep.folder / "mlflow.html"
    link = unescape((sweep.folder / "mlflow.html").read_text())
    assert "compareRunsMode=CHART" in link
    assert "tags.study%20%3D%20%27whole%27" in link
    assert "study" not in sweep.runs()[0][0].data.tags


def test_finished_sweep_shows_its_winners_again_and_trains_nothing(sweep, root, tmp_path):
    copy = Sweep(root, "whole")
    shutil.copytree(sweep.folder, copy.folder, ignore=shutil.ignore_patterns("*.pt"))
    copy_store(sweep.root / "mlflow.db", root)
    words = command_line("train.py", *WHOLE)
    done = application.run(words, cwd=tmp_path, env=environment(root))
    assert done.returncode == 0, done.stderr
    for phase in PHASES:
        assert copy.trials(phase) == sweep.trials(phase)
    assert copy.table() == sweep.table()
    assert copy.results == sweep.results
    assert len(copy.all_runs()) == len(sweep.all_runs())
    score = sweep.results.winners["lenet5"].final["test/accuracy"]
    assert f"{score.mean:.4f} ± {score.sd:.4f}" in done.stdout


def test_dry_run_shows_the_plan_with_an_estimate_and_trains_nothing(script, root):
    space = "optimizer.lr=tag(log, interval(1e-4, 3e-2))"
    done = script("train.py", *UNCONFIRMED, space, "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert re.search(r"optimizer\.lr\b.* 0\.0001\b.* 0\.03\b", done.stdout)
    assert re.search(r"data\.batch_size\b.* 32, 64, 128, 256", done.stdout)
    assert re.search(r"model\b.* baseline, lenet5", done.stdout)
    duration = r"[\d.]+ (s|min)"
    assert re.search(rf"baseline {duration}, lenet5 {duration};.* {duration}", done.stdout)
    assert not list(root.rglob("study.db"))
    assert Sweep(root, "").all_runs() == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.lr=interval(-1,1)", "Invalid learning rate: -1.0"),
        ("model=choice(lenet5,lenet6)", "lenet6"),
        (
            r"hydra.sweeper.confirm.final=[score_test\=true,objective\=test/acc]",
            "objective=test/acc",
        ),
    ],
)
def test_sweep_that_cannot_work_is_refused_before_any_training(script, root, override, named):
    done = script("train.py", *SWEEP, ALONE, "study=wrong", override)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(root.rglob("study.db"))
    assert Sweep(root, "wrong").all_runs() == []
