"""MLflow's address has a password in it.

They: found it in the log of MLflow's server, and in the metadata of another tool's runs.
Source: github.com/mlflow/mlflow/issues/2282, github.com/zenml-io/zenml/issues/2443
Right: it is in no output and in no file, whether MLflow answers or a trial fails.
"""

from collections.abc import Callable

import pytest
from apps import App, Ended


@pytest.fixture(autouse=True)
def address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def places(done: Ended) -> list[str]:
    """Where the password is."""
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    assert files
    found = [str(path) for path in files if b"hunter2" in path.read_bytes()]
    return found + ["output"] * ("hunter2" in done.out + done.err)


def test_server_that_does_not_answer_is_named_without_it(app: Callable[..., App]) -> None:
    done = app("return cfg.x")("hydra.sweeper.mlflow=true")
    assert done.code == 1
    assert "http://127.0.0.1:9" in done.err
    assert places(done) == []


def test_trial_that_fails_by_the_server_keeps_none(app: Callable[..., App]) -> None:
    """MLflow's own error has the whole address in it."""
    body = """
        import mlflow
        if cfg.x < 0:
            mlflow.MlflowClient().search_experiments()
        return cfg.x
    """
    done = app(body, more="import mlflow")("hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE", "FAIL"]
    assert "127.0.0.1" in done.log("001")
    assert places(done) == []
