"""Settings and metrics of a training have names that MLflow takes none by.

They: logged a metric ``MAP@k`` and a parameter with brackets: MLflow takes letters, digits,
``_-./: `` alone and ends the run.
Source: github.com/mlflow/mlflow/issues/9425, github.com/verl-project/verl/issues/119
Right: the run ends well and MLflow has them by cleaned names; the folder has the names themselves.
"""

import json
from pathlib import Path

import pytest
from application import Compose, client_of, epochs_of, runs_of
from omegaconf import open_dict

from train import train

MODULE = """
from mnist.tasks import Classification

class TopK(Classification):
    def metrics(self, outputs, targets):
        hits = (outputs.topk(3).indices == targets[:, None]).any(1)
        return {**super().metrics(outputs, targets), "acc@3": hits.double().mean()}
"""


def test_such_names_are_cleaned(
    compose: Compose, root: Path, output_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top_k.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = compose("model=baseline", "epochs=1", "artifacts=false", "+note={a@b:1}")
    with open_dict(cfg):
        cfg["timing(s)"] = 3
        cfg.optimizer["lr"] = 0.01
        cfg.task._target_ = "top_k.TopK"
        cfg.task.directions["acc@3"] = "maximize"
        cfg.objective = "val/acc@3"
    value = train(cfg, output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert run.data.params["timing_s_"] == "3"
    assert run.data.metrics["val/acc_3"] == value
    assert epochs_of(client, run, "train/acc_3") == [1]
    (epoch,) = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    assert epoch["val/acc@3"] == value
