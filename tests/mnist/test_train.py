"""The entrypoints as a person uses them: what they print, how they end, how they resume."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import application
import pytest
import torch
from application import (
    REPOSITORY,
    client_of,
    command_line,
    environment,
    epochs_of,
    modules_after,
    runs_of,
)
from omegaconf import OmegaConf

from train import train

TRAIN = REPOSITORY / "src" / "train.py"
LEAN = ("artifacts=false", "score_test=false")
# Every random number matters. The class HELD stops in the middle of the third epoch.
RANDOM = ("epochs=4", "model.dropout=0.2", "fast_layers={}",
          "augmentation=affine", "augmentation._target_=held.Held")  # fmt: skip
HELD = """
import os, time
from mnist.augmentation import RandomAffine

class Held(RandomAffine):
    n_batches = 0

    def forward(self, images):
        self.n_batches += 1
        while self.n_batches > 25 and "HOLD" in os.environ:
            time.sleep(0.05)
        return super().forward(images)
"""


@pytest.fixture
def held(root, tmp_path):
    """The environment of a training that stops in its third epoch and waits for a signal."""
    (tmp_path / "held.py").write_text(HELD)
    return environment(root, PYTHONPATH=str(tmp_path), HOLD="1")


def is_held(root):
    """Whether two epochs are done and the run is open in MLflow."""
    return any(
        steps(path.parent) == [1, 2] and (path.parent / "mlflow_run_id").exists()
        for path in root.glob("outputs/*/*/metrics.jsonl")
    )


def steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def resume(root, folder, **extra):
    words = [str(TRAIN), f"resume={folder}"]
    return application.run(words, cwd=root, env=environment(root, **extra))


def test_run_prints_its_settings_epochs_results_and_links(trained):
    done = trained.done
    assert (done.returncode, done.stderr) == (0, "")
    header, _, rest = done.stdout.partition("epoch 1/3")
    for part in ("lenet5", "61,706", "mnist", "cpu", "1 threads", str(trained.output_dir)):
        assert part in header
    assert re.search(r"epoch 3/3  loss \d\.\d+  train +[\d.]+%  val +[\d.]+%", rest)
    assert re.search(r"^test +accuracy \d\d\.\d\d%  loss 0\.\d+$", rest, re.MULTILINE)
    assert re.search(r"^val +accuracy .*\d\d\.\d\d%, epoch [123]\)$", rest, re.MULTILINE)
    assert re.search(r"^all +accuracy \d\d\.\d\d%$", rest, re.MULTILINE)
    assert re.search(r"^time +[\d.]+ s", rest, re.MULTILINE)
    assert f"mlflow ui --backend-store-uri sqlite:///{trained.root / 'mlflow.db'}" in rest
    assert "http://127.0.0.1:5000/#/experiments/" in rest
    assert f"/runs/{trained.run.info.run_id}" in rest
    assert max(len(line) for line in rest.splitlines() if line.startswith("epoch")) < 80
    assert "\x1b" not in done.stdout
    assert not [*(trained.root / "elsewhere").iterdir()]  # the working directory


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("epochs=abc",), "epochs=abc"),
        (("optimizer.lr=-1",), r"optimizer: .*AdamW .*-1"),
        (("model=lenet",), "lenet5"),
        (("-m", "augmentation=[0]"), "TypeError"),
        (("-m", "hparams_search=quick", "augmentation=[0]"), "TypeError"),
        (("experiment=mine", "--config-dir=."), r"mine\.yaml.*line 1"),
    ],
)
def test_wrong_settings_end_with_an_error_message_and_no_run(
    script, root, tmp_path, words, message
):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("epochs: [1\n")
    done = script("train.py", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr
    assert runs_of(client_of(root)) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rate=1", r"optimizer\.learning_rate"),
        ("augmentation=[0]", "TypeError"),
        ("model=null", "ValueError"),
        ("model={a:1}", "'a'"),
        ("paths=1", r"paths\.outputs"),
        (f"hydra.run.dir={'x' * 300}", "File name too long"),
        ("+lr=0.1", r"\+lr=0\.1: .*optimizer\.lr=0\.1"),
        ("study=first", "study=first: .*python src/train.py -m hparams_search=optuna study=first"),
        ("resume=nowhere", "resume=nowhere"),
    ],
)
def test_setting_is_refused_by_its_name(refusal, override, message):
    assert re.search(f"^Error: (.*\n)*.*{message}", refusal(override))


def test_full_error_of_hydra_shows_a_traceback(script):
    done = script("train.py", "epochs=abc", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UserError: epochs=abc" in done.stderr


def test_bug_in_a_users_class_shows_a_traceback_without_hydras_frames(script, root, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch.optim import SGD\nclass Mine(SGD):\n    def step(self):\n        return 1 / 0\n"
    )
    done = script("train.py", "optimizer._target_=mine.Mine", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "return 1 / 0" in done.stderr
    assert "site-packages/hydra" not in done.stderr
    assert [run.info.status for run in runs_of(client_of(root))] == ["FAILED"]


def test_help_and_refusals_import_nothing_heavy(root):
    sweep = ("-m", "hparams_search=quick")
    refused = [
        *(["epochs=abc"], ["objective=foo"], ["resume=nowhere"], [*sweep, "epochs=five"]),
        *([*sweep, "objective=test/accuracy"], [*sweep, "hydra.sweeper.n_workers=0"]),
        [*sweep, "study=a/b"],
    ]
    shown, imported = modules_after(TRAIN, ["--help"], *refused, root=root)
    assert "batch_size: 64" in shown
    errors = [line for line in shown.splitlines() if line.startswith("Error: ")]
    assert len(errors) == len(refused)
    for error, (*_, override) in zip(errors, refused, strict=True):
        assert override.removeprefix("study=") in error
    assert "hydra" in imported
    heavy = {"torch", "mlflow", "torchvision", "optuna", "matplotlib", "sqlalchemy", "plotly"}
    assert not imported & heavy


def test_killed_run_is_resumed_to_the_same_weights_in_the_same_run(
    held, compose, root, output_dir, tmp_path,
    monkeypatch,
):  # fmt: skip
    words = [sys.executable, *command_line("train.py", *RANDOM, *LEAN)]
    with subprocess.Popen(words, env=held, stdout=subprocess.DEVNULL) as process:
        while not is_held(root):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    client = client_of(root)
    (killed,) = runs_of(client)
    assert killed.info.status == "RUNNING"

    # The next run notices that the process has died. It trains the same without interruption.
    monkeypatch.syspath_prepend(tmp_path)
    train(compose(*RANDOM, *LEAN), output_dir)
    assert client.get_run(killed.info.run_id).info.status == "FAILED"

    (folder,) = root.glob("outputs/*/*")
    done = resume(root, folder, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "epoch 1/4" not in done.stdout
    resumed, whole = (
        torch.load(path / "last.pt", weights_only=True)["model"] for path in (folder, output_dir)
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert steps(folder) == [1, 2, 3, 4]
    assert len(runs_of(client)) == 2
    assert client.get_run(killed.info.run_id).info.status == "FINISHED"
    assert epochs_of(client, killed, "val/accuracy") == [1, 2, 3, 4]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_is_killed_in_mlflow_and_prints_the_command_that_resumes_it(
    held, root, signum, code
):
    process = application.start(command_line("train.py", *RANDOM, *LEAN), cwd=root, env=held)
    process.until(lambda: is_held(root))
    process.send(signum)
    done = process.done()
    assert done.returncode == code
    (folder,) = root.glob("outputs/*/*")
    assert f"python src/train.py resume={folder}" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = runs_of(client_of(root))
    assert run.info.status == "KILLED"
    assert epochs_of(client_of(root), run) == [1, 2]


def test_resumed_run_keeps_its_threads_and_fast_layers(script, root):
    words = ("model=lenet5", "epochs=1", "data.n_train=64", "n_threads=null", "tracking=none")
    done = script("train.py", *words, *LEAN)
    assert done.returncode == 0, done.stderr
    (begun,) = root.glob("outputs/*/*/config.yaml")
    config = OmegaConf.load(begun)
    assert config.n_threads >= 1
    assert OmegaConf.is_dict(config.fast_layers)
    for chosen in ({"model.features.6": "Conv2d"}, {}):
        config.n_threads, config.fast_layers = 3, chosen
        OmegaConf.save(config, begun)
        done = resume(root, begun.parent)
        assert done.returncode == 0, done.stderr
        assert "cpu, 3 threads" in done.stdout
        again = OmegaConf.load(begun)
        assert (again.n_threads, again.fast_layers) == (3, chosen)


def test_resume_with_other_settings_is_refused(refusal, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("epochs: 1\n")
    assert "epochs=3" in refusal("resume=run", "epochs=3")


@pytest.mark.parametrize("damage", ["empty", "cut short", "no text", "list", "no hydra.yaml"])
def test_resume_with_damaged_settings_is_refused(refusal, tmp_path, damage):
    kept = tmp_path / "run" / ".hydra"
    kept.mkdir(parents=True)
    (kept / "hydra.yaml").write_text("hydra:\n  mode: RUN\n")
    settings = {"cut short": b"epochs: 1\nseed: 0\nmod", "no text": b"\0\xff", "list": b"- 1\n"}
    (kept / "config.yaml").write_bytes(settings.get(damage, b""))
    if damage == "no hydra.yaml":
        (kept / "hydra.yaml").unlink()
    message = refusal("resume=run")
    assert message.startswith("Error: ")
    assert "\n" not in message


def test_show_data_draws_the_first_images(script, root):
    done = script("show_data.py", "data=mnist_tutorial")
    assert done.returncode == 0, done.stderr
    picture = Path(done.stdout.strip())
    assert picture.is_relative_to(root)
    assert picture.read_bytes()[:4] == b"\x89PNG"
