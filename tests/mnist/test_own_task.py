"""A regression on a table, with a data set, model and task of a stranger's own: nothing in the
application is edited, nothing of images or classes is assumed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import mlflow
import numpy as np
import pytest
from application import REPOSITORY, client_of, environment, runs_of

pytest.importorskip("sklearn")

CLASSES = '''
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional as F

from mnist.data import Split
from mnist.tasks import Task


@dataclass
class Diabetes:
    """442 patients, ten numbers of each, and how far their disease has got a year later."""

    name: str
    n_val: int
    n_test: int
    batch_size: int
    root = Path("sklearn")
    digest = "0123456789abcdef"

    def _rows(self) -> Split:
        inputs, targets = load_diabetes(return_X_y=True)
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        rows = torch.tensor(inputs).float(), torch.tensor(targets).float().unsqueeze(1)
        return Split(*(part[order] for part in rows))

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
    "data/diabetes": """
        _target_: own.Diabetes
        name: diabetes
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
CHOICES = ("data=diabetes", "model=mlp", "task=regression")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with the stranger's module and configs."""
    (tmp_path / "own.py").write_text(CLASSES)
    for name, text in FILES.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(dedent(text))
    return tmp_path


def train(root: Path, mine: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "src" / "train.py"), "--config-dir", "mine"),
            *(*CHOICES, "n_threads=1", "optimizer.lr=0.1", *arguments),
        ],
        env=environment(root, PYTHONPATH=str(mine)),
        cwd=mine,
        text=True,
        capture_output=True,
    )


def test_run_trains_scores_and_records_a_regression(root: Path, mine: Path) -> None:
    done = train(root, mine, "objective=val/loss", "epochs=20", "score_train=all/mae")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "mlp, 769 parameters" in done.stdout
    assert re.search(
        r"epoch 20/20  loss \d+\.\d+  train/mae \d+\.\d+  val/mae \d+\.\d", done.stdout
    )
    assert "accuracy" not in done.stdout
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert run.data.tags["architecture"] == run.data.params["model"] == "mlp"
    metrics = run.data.metrics
    parts = {name.partition("/")[0] for name in metrics if name.endswith("/mae")}
    assert parts == {"train", "val", "test", "all"}
    assert metrics["test/r2"] > 0.2
    (folder,) = root.glob("outputs/*/*")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val/loss"] == metrics["val/loss"] < lines[0]["val/loss"]

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root / 'mlflow.db'}"
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    assert loaded.predict(np.zeros((3, 10), np.float32)).shape == (3, 1)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective=val/accuracy", "objective=val/accuracy: must be of train/loss, train/mae"),
        ("model=lenet5", "data.n_channels"),
        ("~task.directions.mae", r"task\.directions=.* must name loss, mae, r2"),
        ("task=classification", r"data\.n_classes"),
    ],
)
def test_what_does_not_fit_is_told(root: Path, mine: Path, override: str, words: str) -> None:
    done = train(root, mine, "objective=val/loss", override)
    assert done.returncode == 1
    assert re.search(words, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_sweep_minimizes_the_loss_and_scores_its_winner(root: Path, mine: Path) -> None:
    done = train(
        root, mine, "-m", "hparams_search=optuna", "objective=val/loss", "epochs=3",
        "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=4", "study=own",
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
