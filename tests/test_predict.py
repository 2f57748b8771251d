"""``src/predict.py`` as a person uses it: what it prints, how it ends, what it reads."""

import csv
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Compose, environment
from PIL import Image, ImageOps
from strokes import draw
from torch import nn

from mnist import config, digits, registry
from mnist.data import Normalize
from mnist.store import open_store
from mnist.tracking import Description, MLflowTracker

Predict = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose champion takes an image for the drawn digit that is closest to it."""
    root, run_dir = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("run")
    images = np.stack([np.asarray(digits.as_mnist(draw(digit))) for digit in range(10)])
    drawn = torch.from_numpy(images).flatten(1) / 255
    closeness = nn.Linear(784, 10)
    closeness.weight, closeness.bias = nn.Parameter(drawn), nn.Parameter(-(drawn**2).sum(1) / 2)
    model = nn.Sequential(Normalize([0], [1]), nn.Flatten(), closeness).eval()
    about = Description("a run", {}, {"data": "mnist", "architecture": "closest"}, None, [])
    with MLflowTracker(str(root), "hydrasweep", None, None).run(run_dir, about) as run:
        run.save_model(model, np.zeros((2, 1, 28, 28), np.uint8))
    registry.promote(open_store(root), str(run.id), 0.9, {})
    return root


@pytest.fixture
def predict(champion: Path, tmp_path: Path) -> Predict:
    """``predict(*words)`` runs the entrypoint in ``tmp_path``, and has it write nothing else."""

    def run(*words: Any, root: Path = champion, **kwargs: Any) -> Any:
        before = {*tmp_path.rglob("*")}
        kwargs = {"capture_output": True, "text": True, "errors": "surrogateescape", **kwargs}
        done = subprocess.run(
            [sys.executable, REPOSITORY / "src" / "predict.py", *words],
            cwd=tmp_path,
            env=environment(root, TMPDIR=str(tmp_path)),
            **kwargs,
        )
        made = {*tmp_path.rglob("*")} - before
        assert {path.name for path in made} <= {"answers.csv", "mlflow.db.lock"}
        if done.stderr is not None:
            assert "Traceback" not in done.stderr
            assert "Warning" not in done.stderr
        return done

    return run


def table(text: str) -> dict[str, tuple[int, float]]:
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["file", "digit", "probability"]
    return {name: (int(digit), float(share)) for name, digit, share in rows}


def test_one_picture_gives_a_line_and_several_give_csv(predict: Predict, tmp_path: Path) -> None:
    draw(7).save(tmp_path / "seven.png")
    done = predict("seven.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"7  \d+\.\d %\n", done.stdout)

    ImageOps.invert(draw(2, height=90, pen=9)).save(tmp_path / "two, white.png")
    done = predict("two, white.png", tmp_path / "seven.png", "--model", "closest")
    assert (done.returncode, done.stderr) == (0, "")
    answers = table(done.stdout)
    assert {name: digit for name, (digit, _) in answers.items()} == {
        "two, white.png": 2,
        str(tmp_path / "seven.png"): 7,
    }
    assert all(0.5 < share <= 1 for _, share in answers.values())


def test_folder_gives_csv_and_tells_what_it_could_not_read(
    predict: Predict, tmp_path: Path
) -> None:
    folder = tmp_path / "drawn"
    (folder / "below").mkdir(parents=True)
    for digit in range(10):
        draw(digit, canvas=(600, 700), at=(digit * 20, 99)).save(folder / f"below/{digit}.jpg")
    name = os.fsdecode(b"\xff.png")  # no text in any encoding that a terminal has
    draw(3).save(folder / name)
    (folder / "notes.txt").write_text("not looked at")
    (folder / "empty.png").touch()
    Image.new("L", (99, 99), 255).save(folder / "blank.png")
    done = predict("drawn", "missing.png", "--out", "answers.csv")
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["Error", "drawn/blank.png"],
        ["Error", "drawn/empty.png"],
        ["Error", "missing.png"],
    ]
    answers = table((tmp_path / "answers.csv").read_text(errors="surrogateescape"))
    assert {file: digit for file, (digit, _) in answers.items()} == {
        **{f"drawn/below/{digit}.jpg": digit for digit in range(10)},
        f"drawn/{name}": 3,
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.png",), r"none\.png: can't be read as a picture \(No such file or directory\)"),
        ((".",), r"\.: can't be read as a picture \(neither a file nor .*\)"),
        (("no.png", "--out", "seven.png"), r"--out=seven\.png: must end with \.csv"),
    ],
)
def test_user_error_is_one_sentence(predict: Predict, words: tuple[str], sentence: str) -> None:
    done = predict(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"Error: {sentence}\n", done.stderr)


def test_unwritable_output_is_one_sentence(predict: Predict, tmp_path: Path) -> None:
    draw(7).save(tmp_path / "seven.png")
    done = predict("seven.png", "--out", "no/such/folder.csv")
    assert done.returncode == 1
    assert done.stderr == "Error: no/such/folder.csv can't be written: No such file or directory\n"
    with Path("/dev/full").open("w") as full:
        done = predict("seven.png", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "Error: stdout can't be written: No space left on device\n"


def test_missing_champion_is_told_with_the_command_that_makes_one(
    predict: Predict, root: Path, tmp_path: Path
) -> None:
    draw(7).save(tmp_path / "seven.png")
    done = predict("seven.png", root=root)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"Error: no champion for data=mnist in MLflow at \S+: "
        r"a sweep makes one: python src/train.py -m hparams_search=optuna data=mnist\n",
        done.stderr,
    )


def test_nothing_heavy_is_imported_for_help_or_for_what_cannot_be_read(champion: Path) -> None:
    for word in ("--help", "missing.png"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", REPOSITORY / "src" / "predict.py", word],
            env=environment(champion),
            capture_output=True,
            text=True,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"torch", "mlflow", "torchvision", "optuna", "matplotlib"}


def test_torchvision_is_never_imported(champion: Path, tmp_path: Path) -> None:
    draw(7).save(tmp_path / "seven.png")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", REPOSITORY / "src" / "predict.py", "seven.png"],
        cwd=tmp_path, env=environment(champion), capture_output=True, text=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"torch", "mlflow"} <= imported
    assert not imported & {"torchvision", "matplotlib", "optuna"}


def on_paper(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Eight times as large, black, somewhere on a large light canvas."""
    paper = Image.new("L", (800, 600), 245)
    large = image.resize((224, 224), Image.Resampling.BICUBIC)
    place = (int(rng.integers(0, 576)), int(rng.integers(0, 376)))
    paper.paste(20, place, mask=large)
    return paper


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by up to ten degrees, with the grain and the uneven light of a photograph."""
    turned = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, fillcolor=245)
    light = np.linspace(1, rng.uniform(0.5, 1), image.width)
    grain = rng.normal(0, 10, (image.height, image.width))
    return Image.fromarray((np.asarray(turned) * light + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose champion is a LeNet5 as ``python src/train.py`` trains it."""
    root = tmp_path_factory.mktemp("trained")
    script = [sys.executable, REPOSITORY / "src" / "train.py", f"paths.data={REPOSITORY / 'data'}"]
    subprocess.run([*script, "n_threads=1"], env=environment(root), check=True)
    store = open_store(root)
    experiment = store.client.get_experiment_by_name("hydrasweep")
    (run,) = store.client.search_runs([experiment.experiment_id])
    registry.promote(store, run.info.run_id, run.data.metrics["val/accuracy"], {})
    return root


