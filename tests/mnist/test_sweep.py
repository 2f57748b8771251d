"""Sweeps of real trainings, as a person runs, stops and kills them."""

import contextlib
import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import torch
from application import Script, command_line, copy_store, environment
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.liveness import OWNER, is_dead
from hydrasweep.stratum import ERROR, FOLLOWS
from hydrasweep.studies import RUN
from hydrasweep.trials import FOLDER

MODELS = ("baseline", "cnn", "lenet5")
SWEEP = ("-m", "hparams_search=quick", "epochs=2", "hydra/sweeper/confirm=none")
TWO = "hydra.sweeper.n_workers=2"
ALONE = "hydra.sweeper.n_workers=1"  # in the sweep's own process, which saves imports
# The second trial of each architecture is far worse than the first.
GOOD = "{optimizer.lr: 0.01, model.dropout: 0.0, data.batch_size: 32}"
BAD = "{optimizer.lr: 0.0003, model.dropout: 0.5, data.batch_size: 256}"
WHOLE = (*SWEEP, ALONE, "study=whole", "hydra.sweeper.n_trials=7",
         f"hydra.sweeper.enqueue=[{GOOD},{BAD}]")  # fmt: skip


@dataclass
class Sweep:
    """A sweep's traces: what it printed, its folder, its studies, its MLflow runs."""

    root: Path
    name: str
    out: str = ""
    experiment: str = "hydrasweep"

    @property
    def folder(self) -> Path:
        return self.root / "outputs" / "sweeps" / self.name

    @property
    def storage(self) -> str | BaseStorage:
        return f"sqlite:///{self.folder / 'study.db'}"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def all_trials(self) -> dict[str, FrozenTrial]:
        """Every trial by its stratum and number, those that were killed included."""
        storage = self.storage
        names = optuna.get_all_study_names(storage)
        return {
            f"{name.rpartition('/')[2]}-{trial.number:03d}": trial
            for name in names
            for trial in optuna.load_study(study_name=name, storage=storage).trials
        }

    def trials(self) -> dict[str, FrozenTrial]:
        """Those that count by their folders' names: all but those that others go on with."""
        trials = self.all_trials()
        kept = trials.keys() - lost(trials)
        return {trials[label].user_attrs.get(FOLDER, label): trials[label] for label in kept}

    def ended(self) -> dict[str, FrozenTrial]:
        return {k: t for k, t in self.trials().items() if t.state.is_finished()}

    def folders(self) -> list[str]:
        return sorted(path.parent.name for path in self.folder.glob("*/.hydra"))

    def table(self) -> list[dict[str, str]]:
        with (self.folder / "trials.csv").open() as file:
            return list(csv.DictReader(file))

    def runs(self) -> tuple[list[Run], list[Run]]:
        """The parents and the children in MLflow."""
        client = MlflowClient(self.store)
        experiment = client.get_experiment_by_name(self.experiment)
        runs = list(client.search_runs([experiment.experiment_id])) if experiment else []
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        return [run for run in runs if run not in children], children

    def parent(self) -> Run:
        (parent,) = self.runs()[0]
        return parent

    def run_id(self) -> str:
        """The parent's id, which one of the studies keeps."""
        names = optuna.get_all_study_names(self.storage)
        studies = [optuna.load_study(study_name=name, storage=self.storage) for name in names]
        (run_id,) = (s.user_attrs[RUN] for s in studies if RUN in s.user_attrs)
        return str(run_id)


def lost(trials: dict[str, FrozenTrial]) -> set[str]:
    """The labels of those that others try again or go on with."""
    attrs = [(label, trial.user_attrs) for label, trial in trials.items()]
    again = [(label, each[key]) for label, each in attrs for key in FOLLOWS if key in each]
    return {f"{label.rpartition('-')[0]}-{number:03d}" for label, number in again}


