"""The end of a sweep: the best on fresh seeds, the winners on the test images, once."""

import csv
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import mlflow
import optuna
import pytest
import torch
from application import REPOSITORY, Script, command_line, copy_store, environment
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.stratum import FOLLOWS, label
from hydrasweep.trials import CONFIRM, FINAL, PHASES, SEARCH
from mnist import config
from mnist.committee import load_members

MODELS = ("baseline", "lenet5")
SWEEP = ("-m", "hparams_search=quick", "model=choice(baseline,lenet5)", "epochs=2",
         "hydra.sweeper.n_trials=4", "study=whole")  # fmt: skip
ALONE = "hydra.sweeper.n_workers=1"


class Sweep:
    """What a confirmed sweep has left."""

    def __init__(self, root: Path, out: str = "") -> None:
        self.root, self.out = root, out
        self.folder = root / "outputs" / "sweeps" / "whole"

    @property
    def results(self) -> Any:
        return OmegaConf.load(self.folder / "results.yaml")

    def trials(self, phase: str, model: str) -> list[FrozenTrial]:
        base = "whole" if phase == SEARCH else f"whole@{phase}"
        storage = f"sqlite:///{self.folder / 'study.db'}"
        study = optuna.load_study(study_name=f"{base}/{model}", storage=storage)
        attrs = [trial.user_attrs for trial in study.trials]
        followed = {each[key] for each in attrs for key in FOLLOWS if key in each}
        return [trial for trial in study.trials if trial.number not in followed]

    def table(self) -> list[dict[str, str]]:
        with (self.folder / "confirmation.csv").open() as file:
            return list(csv.DictReader(file))

    def runs(self, phase: str) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("hydrasweep")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], f"tags.phase = '{phase}'"))

    def parent(self) -> Run:
        client = MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")
        return client.get_run(self.runs(SEARCH)[0].data.tags["mlflow.parentRunId"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Sweep:
    """One whole sweep, for all who only look at it."""
    root = tmp_path_factory.mktemp("confirmed")
    copy_store(empty_store, root)
    done = subprocess.run(
        command_line("train.py", *SWEEP, ALONE),
        env=environment(root),
        cwd=root,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return Sweep(root, done.stdout)


def test_the_best_are_trained_again_on_fresh_seeds_to_their_end(sweep: Sweep) -> None:
    for model in MODELS:
        complete = [t for t in sweep.trials(SEARCH, model) if t.state == TrialState.COMPLETE]
        best = max(complete, key=lambda trial: trial.values[0])
        for phase in (CONFIRM, FINAL):
            again = sweep.trials(phase, model)
            assert [trial.state for trial in again] == [TrialState.COMPLETE] * 2
            assert [trial.params for trial in again] == [best.params | {"seed": i} for i in (1, 2)]
            for trial in again:
                folder = sweep.folder / label(model, phase, trial)
                assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_is_reported_is_what_the_runs_measured(sweep: Sweep) -> None:
    parent = sweep.parent().data.metrics
    for model in MODELS:
        told = sweep.results.winners[model]
        test = told.final["test/accuracy"]
        runs = [run for run in sweep.runs(FINAL) if run.data.tags["stratum"] == model]
        tested = sorted(run.data.metrics["test/accuracy"] for run in runs)
        assert sorted(test["values"]) == tested
        assert test.mean == pytest.approx(statistics.fmean(tested))
        assert test.sd == pytest.approx(statistics.stdev(tested))
        assert told.confirm["values"] == [t.values[0] for t in sweep.trials(CONFIRM, model)]
        assert f"{told.confirm.mean:.4f} ± {told.confirm.sd:.4f} (n=2)" in sweep.out
        assert f"{test.mean:.4f} ± {test.sd:.4f}" in sweep.out
        assert parent[f"test/accuracy/{model}"] == pytest.approx(test.mean)
        assert parent[f"confirm/{model}"] == pytest.approx(told.confirm.mean)
        rows = [row for row in sweep.table() if row["model"] == model]
        measured = {phase: [r["test/accuracy"] for r in rows if r["phase"] == phase]
                    for phase in (CONFIRM, FINAL)}  # fmt: skip
        assert measured[CONFIRM] == ["", ""]
        assert sorted(map(float, measured[FINAL])) == tested


def test_only_final_runs_saw_the_test_images(sweep: Sweep) -> None:
    for phase in (SEARCH, CONFIRM):
        for run in sweep.runs(phase):
            assert not [name for name in run.data.metrics if name.startswith("test")]
    finals = {run.info.run_name: run for run in sweep.runs(FINAL)}
    # They look at what was trained for the confirmation.
    assert sorted(finals) == [f"{model}-confirm-00{i}" for model in MODELS for i in range(2)]
    for name, run in finals.items():
        assert run.data.params["data.n_val"] == "200"
        (trial,) = sweep.trials(FINAL, run.data.tags["stratum"])[int(name[-1]) :][:1]
        assert run.data.metrics["val/accuracy"] == trial.values[0]
        assert run.data.tags["mlflow.parentRunId"] == sweep.parent().info.run_id
        assert (sweep.folder / name / "pictures" / "confusion.png").exists()


@pytest.mark.parametrize("name", ["lenet5", pytest.param("overall", marks=pytest.mark.slow)])
def test_a_winners_recipe_gives_the_same_numbers_again(
    sweep: Sweep, tmp_path: Path, name: str
) -> None:
    recipe = sweep.folder / "best" / f"{name}.yaml"
    assert "study" not in OmegaConf.load(recipe)  # nor would it resume the sweep
    words = shlex.split(recipe.read_text().splitlines()[0].removeprefix("# "))
    assert words[:2] == ["python", str(REPOSITORY / "src" / "train.py")]
    best = max(MODELS, key=lambda model: sweep.results.winners[model].confirm.mean)
    model = best if name == "overall" else name
    (measured,) = (
        run.data.metrics["test/accuracy"]
        for run in sweep.runs(FINAL)
        if run.info.run_name == f"{model}-confirm-000"
    )
    aside = ("tracking=none", f"hydra.run.dir={tmp_path / 'again'}", "artifacts=false")
    done = subprocess.run(
        [sys.executable, *words[1:], *aside],
        env=environment(sweep.root),
        cwd=sweep.root,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"test accuracy {measured:.2%} " in " ".join(done.stdout.split())


def test_a_recipe_is_a_base_for_what_is_searched_next(sweep: Sweep) -> None:
    recipe = OmegaConf.load(sweep.folder / "best" / "lenet5.yaml")
    assert recipe.optimizer.keys() == {"lr"}  # the rest is the app's own
    done = subprocess.run(
        command_line(
            "train.py", "--config-dir", str(sweep.folder), "+best@_global_=lenet5", "--cfg", "job",
            "model=baseline", "optimizer.lr=0.5",
        ),
        env=environment(sweep.root),
        text=True,
        capture_output=True,
        check=True,
    )  # fmt: skip
    composed = OmegaConf.create(done.stdout)
    assert composed.model._target_ == "mnist.models.Baseline"
    assert composed.optimizer.lr == 0.5
    assert composed.epochs == recipe.epochs


def test_winners_vote_by_their_mean_probabilities(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "src" / "committee.py"), str(sweep.folder)],
        env=environment(sweep.root),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    scores = {name: float(score) for score, name in re.findall(r"val +(.*)%  (.*)", done.stdout)}
    assert len(scores) == 3
    voted = re.compile(r"test +(.*)%  committee of (\d): (.*) \(")
    ((test, n_voters, chosen),) = voted.findall(done.stdout)
    assert scores[chosen] == max(scores.values())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{sweep.root / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/mnist-committee@champion")
    voters = [
        path.parent
        for name in chosen.split(" + ")
        for path in sorted(sweep.folder.glob(f"{name}-confirm-*/model.pt"))
    ]
    members, data = load_members(voters)
    images, labels = config.build(data).test()
    with torch.inference_mode():
        votes = [member.model(images).softmax(1) for member in members]
    mean = torch.stack(votes).mean(0)
    assert f"{(mean.argmax(1) == labels).float().mean():.2%}" == f"{test}%"
    given = torch.tensor(model.predict(images[:50].numpy())).exp()
    torch.testing.assert_close(given, mean[:50], rtol=1e-3, atol=1e-5)
    assert done.stdout.endswith("mnist-committee: version 1 is the champion now\n")
    again = subprocess.run(
        [sys.executable, str(REPOSITORY / "src" / "committee.py"), *map(str, voters)],
        env=environment(sweep.root),
        text=True,
        capture_output=True,
    )
    assert again.returncode == 0, again.stderr
    assert int(n_voters) == len(voters)
    assert voted.findall(again.stdout) == [(test, n_voters, chosen)]


def test_finished_sweep_shows_its_winners_again_and_does_nothing(
    sweep: Sweep, tmp_path: Path
) -> None:
    before = [sweep.trials(phase, model) for phase in PHASES for model in MODELS]
    done = subprocess.run(
        command_line("train.py", *SWEEP, ALONE),
        env=environment(sweep.root),
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Study whole is finished: 4 trials" in done.stdout
    told = sweep.results.winners["lenet5"].final["test/accuracy"]
    assert f"{told.mean:.4f} ± {told.sd:.4f}" in done.stdout
    assert [sweep.trials(phase, model) for phase in PHASES for model in MODELS] == before


PEEKING = """
    from mnist.config import build
    from mnist.models import Baseline

    class Peeking(Baseline):
        def __init__(self, data, **settings):
            super().__init__(**settings)
            self.n_seen = len(build(data).test().targets)
"""


@pytest.fixture
def peeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The settings of a model that looks at the test images when it is built."""
    (tmp_path / "peeking.py").write_text(dedent(PEEKING))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return ("model=baseline", "model._target_=peeking.Peeking", "+model.data=${data}",
            "+model._recursive_=false", "tracking=none")  # fmt: skip


def test_a_sweep_that_tries_to_build_the_test_images_is_refused(
    script: Script, peeking: tuple[str, ...]
) -> None:
    done = script("train.py", *SWEEP, ALONE, *peeking)
    assert done.returncode == 1
    assert "the test images are sealed in a sweep" in done.stderr


@pytest.mark.slow
def test_a_trial_that_builds_the_test_images_fails_and_a_single_run_does_not(
    script: Script, root: Path, peeking: tuple[str, ...]
) -> None:
    alone = script("train.py", *peeking, "epochs=0", "objective=n_parameters")
    assert alone.returncode == 0, alone.stderr
    untried = ("hydra.sweeper.check=null", "hydra.sweeper.calibrate=null")
    unchecked = script("train.py", *SWEEP, ALONE, *peeking, *untried)
    assert unchecked.returncode == 1
    assert "the test images are sealed in a sweep" in unchecked.stderr
    trials = Sweep(root).trials(SEARCH, "baseline")
    assert {trial.state for trial in trials} == {TrialState.FAIL}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.sweeper.confirm.top=-1", "hydra.sweeper.confirm.top=-1: must be 1 or more"),
        ("hydra.sweeper.confirm.seed=sead", "confirm.seed=sead: must name the setting"),
        ("hydra.sweeper.confirm.final=[data.n_vel=0]", "n_vel"),
        pytest.param(
            r"hydra.sweeper.confirm.final=[score_test\=true,objective\=test/acc]",
            "objective=test/acc: must be of train/loss, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "objective=test/accuracy",
            "objective=test/accuracy: must be of train/loss, ",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_confirmation_that_cannot_work_is_refused_before_any_training(
    script: Script, root: Path, override: str, words: str
) -> None:
    done = script("train.py", *SWEEP, ALONE, override)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(root.rglob("study.db"))


@pytest.mark.slow
def test_a_kill_in_the_confirmation_loses_nothing(root: Path, tmp_path: Path) -> None:
    sweep, output = Sweep(root), tmp_path / "output.txt"
    # While confirming, and when the first and the second final trial have looked at the four.
    for n_ended in (1, 5, 6):
        with output.open("a") as file:
            process = subprocess.Popen(
                command_line("train.py", *SWEEP, "hydra.sweeper.n_workers=2"),
                cwd=root,
                env=environment(root),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        while len(re.findall(r"-confirm-\d+ COMPLETE", output.read_text())) < n_ended:
            assert process.poll() is None, output.read_text()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        command_line("train.py", *SWEEP, "hydra.sweeper.n_workers=2"),
        env=environment(root),
        cwd=root,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    for model in MODELS:
        assert len(sweep.trials(SEARCH, model)) == 2
        for phase in (CONFIRM, FINAL):
            again = sweep.trials(phase, model)
            assert [trial.state for trial in again] == [TrialState.COMPLETE] * 2
            assert sorted(trial.params["seed"] for trial in again) == [1, 2]
    for phase in PHASES:
        assert "RUNNING" not in {run.info.status for run in sweep.runs(phase)}
    assert sweep.parent().info.status == "FINISHED"