def accuracy(answers: dict[str, tuple[int, float]], labels: dict[str, int]) -> float:
    assert answers.keys() == labels.keys()
    return float(np.mean([answers[name][0] == label for name, label in labels.items()]))


@pytest.mark.slow
def test_mnists_digits_are_read_whatever_they_are_drawn_on(
    predict: Predict, trained: Path, compose: Compose, tmp_path: Path
) -> None:
    test = config.build(compose(small=False).data).test()
    rng = np.random.default_rng(0)
    chosen = rng.choice(10_000, 500, replace=False)
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "plain": lambda image: image,
        "inverted": ImageOps.invert,
        "on paper": lambda image: on_paper(image, rng),
        "noisy": lambda image: noisy(on_paper(image, rng), rng),
    }
    store = open_store(trained)
    model = registry.load(store, registry.champion(store, "mnist", "lenet5"), (1, 28, 28))
    guesses = model(test.images[chosen]).argmax(1)
    direct = (guesses == test.labels[chosen]).float().mean().item()
    assert direct > 0.97
    for change, made in changes.items():
        labels = {}
        (tmp_path / change).mkdir()
        for n in chosen:
            name = f"{change}/{n}.png"
            made(Image.fromarray(test.images[n, 0].numpy())).save(tmp_path / name)
            labels[name] = int(test.labels[n])
        answers = table(predict(change, root=trained).stdout)
        assert accuracy(answers, labels) > direct - (0.02 if change == "noisy" else 0.01), change


@pytest.mark.slow
@pytest.mark.parametrize("pen", [3, 8, 20, 40])
def test_digits_that_someone_drew_are_read(
    predict: Predict, trained: Path, tmp_path: Path, pen: int
) -> None:
    names = [f"{digit}.png" for digit in range(10)]
    for digit, name in enumerate(names):
        draw(digit, pen=pen).save(tmp_path / name)
    answers = table(predict(*names, root=trained).stdout)
    assert accuracy(answers, {name: digit for digit, name in enumerate(names)}) >= 0.9


@pytest.mark.slow
def test_thousand_pictures_take_seconds(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for n in range(1000):
        draw(n % 10).save(tmp_path / "many" / f"{n}.png")

    def seconds(word: str) -> float:
        started = time.perf_counter()
        assert predict(word).returncode == 0
        return time.perf_counter() - started

    alone, all_of_them = seconds("many/0.png"), seconds("many")
    assert all_of_them - alone < 20