def name_of(run: Run) -> str:
    return str(run.info.run_name)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Sweep:
    """One whole sweep, for all who only look at it."""
    root = tmp_path_factory.mktemp("sweep")
    copy_store(empty_store, root)
    done = subprocess.run(
        command_line("train.py", *WHOLE),
        env=environment(root),
        cwd=root,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return Sweep(root, "whole", done.stdout)


def test_sweep_has_its_trials_with_equal_shares_and_a_folder_each(sweep: Sweep) -> None:
    trials = sweep.trials()
    shares = [sum(label.startswith(model) for label in trials) for model in MODELS]
    assert shares == [3, 2, 2]
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials.values())
    assert sweep.folders() == sorted(trials)


def test_worse_trials_are_pruned_after_an_epoch(sweep: Sweep) -> None:
    trials = sweep.trials()
    for model in MODELS:
        good, bad = (trials[f"{model}-{number:03d}"] for number in range(2))
        assert (good.state, good.last_step) == (TrialState.COMPLETE, 2)
        assert (bad.state, bad.last_step) == (TrialState.PRUNED, 1)


def test_promoted_trial_ends_with_the_bits_of_one_that_never_paused(
    sweep: Sweep, script: Script, tmp_path: Path
) -> None:
    promoted = [name for name, trial in sweep.trials().items() if FOLDER in trial.user_attrs]
    assert len(promoted) >= len(MODELS)
    name = next(name for name in promoted if name.startswith("lenet5"))
    overrides = OmegaConf.load(sweep.folder / name / ".hydra" / "overrides.yaml")
    skipped = ("study=", "hparams_search=")
    words = [word for word in map(str, overrides) if not word.startswith(skipped)]
    own = ("epochs=2", "score_test=false", "artifacts=false", "data.n_train=600", "data.n_val=200")
    done = script("train.py", *own, *words, f"hydra.run.dir={tmp_path / 'alone'}")
    assert done.returncode == 0, done.stderr

    def numbers(folder: Path) -> list[dict[str, float]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [
            {k: v for k, v in json.loads(line).items() if not k.startswith("time/")}
            for line in lines
        ]

    assert numbers(sweep.folder / name) == numbers(tmp_path / "alone")
    weights = [
        torch.load(folder / "last.pt", weights_only=True)["model"]
        for folder in (sweep.folder / name, tmp_path / "alone")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_value_is_what_the_last_epoch_recorded(sweep: Sweep) -> None:
    for label, trial in sweep.trials().items():
        lines = (sweep.folder / label / "metrics.jsonl").read_text().splitlines()
        history = [json.loads(line) for line in lines]
        assert [line["step"] for line in history] == list(trial.intermediate_values)
        assert trial.value == history[-1]["val/accuracy"]


def test_table_and_results_agree_with_the_study(sweep: Sweep) -> None:
    trials = sweep.trials()
    table = {f"{row['model']}-{int(row['number']):03d}": row for row in sweep.table()}
    always = "number state value steps duration_s"
    searched, recorded = (
        "optimizer.lr model.dropout data.batch_size",
        "n_parameters time/train_seconds",
    )
    head = list(next(iter(table.values())))
    assert head == [*always.split(), "model", *searched.split(), *recorded.split()]
    assert table.keys() == trials.keys()
    for label, row in table.items():
        assert row["state"] == trials[label].state.name
        assert float(row["value"]) == trials[label].value
        assert float(row["optimizer.lr"]) == trials[label].params["optimizer.lr"]
    results = OmegaConf.load(sweep.folder / "results.yaml")
    for model in MODELS:
        (best,) = results.best[model]
        values = [
            trial.value
            for label, trial in trials.items()
            if label.startswith(model) and trial.state == TrialState.COMPLETE
        ]
        assert best["values"] == [max(values)]  # type: ignore[type-var]
        assert trials[best.folder].value == max(values)  # type: ignore[type-var]


def test_mlflow_has_one_parent_with_a_child_for_each_trial(sweep: Sweep) -> None:
    parent, (_, children) = sweep.parent(), sweep.runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.params["n_trials"] == "7"
    assert {"best.baseline", "best.cnn", "best.lenet5"} <= parent.data.tags.keys()
    assert {f"best/{model}" for model in MODELS} <= parent.data.metrics.keys()
    assert parent.info.run_name == "sweep whole"
    assert sweep.run_id() == parent.info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(map(name_of, children)) == sorted(sweep.trials())
    # The same columns for all architectures.
    assert len({frozenset(run.data.params) for run in children}) == 1
    searched = {"model.dropout", "optimizer.lr", "data.batch_size"}
    assert searched <= children[0].data.params.keys()


def test_mlflow_says_how_each_trial_ended(sweep: Sweep) -> None:
    trials, client = sweep.trials(), MlflowClient(sweep.store)
    for run in sweep.runs()[1]:
        tags, trial = run.data.tags, trials[name_of(run)]
        model = name_of(run).partition("-")[0]
        named = [tags[key] for key in ("study", "phase", "stratum", "trial")]
        assert named == ["whole", "search", model, name_of(run)]
        assert tags["architecture"] == model
        assert float(run.data.params["optimizer.lr"]) == trial.params["optimizer.lr"]
        is_pruned = trial.state == TrialState.PRUNED
        assert run.info.status == "FINISHED"
        assert tags.get("state") == ("PRUNED" if is_pruned else None)
        history = client.get_metric_history(run.info.run_id, "val/accuracy")
        assert {point.step: point.value for point in history} == trial.intermediate_values


def test_nothing_of_the_test_images_is_anywhere(sweep: Sweep) -> None:
    parents, children = sweep.runs()
    for run in parents + children:
        assert not [name for name in run.data.metrics if name.startswith("test")]
    for path in sweep.folder.rglob("*"):
        if path.is_file() and path.suffix in (".jsonl", ".csv", ".log"):
            assert "test/" not in path.read_text(), path
    assert "test/" not in sweep.out


def test_trials_write_to_their_own_logs_and_the_sweep_to_the_screen(sweep: Sweep) -> None:
    assert "epoch " not in sweep.out
    for label, trial in sweep.trials().items():
        log = (sweep.folder / label / "train.log").read_text()
        assert log.count("val ") >= trial.last_step  # type: ignore[operator]
        assert len(re.findall(rf"^.*{label} {trial.state.name} ", sweep.out, re.MULTILINE)) == 1
        assert "Traceback" not in log
        assert "rror" not in log


def test_end_names_the_best_and_links_to_the_sweeps_charts(sweep: Sweep) -> None:
    end = sweep.out.partition("best trial")[2]
    for model in MODELS:
        assert f" {model}-0" in end
    (shown,) = re.findall(r"^MLflow +(\S+),", end, re.MULTILINE)
    assert sweep.root / shown == sweep.folder / "mlflow.html"
    link = unescape((sweep.folder / "mlflow.html").read_text())
    assert "compareRunsMode=CHART" in link
    assert "tags.study%20%3D%20%27whole%27" in link
    assert "study" not in sweep.parent().data.tags


def test_finished_sweep_says_so_and_does_nothing(sweep: Sweep, tmp_path: Path) -> None:
    before, table = sweep.all_trials(), (sweep.folder / "trials.csv").read_text()
    done = subprocess.run(
        command_line("train.py", *WHOLE),
        env=environment(sweep.root),
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Study whole is finished: 7 trials" in done.stdout
    assert sweep.all_trials() == before
    assert (sweep.folder / "trials.csv").read_text() == table
    assert len(sweep.runs()[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective=val/acc", "objective=val/acc: must be of train/loss, "),
        ("hydra.sweeper.direction=minimize", "minimize: must be maximize for objective=val/acc"),
        ("optimizer.lr=tag(log,interval(-1,1))", "optimizer.lr=tag(log,interval(-1,1)): can't be"),
        ("optimizer.lr=interval(-1,1)", "Invalid learning rate: -1.0"),
        ("model.droput=interval(0,0.5)", "droput"),
        ("data.batch_size=choice(64,0)", "data.batch_size=0: must be"),
        ("model=choice(lenet5,lenet6)", "lenet6"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(
    script: Script, root: Path, override: str, words: str
) -> None:
    done = script("train.py", *SWEEP, "study=wrong", override)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(root.rglob("study.db"))
    assert Sweep(root, "wrong").runs() == ([], [])


def test_dry_run_shows_a_plan_and_an_estimate_and_trains_nothing(
    script: Script, root: Path
) -> None:
    space = "optimizer.lr=tag(log, interval(1e-4, 3e-2))"
    done = script("train.py", *SWEEP, space, "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "optimizer.lr: 0.0001 to 0.03, logarithmic" in done.stdout
    assert "data.batch_size: one of 32, 64, 128, 256" in done.stdout
    assert "baseline, cnn, lenet5" in done.stdout
    each = ", ".join(rf"{model} [\d.]+ s" for model in ("baseline", "cnn", "lenet5"))
    shown = rf"a whole trial: {each}; all .*: [\d.]+ (s|min), pausing [\d.]+ (s|min)\n"
    assert re.search(shown, done.stdout)
    assert not list(root.rglob("study.db"))
    assert Sweep(root, "").runs() == ([], [])


@pytest.mark.slow
def test_trial_that_raises_fails_alone_with_its_traceback(script: Script, root: Path) -> None:
    enqueue = "hydra.sweeper.enqueue=[{optimizer: sgd, optimizer.lr: 1e30, model: baseline}]"
    done = script(
        "train.py", *SWEEP, ALONE, "study=bad", "hydra.sweeper.n_trials=3", enqueue,
        "hydra.sweeper.check=null", "optimizer=choice(sgd,adam)",
        "optimizer.lr=tag(log,interval(1e-3,1e30))",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout
    sweep = Sweep(root, "bad")
    failed = sweep.trials()["baseline-000"]
    assert failed.state == TrialState.FAIL
    assert "NonFiniteLossError" in failed.user_attrs[ERROR]
    (run,) = (run for run in sweep.runs()[1] if name_of(run) == "baseline-000")
    assert run.info.status == "FAILED"
    assert "NonFiniteLossError" in (sweep.folder / "baseline-000" / "traceback.txt").read_text()
    assert len(sweep.trials()) == 3


@pytest.mark.slow
def test_one_joint_study_without_strata(script: Script, root: Path) -> None:
    done = script(
        "train.py",
        *SWEEP,
        ALONE,
        "study=joint",
        "hydra.sweeper.stratify=null",
        "hydra.sweeper.n_trials=4",
    )
    assert done.returncode == 0, done.stderr
    sweep = Sweep(root, "joint")
    rows = sweep.table()
    assert len(rows) == 4
    assert optuna.get_all_study_names(sweep.storage) == ["joint"]
    assert all(trial.params["model"] in MODELS for trial in sweep.trials().values())
    assert sweep.folders() == sorted(f"{int(row['number']):03d}" for row in rows)
    assert {row["model"] for row in rows} <= set(MODELS)


def start(root: Path, *arguments: str, output: Path) -> "subprocess.Popen[str]":
    with output.open("a") as file:
        return subprocess.Popen(
            command_line("train.py", *SWEEP, TWO, *arguments),
            cwd=root,
            env=environment(root),
            text=True,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children()
        return [child for child in children if "loky" in " ".join(child.cmdline())]
    return []


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.2)


def assert_kept(before: dict[str, FrozenTrial], after: dict[str, FrozenTrial]) -> None:
    """Nothing that had ended has changed, but that paused trials may have gone on."""
    for label, trial in before.items():
        if trial.state == TrialState.PRUNED:
            assert after[label].params == trial.params
            assert trial.intermediate_values.items() <= after[label].intermediate_values.items()
        else:
            assert after[label] == trial


def assert_whole(sweep: Sweep, n_trials: int) -> None:
    """Exactly so many finished trials; the stores, the folders and the files agree."""
    everything, trials = sweep.all_trials(), sweep.trials()
    states = {trial.state for trial in everything.values()}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert len(trials) == n_trials
    assert {trial.state for trial in trials.values()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    parents, children = sweep.runs()
    assert len(parents) == 1
    assert "RUNNING" not in {run.info.status for run in parents + children}
    names = [name_of(run) for run in children]
    assert len(set(names)) == len(names)
    assert set(trials) <= set(sweep.folders()) <= set(everything)
    for label in sweep.folders():
        history = sweep.folder / label / "metrics.jsonl"
        lines = history.read_text().splitlines() if history.exists() else []
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == list(range(1, len(steps) + 1)), label
        if label in trials:
            assert steps == list(trials[label].intermediate_values)
    rows = {f"{row['model']}-{int(row['number']):03d}" for row in sweep.table()}
    assert rows == set(trials)
    assert len(sweep.table()) == n_trials
    results = OmegaConf.load(sweep.folder / "results.yaml")
    for model in MODELS:
        values = [
            trial.value
            for label, trial in trials.items()
            if label.startswith(model) and trial.state == TrialState.COMPLETE
        ]
        (best,) = results.best[model]
        assert best["values"] == [max(values)]  # type: ignore[type-var]


@pytest.mark.slow
def test_ctrl_c_stops_and_prints_the_command_that_resumes(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    process = start(root, "study=stopped", "hydra.sweeper.n_trials=6", output=output)
    wait_until(lambda: re.search("COMPLETE|PRUNED", output.read_text()), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=15) == 130
    sweep = Sweep(root, "stopped")
    finished = sweep.ended()
    assert 0 < len(finished) < 6
    assert {row["state"] for row in sweep.table()} <= {"COMPLETE", "PRUNED", "RUNNING"}
    shown = output.read_text()
    assert "Traceback" not in shown
    words = shlex.split(shown.partition("To resume: ")[2])
    assert words[0] == "python"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_sweep_that_is_killed_again_and_again_comes_to_its_end(
    root: Path, tmp_path: Path, script: Script, seed: int
) -> None:
    moments = random.Random(seed)
    output, sweep = tmp_path / "output.txt", Sweep(root, "killed")
    arguments = ("study=killed", "hydra.sweeper.n_trials=9", "epochs=3", "data.n_train=4800")
    finished: dict[str, FrozenTrial] = {}

    def is_running() -> bool:
        if not (sweep.folder / "trials.csv").exists():
            return False  # opening a study while it is made would make it a second time
        running = [t for t in sweep.trials().values() if t.state == TrialState.RUNNING]
        return any(OWNER in t.user_attrs and not is_dead(t.user_attrs[OWNER]) for t in running)

    for n in range(2):  # three losses in all: settings that are lost a fourth time fail
        process = start(root, *arguments, output=output)
        if n:
            wait_until(is_running, process)
            time.sleep(moments.uniform(0, 1))
        else:  # at any moment, from the very start
            time.sleep(moments.uniform(0, 15))
        if n == seed and (workers := workers_of(process)):
            moments.choice(workers).kill()
            time.sleep(moments.uniform(0, 8))
        with contextlib.suppress(ProcessLookupError):  # it had come to its end
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = {}
        if (sweep.folder / "trials.csv").exists():
            now = sweep.ended()
        assert_kept(finished, now)
        finished = now
    assert "Traceback" not in output.read_text()
    done = script("train.py", *SWEEP, TWO, *arguments)
    assert done.returncode == 0, done.stderr
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 9)
    everything, trials = sweep.all_trials(), sweep.trials()
    assert lost(everything)
    for label in lost(everything):  # it was tried again
        assert output.read_text().count(f"{label} lost") <= 1
        again = [t for k, t in trials.items() if k[:3] == label[:3]]
        assert any(everything[label].params.items() <= t.params.items() for t in again)
