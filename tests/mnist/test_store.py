"""Models as MLflow keeps them."""

from pathlib import Path

import mlflow
import pytest
import torch
from application import Compose

from mnist import config, store


def test_model_whose_weights_have_their_channels_last_is_logged_without_a_warning(
    tmp_path: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("models", (tmp_path / "mlruns").as_uri())
    model = config.build(compose("model=vgg").model).eval()
    assert not all(weight.is_contiguous() for weight in model.parameters())
    images = torch.rand(2, 1, 28, 28)
    with mlflow.start_run(experiment_id=experiment):
        logged = store.log_model(mlflow, model, images.numpy())
    given = mlflow.pyfunc.load_model(logged.model_uri).predict(images.numpy())
    torch.testing.assert_close(torch.tensor(given), model(images))
