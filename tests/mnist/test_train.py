"""The entrypoints as a person uses them: what they print, how they end, how they resume."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from application import REPOSITORY, Compose, Script, environment
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from train import train

Stopped = Callable[..., tuple[int, str, str]]
LEAN = ("artifacts=false", "score_test=false")
LONG = ("epochs=30", "data.n_train=1000", "model.dropout=0.2", "augmentation=affine")


def runs(root: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hydrasweep")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def output_dir(shown: str) -> Path:
    (line,) = re.findall(r"^Output +(.*)$", shown, re.MULTILINE)
    return Path(line)


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def resume(root: Path, folder: Path, *others: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "src" / "train.py"), f"resume={folder}", *others],
        env=environment(root),
        capture_output=True,
        text=True,
    )


def test_run_prints_what_it_does_how_it_goes_and_what_to_do_next(
    script: Script, root: Path, tmp_path: Path
) -> None:
    done = script("train.py", "model=baseline", "epochs=2")
    assert done.returncode == 0, done.stderr
    header, _, rest = done.stdout.partition("epoch 1/2")
    assert "baseline, 623,290 parameters" in header
    assert "mnist" in header
    assert "cpu, 1 threads" in header
    assert re.search(r"epoch 2/2  loss \d\.\d+  train +[\d.]+%  val +[\d.]+%", rest)
    assert re.search(r"^test +accuracy \d\d\.\d\d%  loss 0\.\d+$", rest, re.MULTILINE)
    assert re.search(r"^val +accuracy .*\(best \d\d\.\d\d%, epoch [12]\)$", rest, re.MULTILINE)
    assert re.search(r"^time +[\d.]+ s of training$", rest, re.MULTILINE)
    assert f"mlflow ui --backend-store-uri sqlite:///{root / 'mlflow.db'}" in rest
    assert "http://127.0.0.1:5000/#/experiments/" in rest
    assert max(len(line) for line in rest.splitlines() if line.startswith("epoch")) < 80
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    (run,) = runs(root)
    assert f"/runs/{run.info.run_id}" in rest
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "baseline lr=0.003 adamw batch=64 seed=0"
    assert run.data.tags["architecture"] == run.data.params["model"] == "baseline"
    assert output_dir(done.stdout).is_relative_to(root / "outputs")
    assert not [path for path in tmp_path.iterdir() if path != root]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs=abc", "epochs=abc: must be"),
        ("data.batch_size=0", r"data\.batch_size=0: must be"),
        ("optimizer.lr=-1", r"optimizer: .*AdamW .*Invalid learning rate: -1"),
        ("device=cuda:99", "device=cuda:99: this machine has"),
        ("objective=foo", "objective=foo: must be"),
    ],
)
def test_wrong_value_ends_with_one_sentence_and_no_run(
    script: Script, root: Path, override: str, words: str
) -> None:
    done = script("train.py", override)
    assert done.returncode == 1
    assert re.match(f"Error: {words}", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert runs(root) == []


@pytest.mark.parametrize("override", ["epochs=abc", "objective=foo", "resume=nowhere"])
def test_wrong_setting_is_refused_before_anything_heavy_is_imported(
    root: Path, override: str
) -> None:
    done = imported("train.py", override, root=root)
    assert done.returncode == 1
    assert not modules(done) & HEAVY


@pytest.mark.parametrize(
    ("override", "words"),
    [("model=lenet", "lenet5"), ("optimizer.learning_rate=1", "optimizer.learning_rate")],
)
def test_wrong_group_or_key_gets_hydras_own_words(
    script: Script, override: str, words: str
) -> None:
    done = script("train.py", override)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("augmentation=[0]",), "TypeError"),
        (("-m", "augmentation=[0]"), "TypeError"),
        (("-m", "hparams_search=quick", "augmentation=[0]"), "TypeError"),
        (("model=null",), "must be a string or a list"),
        (("paths=1",), "paths.outputs"),
        ((f"hydra.run.dir={'x' * 300}",), "File name too long"),
        (("model={a:1}",), "Key 'a' is not in struct"),
        (("experiment=mine", "--config-dir=."), r"mine\.yaml\", line 1"),
    ],
)
def test_what_hydra_cannot_compose_is_told_without_a_traceback(
    script: Script, root: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("epochs: [1\n")
    done = script("train.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert re.search(words, done.stderr)
    assert "Traceback" not in done.stderr
    assert runs(root) == []


def test_traceback_is_shown_to_whoever_wants_it(script: Script) -> None:
    done = script("train.py", "epochs=abc", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "UserError: epochs=abc: must be" in done.stderr


def test_bug_in_a_users_class_is_shown_by_a_traceback_of_that_alone(
    script: Script, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch.optim import SGD\nclass Mine(SGD):\n    def step(self):\n        return 1 / 0\n"
    )
    done = script("train.py", "optimizer._target_=mine.Mine", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "return 1 / 0" in done.stderr
    assert "site-packages/hydra" not in done.stderr
    assert [run.info.status for run in runs(root)] == ["FAILED"]


HEAVY = {"torch", "mlflow", "torchvision", "optuna", "matplotlib", "sqlalchemy"}


def imported(script: str, *arguments: str, root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-X", "importtime", str(REPOSITORY / "src" / script), *arguments],
        env=environment(root),
        cwd=root,
        capture_output=True,
        text=True,
    )


def modules(done: "subprocess.CompletedProcess[str]") -> set[str]:
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in names
    return names


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_config_are_shown_before_anything_heavy_is_imported(
    root: Path, flags: list[str]
) -> None:
    done = imported("train.py", *flags, root=root)
    assert done.returncode == 0
    assert "batch_size: 64" in done.stdout
    assert not modules(done) & HEAVY


def test_killed_run_is_resumed_to_the_same_weights_in_the_same_run(
    stopped: Stopped, compose: Compose, root: Path, tmp_path: Path
) -> None:
    code, shown, _ = stopped(signal.SIGKILL, "epoch  2/30", *LONG, *LEAN)
    assert code == -signal.SIGKILL
    folder = output_dir(shown)
    assert torch.load(folder / "last.pt", weights_only=True)["epoch"] < 30
    (killed,) = runs(root)
    assert killed.info.status == "RUNNING"

    # The next run sees that the process has died; and is the one that nobody stops.
    whole = tmp_path / "whole"
    whole.mkdir()
    train(compose(*LONG, *LEAN), whole)
    assert {run.info.run_id: run.info.status for run in runs(root)}[killed.info.run_id] == "FAILED"

    done = resume(root, folder)
    assert done.returncode == 0, done.stderr
    assert "epoch  1/30" not in done.stdout
    ours, theirs = (
        torch.load(path / "last.pt", weights_only=True)["model"] for path in (folder, whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert steps(folder) == list(range(1, 31))
    assert len(runs(root)) == 2
    (resumed,) = [run for run in runs(root) if run.info.run_id == killed.info.run_id]
    assert resumed.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    history = client.get_metric_history(killed.info.run_id, "val/accuracy")
    assert [point.step for point in history] == list(range(1, 31))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_is_killed_and_says_how_to_resume(
    stopped: Stopped, root: Path, signum: int, code: int
) -> None:
    ended, shown, errors = stopped(signum, "epoch  2/30", *LONG, *LEAN)
    assert ended == code
    assert f"python src/train.py resume={output_dir(shown)}" in errors
    assert "Traceback" not in errors
    assert [run.info.status for run in runs(root)] == ["KILLED"]


def test_multirun_never_scores_the_test_images_even_when_resumed(
    script: Script, root: Path
) -> None:
    settings = ("model=baseline,lenet5", "epochs=1", "artifacts=false", "tracking=none")
    done = script("train.py", "-m", *settings)
    assert done.returncode == 0, done.stderr
    folders = sorted((root / "outputs" / "multirun").glob("*/[01]"))
    assert [steps(folder) for folder in folders] == [[1], [1]]
    resumed = resume(root, folders[0])
    assert resumed.returncode == 0, resumed.stderr
    for shown in (done.stdout, resumed.stdout):
        assert re.search(r"^val +accuracy", shown, re.MULTILINE)
        assert not re.search(r"^test ", shown, re.MULTILINE)


def test_resumed_run_computes_as_it_did(script: Script, root: Path) -> None:
    """With the layers and threads that it chose, wherever it goes on."""
    done = script("train.py", "model=lenet5", "epochs=1", "n_threads=null", "tracking=none", *LEAN)
    assert done.returncode == 0, done.stderr
    begun = output_dir(done.stdout) / "config.yaml"
    config = OmegaConf.load(begun)
    assert config.n_threads >= 1
    assert OmegaConf.is_dict(config.fast_layers)
    for chosen in ({"model.features.6": "Conv2d"}, {}):
        config.n_threads, config.fast_layers = 3, chosen
        OmegaConf.save(config, begun)
        done = resume(root, output_dir(done.stdout))
        assert done.returncode == 0, done.stderr
        assert "cpu, 3 threads" in done.stdout
        again = OmegaConf.load(begun)
        assert (again.n_threads, again.fast_layers) == (3, chosen)


def test_resume_wants_a_run_and_no_other_settings(root: Path, tmp_path: Path) -> None:
    def refused(folder: Path, *arguments: str) -> str:
        done = resume(root, folder, *arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "resume=nowhere: no run there" in refused(Path("nowhere"))
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("epochs: 1\n")
    assert "leave out epochs=3" in refused(tmp_path / "run", "epochs=3")


@pytest.mark.parametrize("damage", ["empty", "cut short", "no text", "list", "no hydra.yaml"])
def test_resume_of_damaged_settings_is_refused(root: Path, tmp_path: Path, damage: str) -> None:
    kept = tmp_path / "run" / ".hydra"
    kept.mkdir(parents=True)
    (kept / "hydra.yaml").write_text("hydra:\n  mode: RUN\n")
    settings = {"cut short": b"epochs: 1\nseed: 0\nmod", "no text": b"\0\xff", "list": b"- 1\n"}
    (kept / "config.yaml").write_bytes(settings.get(damage, b""))
    if damage == "no hydra.yaml":
        (kept / "hydra.yaml").unlink()
    done = resume(root, tmp_path / "run")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_show_data_draws_the_first_images(script: Script, root: Path) -> None:
    done = script("show_data.py", "data=mnist_tutorial")
    assert done.returncode == 0, done.stderr
    picture = Path(done.stdout.strip())
    assert picture.is_relative_to(root)
    assert picture.read_bytes()[:4] == b"\x89PNG"
