"""Models in MLflow."""

import mlflow
import torch

from mnist import config, store


def test_model_with_channels_last_weights_is_logged_without_a_warning(root, compose, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    experiment = mlflow.create_experiment("models", (root / "mlruns").as_uri())
    model = config.build(compose("model=vgg").model).eval()
    assert not all(weight.is_contiguous() for weight in model.parameters())
    images = torch.rand(2, 1, 28, 28)
    with mlflow.start_run(experiment_id=experiment):
        logged = store.log_model(mlflow, model, images.numpy())
    outputs = mlflow.pyfunc.load_model(logged.model_uri).predict(images.numpy())
    torch.testing.assert_close(torch.tensor(outputs), model(images))
