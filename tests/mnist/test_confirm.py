"""The end of a sweep: the best trials on fresh seeds, the winners on the test images, once."""

import os
import re
import shlex
import statistics
from textwrap import dedent

import application
import mlflow
import pytest
import torch
from application import REPOSITORY, command_line, environment
from omegaconf import OmegaConf
from optuna.trial import TrialState
from sweeps import ALONE, MODELS, SWEEP, Sweep, history

from hydrasweep.trials import CONFIRM, FINAL, SEARCH
from mnist import config
from mnist.committee import load_members


def test_best_trials_are_trained_again_on_fresh_seeds(sweep):
    search = sweep.trials()
    for phase in (CONFIRM, FINAL):
        trials = sweep.trials(phase)
        assert trials.keys() == {f"{model}-confirm-00{i}" for model in MODELS for i in range(2)}
        for name, trial in trials.items():
            best = search[f"{name.partition('-')[0]}-000"]
            assert trial.params == best.params | {"seed": 1 + int(name[-1])}
            assert trial.state == TrialState.COMPLETE
            assert len(history(sweep.folder / name)) == 2
    folders = {path.parent.name for path in sweep.folder.glob("*/.hydra")}
    assert folders == search.keys() | sweep.trials(CONFIRM).keys()  # finals retrain nothing


def test_reported_scores_are_those_that_the_runs_measured(sweep):
    (parent,), finals, confirmed = sweep.runs()[0], sweep.runs_in(FINAL), sweep.trials(CONFIRM)
    for model in MODELS:
        winner = sweep.results.winners[model]
        names = [f"{model}-confirm-00{i}" for i in range(2)]
        tested = [finals[name].data.metrics["test/accuracy"] for name in names]
        score = winner.final["test/accuracy"]
        assert sorted(score["values"]) == sorted(tested)
        assert score.mean == pytest.approx(statistics.fmean(tested))
        assert score.sd == pytest.approx(statistics.stdev(tested))
        assert winner.confirm["values"] == [confirmed[name].value for name in names]
        assert f"{winner.confirm.mean:.4f} ± {winner.confirm.sd:.4f} (n=2)" in sweep.out
        assert f"{score.mean:.4f} ± {score.sd:.4f}" in sweep.out
        assert parent.data.metrics[f"test/accuracy/{model}"] == pytest.approx(score.mean)
        assert parent.data.metrics[f"confirm/{model}"] == pytest.approx(winner.confirm.mean)
        rows = [row for row in sweep.table("confirmation") if row["model"] == model]
        measured = {
            phase: [row["test/accuracy"] for row in rows if row["phase"] == phase]
            for phase in (CONFIRM, FINAL)
        }
        assert measured[CONFIRM] == ["", ""]
        assert sorted(map(float, measured[FINAL])) == sorted(tested)


def test_only_final_runs_see_the_test_images(sweep):
    for run in sweep.runs_in(SEARCH).values():
        assert not [name for name in run.data.metrics if name.startswith("test")]
    searched = [path for name in sweep.folders() for path in (sweep.folder / name).rglob("*.*")]
    for path in (*searched, sweep.folder / "trials.csv"):
        if path.suffix in (".jsonl", ".csv", ".log"):
            assert "test/" not in path.read_text(), path
    assert "test/" not in sweep.out.partition("best trial")[0]
    (parent,), trials = sweep.runs()[0], sweep.trials(FINAL)
    for name, run in sweep.runs_in(FINAL).items():
        assert run.data.params["data.n_val"] == "200"
        assert run.data.metrics["val/accuracy"] == trials[name].value
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (sweep.folder / name / "pictures" / "confusion.png").exists()


def test_recipe_of_a_winner_gives_the_same_numbers_again(sweep, tmp_path):
    recipe = sweep.folder / "best" / "lenet5.yaml"
    assert "study" not in OmegaConf.load(recipe)  # it must not resume the sweep
    words = shlex.split(recipe.read_text().splitlines()[0].removeprefix("# "))
    assert words[:2] == ["python", str(REPOSITORY / "src" / "train.py")]
    measured = sweep.runs_in(FINAL)["lenet5-confirm-000"].data.metrics["test/accuracy"]
    aside = ("tracking=none", f"hydra.run.dir={tmp_path / 'again'}", "artifacts=false")
    done = application.run([*words[1:], *aside], cwd=sweep.root, env=environment(sweep.root))
    assert done.returncode == 0, done.stderr
    assert f"test accuracy {measured:.2%} " in " ".join(done.stdout.split())
    best = max(MODELS, key=lambda model: sweep.results.winners[model].confirm.mean)
    recipes = [OmegaConf.load(sweep.folder / "best" / f"{name}.yaml") for name in ("overall", best)]
    assert recipes[0] == recipes[1]


