"""A search minimizes the validation loss, and confirms its winners.

They: took the loss for the objective; the direction stayed at its default, and the worst won.
Source: github.com/optuna/optuna/issues/2733, github.com/hydra-ecosystem/hydra/issues/2047
Right: with ``direction=minimize`` trials and the winners' last training pass the check; without it
they are refused in a sentence that names the direction.
"""

import pytest
from application import Compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from hydrasweep import UserError
from mnist import preflight, seal

LOSS = ("hparams_search=quick", "model=baseline", "objective=val/loss")


def checked(compose: Compose, monkeypatch: pytest.MonkeyPatch, *words: str) -> float:
    cfg = compose(*LOSS, *words, return_hydra_config=True)
    monkeypatch.setattr(HydraConfig, "get", lambda: cfg.hydra)
    final = list(cfg.hydra.sweeper.confirm.final)
    assert final == ["score_test=true", "artifacts=true"]
    job = cfg.copy()
    with open_dict(job):
        del job["hydra"]
    try:
        return preflight.check(job)
    finally:
        seal.set_sealed(False)


def test_trials_and_the_final_training_pass(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for final in ((), ("score_test=true", "artifacts=true", "seed=1")):
        assert checked(compose, monkeypatch, "hydra.sweeper.direction=minimize", *final) > 0


def test_default_direction_is_refused(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.direction=maximize: must be minimize"):
        checked(compose, monkeypatch)
