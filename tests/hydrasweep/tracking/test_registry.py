"""The winners in MLflow's model registry: which version is champion, and by what."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from apps import CONFIG, App
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from hydrasweep import registry
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import PARENT, TRIAL
from hydrasweep.winners import Score, Winner

if TYPE_CHECKING:
    from mlflow import MlflowClient

mlflow = pytest.importorskip("mlflow")

Promote = Callable[..., list[str]]


def won(score: float | Sequence[float], stratum: str = "", **params: Any) -> Winner:
    """A winner with that score, whose final trial has the number 0."""
    seed = {"seed": IntDistribution(0, 9)}
    trial = create_trial(value=0.5, params={"seed": 1}, distributions=seed)
    trial.number = 0
    values = [score] if isinstance(score, int | float) else list(score)
    return Winner(stratum, params, trial, Score(values), n_failed=0, final=[trial])


@pytest.fixture
def promote(client: "MlflowClient") -> Promote:
    """``promote(winner)`` ends a sweep whose final trial has logged a model, and tells what is
    said of it; ``again`` is the sweep's run where it has ended before."""

    def promoted(
        *found: Winner,
        study: str = "s",
        objective: str = "val/score",
        direction: str = "maximize",
        logs: bool = True,
        again: SweepRun | None = None,
        **more: str,
    ) -> list[str]:
        run = again or SweepRun.open(None, study, {"n_trials": 1})
        for winner in found if not again else ():
            tags = {PARENT: run.run_id, TRIAL: winner.folder()}
            child = client.create_run(run.experiment_id, tags=tags)
            if logs:
                model = client.create_logged_model(
                    run.experiment_id, name="model", source_run_id=child.info.run_id
                )
                client.finalize_logged_model(model.model_id, "READY")
                output = mlflow.entities.LoggedModelOutput(model.model_id, 0)
                client.log_outputs(child.info.run_id, [output])
        alike = {"objective": objective, "direction": direction, **more}
        told = registry.register(run, "model", found, study, alike)
        assert run.lost is None
        promoted.run = run  # type: ignore[attr-defined]
        return told

    return promoted


def champion(client: "MlflowClient", name: str = "model") -> str:
    return str(client.get_model_version_by_alias(name, registry.CHAMPION).version)


def test_only_a_better_score_moves_the_champion(client: "MlflowClient", promote: Promote) -> None:
    assert promote(won(0.98)) == ["Registered model model: this one is the champion now"]
    assert promote(won(0.98)) == ["Registered model model: this one stays behind the champion"]
    assert "stays behind" in promote(won(0.97))[0]
    assert champion(client) == "1"
    assert "is the champion now" in promote(won([0.98, 1.0]))[0]
    assert champion(client) == "4"


def test_of_a_loss_the_lowest_wins(client: "MlflowClient", promote: Promote) -> None:
    loss = {"objective": "val/loss", "direction": "minimize"}
    promote(won(0.3), **loss)
    assert "is the champion now" in promote(won(0.2), **loss)[0]
    assert "stays behind" in promote(won(0.25), **loss)[0]
    assert champion(client) == "2"
    assert client.get_model_version("model", "2").tags["score"] == "-0.2"


def test_scores_of_different_things_are_not_compared(
    client: "MlflowClient", promote: Promote
) -> None:
    promote(won(0.9))
    for other in (
        {"objective": "val/loss", "direction": "minimize"},
        {"objective": "val/other"},
        {"direction": "minimize"},
        {"n_val": "2000"},
    ):
        (told,) = promote(won(5.0), **other)
        was = {"objective": "val/score", "direction": "maximize", "n_val": None}
        chosen = ", ".join(f"{key}={was[key]}" for key in other)
        assert f"can't be compared with the champion, which was chosen by {chosen}" in told
    assert champion(client) == "1"
    client.delete_registered_model_alias("model", registry.CHAMPION)  # by a person
    assert "is the champion now" in promote(won(0.1), objective="val/loss")[0]


def test_each_stratum_has_a_model_of_its_own(client: "MlflowClient", promote: Promote) -> None:
    told = promote(won(0.9, "a"), won(0.8, "b"))
    assert told == [f"Registered model model-{k}: this one is the champion now" for k in "ab"]
    assert (champion(client, "model-a"), champion(client, "model-b")) == ("1", "1")


def test_version_tells_where_it_is_from(client: "MlflowClient", promote: Promote) -> None:
    promote(won(0.9125, **{"optimizer.lr": 0.01, "+new@key": "a"}), study="first")
    version = client.get_model_version("model", "1")
    assert version.tags == {
        **{"study": "first", "objective": "val/score", "direction": "maximize"},
        **{"score": "0.9125", "optimizer.lr": "0.01", "new_key": "a"},
    }
    run = client.get_run(version.run_id)
    assert run.data.tags[TRIAL] == "final-000"


def test_sweep_that_ends_again_registers_no_second_version(
    client: "MlflowClient", promote: Promote
) -> None:
    promote(won(0.9))
    for score in (0.8, 0.95):
        promote(won(score), again=promote.run)  # type: ignore[attr-defined]
        (version,) = client.search_model_versions("name = 'model'")
        assert version.tags["score"] == str(score)
    assert champion(client) == "1"


def test_winner_that_logged_no_model_is_told(client: "MlflowClient", promote: Promote) -> None:
    assert promote(won(0.9), logs=False) == [
        "Registered model model: none, since final-000 logged no model"
    ]
    assert not client.search_registered_models()


def test_whole_sweep_makes_its_winner_the_champion(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    more = """
import mlflow

class Adds(mlflow.pyfunc.PythonModel):
    def __init__(self, x):
        self.x = x

    def predict(self, context, model_input):
        return [value + self.x for value in model_input]
"""
    body = """
        with mlflow.start_run():
            if hydrasweep.trial().phase == "final":
                model = Adds(cfg.x)
                mlflow.pyfunc.log_model(name="model", python_model=model, pip_requirements=[])
        return cfg.x
    """
    words = ("hydra.sweeper.mlflow=true", "hydra.sweeper.registered_model=adds",
             "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1",
             "hydra.sweeper.n_trials=2", "hydra.sweeper.objective=x")  # fmt: skip
    done = app(body, CONFIG, more)(*words)
    assert done.code == 0, done.err
    assert "Registered model adds: this one is the champion now" in done.out
    version = client.get_model_version_by_alias("adds", "champion")
    (best,) = (trial for trial in done.trials() if trial.params["x"] < 0)
    assert version.tags["x"] == str(best.params["x"])
    assert (version.tags["objective"], version.tags["score"]) == ("x", str(-best.params["x"]))
    loaded = mlflow.pyfunc.load_model("models:/adds@champion")
    assert loaded.predict([1.0]) == [1.0 + best.params["x"]]