def test_recipe_is_a_base_for_other_overrides(sweep):
    recipe = OmegaConf.load(sweep.folder / "best" / "lenet5.yaml")
    assert recipe.optimizer.keys() == {"lr"}  # the rest comes from the application
    words = command_line(
        "train.py", "--config-dir", str(sweep.folder), "+best@_global_=lenet5", "--cfg", "job",
        "model=baseline", "optimizer.lr=0.5",
    )  # fmt: skip
    done = application.run(words, cwd=sweep.root, env=environment(sweep.root))
    composed = OmegaConf.create(done.stdout)
    assert composed.model._target_ == "mnist.models.Baseline"
    assert composed.optimizer.lr == 0.5
    assert composed.epochs == recipe.epochs


def test_winners_vote_as_a_committee(sweep, root, monkeypatch):
    def vote(*names):
        words = [str(REPOSITORY / "src" / "committee.py"), *map(str, names)]
        done = application.run(words, cwd=root, env=environment(root))
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = vote(sweep.folder)
    scores = {name: float(score) for score, name in re.findall(r"val +(.*)%  (.*)", shown)}
    assert len(scores) == 3
    voted = re.compile(r"test +(.*)%  committee of (\d): (.*) \(")
    ((test, n_voters, chosen),) = voted.findall(shown)
    assert scores[chosen] == max(scores.values())
    voters = [
        path.parent
        for name in chosen.split(" + ")
        for path in sorted(sweep.folder.glob(f"{name}-confirm-*/model.pt"))
    ]
    assert int(n_voters) == len(voters)
    members, data = load_members(voters)
    images, labels = config.build(data).test()
    with torch.inference_mode():
        votes = [member.model(images).softmax(1) for member in members]
    mean = torch.stack(votes).mean(0)
    assert f"{(mean.argmax(1) == labels).float().mean():.2%}" == f"{test}%"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/mnist-committee@champion")
    predicted = torch.tensor(model.predict(images[:50].numpy())).exp()
    torch.testing.assert_close(predicted, mean[:50], rtol=1e-3, atol=1e-5)
    # The folders of runs may be named as well as the sweep's.
    assert voted.findall(vote(*voters)) == [(test, n_voters, chosen)]


PEEKING = """
    from mnist.config import build
    from mnist.models import Baseline

    class Peeking(Baseline):
        def __init__(self, data, **settings):
            super().__init__(**settings)
            self.n_seen = len(build(data).test().targets)
"""


@pytest.fixture
def peeking(tmp_path, monkeypatch):
    """The settings of a model that looks at the test images when it is built."""
    (tmp_path / "peeking.py").write_text(dedent(PEEKING))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return ("model=baseline", "model._target_=peeking.Peeking", "+model.data=${data}",
            "+model._recursive_=false", "tracking=none")  # fmt: skip


def test_model_that_looks_at_the_test_images_is_refused_in_a_sweep_only(script, peeking):
    done = script("train.py", *SWEEP, ALONE, *peeking)
    assert done.returncode == 1
    assert "test images are sealed" in done.stderr
    alone = script("train.py", *peeking, "epochs=0", "objective=n_parameters", "artifacts=false")
    assert alone.returncode == 0, alone.stderr


@pytest.mark.slow
def test_trial_that_looks_at_the_test_images_fails(script, root, peeking):
    unchecked = ("hydra.sweeper.check=null", "hydra.sweeper.calibrate=null")
    done = script("train.py", *SWEEP, ALONE, "study=peeking", *peeking, *unchecked)
    assert done.returncode == 1
    assert "test images are sealed" in done.stderr
    trials = Sweep(root, "peeking").ended()
    assert {trial.state for trial in trials.values()} == {TrialState.FAIL}
