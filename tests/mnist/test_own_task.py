"""A user's own regression on a table: data set, model and task are the user's, the application
is not edited, and nothing in it assumes images or classes."""

import json
import re
import sys
from textwrap import dedent

import application
import mlflow
import numpy as np
import pytest
from application import REPOSITORY, client_of, environment, runs_of

CLASSES = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mnist.data import Split
from mnist.tasks import Task


@dataclass
class Table:
    """Ten numbers of each row and a target that depends on them."""

    name: str
    n_val: int
    n_test: int
    batch_size: int
    root = Path("nowhere")
    digest = "0123456789abcdef"

    def _rows(self) -> Split:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(400, 10, generator=generator)
        noise = torch.randn(400, 1, generator=generator)
        return Split(inputs, inputs.sum(1, keepdim=True) + noise / 4)

    def development(self) -> tuple[Split, Split]:
        rows, n_held = self._rows(), self.n_val + self.n_test
        train, val = slice(n_held, None), slice(self.n_test, n_held)
        return tuple(Split(*(part[chosen] for part in rows)) for chosen in (train, val))

    def test(self) -> Split:
        return Split(*(part[: self.n_test] for part in self._rows()))

    def first(self, n: int) -> Split:
        return Split(*(part[:n] for part in self.development()[0]))

    def normalize(self) -> nn.Module:
        return nn.Identity()


class MLP(nn.Sequential):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(nn.Linear(10, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))


class Regression(Task):
    def loss(self, outputs, targets):
        return F.smooth_l1_loss(outputs, targets)

    def metrics(self, outputs, targets):
        return {
            "loss": F.smooth_l1_loss(outputs, targets),
            "mae": F.l1_loss(outputs, targets),
            "r2": 1 - F.mse_loss(outputs, targets) / targets.var(correction=0),
        }
'''
FILES = {
    "data/table": """
        _target_: own.Table
        name: table
        n_val: 80
        n_test: 80
        batch_size: 32
        """,
    "model/mlp": """
        _target_: own.MLP
        width: 64
        dropout: 0.0
        """,
    "task/regression": """
        _target_: own.Regression
        directions: {loss: minimize, mae: minimize, r2: maximize}
        """,
}
OWN = ("--config-dir", "mine", "data=table", "model=mlp", "task=regression",
       "n_threads=1", "optimizer.lr=0.03", "objective=val/loss")  # fmt: skip


@pytest.fixture(autouse=True)
def _own_files(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(CLASSES)
    for name, text in FILES.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own", None)


def train(root, folder, *arguments):
    words = [str(REPOSITORY / "src" / "train.py"), *OWN, *arguments]
    return application.run(words, cwd=folder, env=environment(root, PYTHONPATH=str(folder)))


def test_run_trains_evaluates_and_records_a_regression(root, tmp_path, monkeypatch):
    done = train(root, tmp_path, "epochs=10", "score_train=all/mae")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"mlp, 769\b", done.stdout)
    assert re.search(
        r"epoch 10/10  loss \d+\.\d+  train/mae \d+\.\d+  val/mae \d+\.\d", done.stdout
    )
    assert "accuracy" not in done.stdout
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert run.data.tags["architecture"] == run.data.params["model"] == "mlp"
    metrics = run.data.metrics
    parts = {name.partition("/")[0] for name in metrics if name.endswith("/mae")}
    assert parts == {"train", "val", "test", "all"}
    assert metrics["test/r2"] > 0.2
    (file,) = root.glob("outputs/*/*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1]["val/loss"] == metrics["val/loss"] < lines[0]["val/loss"]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    assert loaded.predict(np.zeros((3, 10), np.float32)).shape == (3, 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective=val/accuracy", r"objective=val/accuracy: .*train/loss, train/mae"),
        ("model=lenet5", r"data\.n_channels"),
        ("~task.directions.mae", r"task\.directions=.* loss, mae, r2"),
        ("task=classification", r"data\.n_classes"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(refusal, override, message):
    assert re.search(message, refusal(*OWN, "tracking=none", override))


@pytest.mark.slow
def test_sweep_minimizes_the_loss_and_evaluates_its_winner(root, tmp_path):
    done = train(
        root, tmp_path, "-m", "hparams_search=optuna", "epochs=3", "study=own",
        "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=4",
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.n_workers=1",
        "optimizer.lr=choice(0.03,0.1)",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = runs_of(client_of(root))
    final = [run for run in runs if run.data.tags.get("phase") == "final"]
    searched = [run for run in runs if run.data.tags.get("phase") == "search"]
    assert len(searched) == 4
    assert final
    assert all("test/r2" in run.data.metrics for run in final)
    assert not any("test/r2" in run.data.metrics for run in searched)
