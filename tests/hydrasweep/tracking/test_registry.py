"""The winners in MLflow's model registry: which version is the champion."""

import mlflow
import pytest
from optuna.trial import create_trial

from hydrasweep import registry
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import PARENT, TRIAL
from hydrasweep.winners import Score, Winner


def won(score, stratum="", **params):
    """A winner with that score, whose final trial has the number 0."""
    trial = create_trial(value=0.5)
    trial.number = 0
    values = [score] if isinstance(score, int | float) else list(score)
    return Winner(stratum, params, trial, Score(values), n_failed=0, final=[trial])


class Registry:
    """Sweeps whose winners are registered as versions of the model ``model``."""

    def __init__(self, client):
        self.client = client

    def promote(
        self,
        *found,
        study="s",
        objective="val/score",
        direction="maximize",
        logs=True,
        again=None,
        **more,
    ):
        """End a sweep whose final trials have logged models; return the messages about them.
        ``again`` is the run of a sweep that has ended before."""
        self.run = run = again or SweepRun.open(None, study, {"n_trials": 1})
        for winner in found if not again else ():
            tags = {PARENT: run.run_id, TRIAL: winner.folder()}
            child = self.client.create_run(run.experiment_id, tags=tags)
            if logs:
                model = self.client.create_logged_model(
                    run.experiment_id, name="model", source_run_id=child.info.run_id
                )
                self.client.finalize_logged_model(model.model_id, "READY")
                output = mlflow.entities.LoggedModelOutput(model.model_id, 0)
                self.client.log_outputs(child.info.run_id, [output])
        alike = {"objective": objective, "direction": direction, **more}
        messages = registry.register(run, "model", found, study, alike)
        assert run.lost is None
        return messages

    def champion(self, name="model"):
        return str(self.client.get_model_version_by_alias(name, registry.CHAMPION).version)


@pytest.fixture
def models(client):
    return Registry(client)


def test_only_a_better_score_moves_the_champion(models):
    for score, champion in ((0.98, "1"), (0.98, "1"), (0.97, "1"), ([0.98, 1.0], "4")):
        models.promote(won(score))
        assert models.champion() == champion


def test_lowest_loss_is_the_champion(models):
    for loss, champion in ((0.3, "1"), (0.2, "2"), (0.25, "2")):
        models.promote(won(loss), objective="val/loss", direction="minimize")
        assert models.champion() == champion
    assert models.client.get_model_version("model", "2").tags["score"] == "-0.2"


@pytest.mark.parametrize(
    ("other", "was"),
    [
        ({"direction": "minimize"}, "direction=maximize"),
        ({"objective": "val/other", "n_val": "2000"}, "objective=val/score, n_val=None"),
    ],
)
def test_scores_of_different_objectives_are_not_compared(models, other, was):
    models.promote(won(0.9))
    (message,) = models.promote(won(5.0), **other)
    assert was in message
    assert models.champion() == "1"
    models.client.delete_registered_model_alias("model", registry.CHAMPION)
    models.promote(won(0.1), **other)
    assert models.champion() == "3"


def test_version_of_each_stratum_has_the_tags_of_its_sweep(models):
    models.promote(won(0.9125, "a", **{"optimizer.lr": 0.01, "+new@key": "a"}), won(0.8, "b"))
    assert (models.champion("model-a"), models.champion("model-b")) == ("1", "1")
    version = models.client.get_model_version("model-a", "1")
    assert version.tags == {
        **{"study": "s", "objective": "val/score", "direction": "maximize"},
        **{"score": "0.9125", "optimizer.lr": "0.01", "new_key": "a"},
    }
    run = models.client.get_run(version.run_id)
    assert run.data.tags[TRIAL] == "a-final-000"


def test_sweep_that_ends_again_registers_no_second_version(models):
    models.promote(won(0.9))
    for score in (0.8, 0.95):
        models.promote(won(score), again=models.run)
        (version,) = models.client.search_model_versions("name = 'model'")
        assert version.tags["score"] == str(score)
    assert models.champion() == "1"


def test_winner_without_a_logged_model_is_not_registered(models):
    (message,) = models.promote(won(0.9), logs=False)
    assert "final-000" in message
    assert not models.client.search_registered_models()


def test_sweep_registers_the_model_of_its_winner(tracked, store, monkeypatch):
    version = store.get_model_version_by_alias("adds-a", "champion")
    x = min(t.params["x"] for t in tracked.trials("s/a") if t.state.name == "COMPLETE")
    assert (version.tags["x"], version.tags["objective"]) == (str(x), "x")
    assert float(version.tags["score"]) == pytest.approx(-(x + 0.015))  # its mean over two seeds
    (line,) = (line for line in tracked.out.splitlines() if "adds-b" in line)
    assert "b-final-000" in line  # which logged no model
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked.folder}/./mlflow.db")
    assert mlflow.pyfunc.load_model("models:/adds-a@champion").predict([1.0]) == [1.0 + x]
