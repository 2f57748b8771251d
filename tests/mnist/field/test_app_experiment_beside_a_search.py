"""An experiment is named beside a search, to search its hyperparameters.

They: ``hparams_search=NAME experiment=NAME``; the experiment judges by its training images.
Source: github.com/hydra-ecosystem/hydra/issues/2253,
github.com/ashleve/lightning-hydra-template/issues/227
Right: the check before the trials refuses it, naming the objective and what to take instead.
"""

import pytest
from application import Compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from hydrasweep import UserError
from mnist import preflight, seal


def checked(cfg: object, monkeypatch: pytest.MonkeyPatch) -> float:
    """What the check says of a composed sweep."""
    monkeypatch.setattr(HydraConfig, "get", lambda: cfg.hydra)  # type: ignore[attr-defined]
    job = cfg.copy()  # type: ignore[attr-defined]
    with open_dict(job):
        del job["hydra"]
    try:
        return preflight.check(job)
    finally:
        seal.set_sealed(False)


def test_search_that_judges_by_training_images_is_refused(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("hparams_search=quick", "experiment=tutorial_cnn")
    cfg = compose(*words, return_hydra_config=True, small=False)
    with pytest.raises(UserError, match=r"^objective=train/accuracy: .*val/.*data\.n_val"):
        checked(cfg, monkeypatch)


def test_same_experiment_judged_by_validation_images_is_searched(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("hparams_search=quick", "experiment=tutorial_cnn", "objective=val/accuracy")
    assert checked(compose(*words, return_hydra_config=True), monkeypatch) > 0
