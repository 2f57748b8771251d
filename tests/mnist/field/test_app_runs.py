"""Users train single models: output folders, optimizers, times."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from application import at_line
from omegaconf import OmegaConf

from hydrasweep import UserError
from mnist import config
from train import train

LEAN = ("epochs=1", "tracking=none", "artifacts=false", "score_test=false")
# A user sets hydra.run.dir to a fixed name, or hydra.sweep.subdir=., and trains twice.
# What happened: the second run overwrote the settings and the results of the first.
# Sources: github.com/hydra-ecosystem/hydra/issues/2103 and /issues/1817
# Expected: the second run is refused and names resume=. The first keeps what it has.
JobIn = Callable[[Path], None]


def begin(folder, cfg):
    """Save the settings of a job with the model baseline, as Hydra does."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    hydra = {"mode": "RUN", "runtime": {"choices": {"model": "baseline", "optimizer": "adamw"}}}
    OmegaConf.save({"hydra": hydra}, folder / ".hydra" / "hydra.yaml")


def test_second_run_in_a_folder_is_refused_and_the_first_can_be_resumed(
    script, compose, tmp_path, job_in
):
    folder = tmp_path / "mine"
    begin(folder, cfg := compose(*LEAN, "model=baseline"))
    train(cfg, folder)
    results = (folder / "metrics.jsonl").read_text()
    words = ("model=lenet5", "optimizer.lr=0.5", f"hydra.run.dir={folder}")
    done = script("train.py", *LEAN, *words)
    assert "lr: 0.5" in (folder / ".hydra" / "config.yaml").read_text()
    assert done.returncode == 1
    assert f"resume={folder}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (folder / "metrics.jsonl").read_text() == results
    job_in(tmp_path / "other")
    cfg, output_dir = config.resolve_run(compose(f"resume={folder}"))
    assert output_dir == folder
    assert cfg.optimizer.lr == 0.003
    assert config.choices(cfg, folder)["model"] == "baseline"


def test_folder_of_a_run_that_was_stopped_before_its_first_epoch_is_not_reused(
    compose, output_dir, job_in
):
    def stop():
        raise KeyboardInterrupt

    cfg = compose(*LEAN, "model=baseline", "seed=7")
    begin(output_dir, cfg)
    with at_line("Output", stop), pytest.raises(KeyboardInterrupt):
        train(cfg, output_dir)
    assert not (output_dir / "metrics.jsonl").exists()
    job_in(output_dir)
    OmegaConf.save(compose(*LEAN), output_dir / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match="resume="):
        config.resolve_run(compose(*LEAN))
    assert config.resolve_run(compose(f"resume={output_dir}"))[0].seed == 7


def test_folder_of_a_refused_run_can_be_used_again(compose, output_dir, job_in):
    job_in(output_dir)
    with pytest.raises(UserError, match=r"data\.n_train"):
        train(*config.resolve_run(compose(*LEAN, "data.n_train=60000")))
    train(*config.resolve_run(compose(*LEAN, "model=baseline")))
    assert (output_dir / "metrics.jsonl").exists()


def test_second_job_of_a_multirun_in_the_same_folder_is_refused(script, root):
    done = script("train.py", "-m", "model=baseline,lenet5", *LEAN, "hydra.sweep.subdir=.")
    assert done.returncode == 1
    assert "resume=" in done.stderr
    assert "Traceback" not in done.stderr
    (results,) = (root / "outputs").rglob("metrics.jsonl")
    assert len(results.read_text().splitlines()) == 1


def test_optimizer_without_a_learning_rate_can_be_trained(compose, output_dir, tmp_path, caplog):
    """The YAML file of Adadelta or Adafactor leaves the learning rate to the class.

    What happened: code that logs ``optimizer.lr`` raised a KeyError.
    Sources: github.com/HasnainRaz/Fast-AgingGAN/issues/21, github.com/g4vrel/CFM/issues/1
    Expected: the run's name has no learning rate. A scheduler that needs one says so.
    """
    folder = tmp_path / "mine" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "adadelta.yaml").write_text("_target_: torch.optim.Adadelta\n_partial_: true\n")
    path = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    words = (path, "model=baseline", "optimizer=adadelta", *LEAN)
    with pytest.raises(UserError, match=r"optimizer\.lr"):
        train(compose(*words, "scheduler=onecycle"), output_dir)
    caplog.set_level(logging.INFO, "mnist.display")
    assert train(compose(*words, "scheduler=constant"), output_dir) > 0.1
    (line,) = (line for line in caplog.text.splitlines() if "Run " in line)
    assert "adadelta batch=64 seed=0" in line
    assert "lr=" not in line


PAUSE = 0.2
SLOW = f"""
import time
from torch import nn

class Slow(nn.Sequential):
    def __init__(self, **others):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, input):
        if not self.training:
            time.sleep({PAUSE})
        return super().forward(input)
"""


def test_training_time_does_not_contain_the_validation(compose, output_dir, users):
    """A search compares the training times of models.

    What happened: the time contained the validation, so throughput was too low.
    Sources: github.com/mosaicml/composer/pull/1053, github.com/keras-team/keras/issues/4747
    Expected: ``time/train_seconds`` is training alone; ``time/epoch_seconds`` contains everything.
    """
    users(SLOW)
    words = ("model=baseline", "model._target_=users.Slow", "objective=time/train_seconds")
    train(compose(*words, *LEAN, "epochs=2"), output_dir)
    epochs = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    whole = sum(epoch["time/epoch_seconds"] for epoch in epochs)
    assert whole - epochs[-1]["time/train_seconds"] >= 2 * PAUSE
    for epoch in epochs:
        training = 600 / epoch["time/samples_per_second"]
        assert epoch["time/epoch_seconds"] - training >= PAUSE
