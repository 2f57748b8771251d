"""``examples/digits/predict.py`` as a person uses it: what it prints, how it ends, and which model
it asks."""

import csv
import io
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from application import REPOSITORY, Compose, client_of, copy_store, environment, server
from PIL import Image, ImageOps
from strokes import draw

import digits
import predict as script
from hydrasweep import UserError
from mnist import config

Predict = Callable[..., "subprocess.CompletedProcess[str]"]

# As a sweep registers its winners: from pixels uint8 (n, 1, 28, 28) to logits.
REGISTER = dedent(
    """
    import json, sys
    import mlflow, numpy, torch
    from torch import nn

    class Scaled(nn.Module):
        def forward(self, pixels):
            return pixels.float().flatten(1) / 255

    for name, made_of, tags in json.loads(sys.argv[1]):
        if made_of.endswith(".pt"):
            linear = nn.Linear(784, 10)
            linear.load_state_dict(torch.load(made_of))
            made_of = mlflow.pytorch.log_model(
                nn.Sequential(Scaled(), linear).eval(), name="model", pip_requirements=["torch"],
                input_example=numpy.zeros((2, 1, 28, 28), numpy.uint8), serialization_format="pt2",
            ).model_uri
        version = mlflow.register_model(made_of, name)
        client = mlflow.MlflowClient()
        for key, value in tags.items():
            client.set_model_version_tag(name, version.version, key, value)
        client.set_registered_model_alias(name, "champion", version.version)
    """
)


def register(uri: str, *models: tuple[str, str, dict[str, str]], cwd: Path) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REGISTER, json.dumps(models)],
        env=environment(cwd, MLFLOW_TRACKING_URI=uri),
        cwd=cwd,
        check=True,
        capture_output=True,
    )


def tags(score: float, objective: str = "val/accuracy") -> dict[str, str]:
    return {"score": str(score), "objective": objective, "study": "first"}


def closest_digit(folder: Path) -> str:
    """Weights that take an image for the drawn digit that is closest to it."""
    images = np.stack([np.asarray(digits.as_mnist(draw(digit))) for digit in range(10)])
    drawn = torch.from_numpy(images).flatten(1) / 255
    path = folder / "closest.pt"
    torch.save({"weight": drawn, "bias": -(drawn**2).sum(1) / 2}, path)
    return str(path)


def always_three(folder: Path) -> str:
    path = folder / "three.pt"
    torch.save({"weight": torch.zeros(10, 784), "bias": 9.0 * (torch.arange(10) == 3)}, path)
    return str(path)


@pytest.fixture(scope="module")
def champions(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A root with the champions of two architectures, and of another data set."""
    root = tmp_path_factory.mktemp("root")
    copy_store(empty_store, root)
    closest, three = closest_digit(root), always_three(root)
    register(
        f"sqlite:///{root}/mlflow.db",
        ("mnist-three", three, tags(0.5)),
        ("mnist-closest", three, tags(0.8)),
        ("mnist-closest", closest, tags(0.9)),
        ("mnist_tutorial-three", three, tags(0.99)),
        cwd=root,
    )
    return root


@pytest.fixture
def predict(champions: Path, tmp_path: Path) -> Predict:
    """``predict(*words)`` runs the entrypoint in ``tmp_path``, and has it write nothing there."""

    def run(*words: Any, root: Path = champions, **extra: str) -> Any:
        before = {*tmp_path.rglob("*")}
        done = subprocess.run(
            [sys.executable, REPOSITORY / "examples/digits/predict.py", *words],
            cwd=tmp_path,
            env=environment(root, **extra),
            capture_output=True,
            text=True,
        )
        assert {*tmp_path.rglob("*")} == before
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
        return done

    return run


@pytest.fixture
def client(champions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of a copy of the champions' store, which this process uses."""
    (tmp_path / "root").mkdir()
    shutil.copy(champions / "mlflow.db", tmp_path / "root")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/root/mlflow.db")
    return client_of(tmp_path / "root")


def table(text: str) -> dict[str, tuple[int, float]]:
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["file", "digit", "probability"]
    return {name: (int(digit), float(share)) for name, digit, share in rows}


def test_one_picture_gives_a_line(predict: Predict, tmp_path: Path) -> None:
    draw(7).save(tmp_path / "seven.png")
    done = predict("seven.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"7  \d+\.\d %  \(mnist-closest v2\)\n", done.stdout)


def test_several_and_folders_give_csv_and_tell_what_could_not_be_read(
    predict: Predict, tmp_path: Path
) -> None:
    folder = tmp_path / "drawn"
    (folder / "below").mkdir(parents=True)
    for digit in range(10):
        draw(digit, canvas=(600, 700), at=(digit * 20, 99)).save(folder / f"below/{digit}.JPG")
    ImageOps.invert(draw(2, height=90, pen=9)).save(tmp_path / "two, white.png")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "empty.png").touch()
    Image.new("L", (99, 99), 255).save(folder / "blank.png")
    done = predict("two, white.png", "drawn", "missing.png", tmp_path / "drawn/below/7.JPG")
    assert done.returncode == 1
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["Error", "drawn/blank.png"],
        ["Error", "drawn/empty.png"],
        ["Error", "missing.png"],
        ["Read by mnist-closest v2"],
    ]
    answers = table(done.stdout)
    assert all(0.5 < share <= 1 for _, share in answers.values())
    assert {file: digit for file, (digit, _) in answers.items()} == {
        "two, white.png": 2,
        **{f"drawn/below/{digit}.JPG": digit for digit in range(10)},
        str(tmp_path / "drawn/below/7.JPG"): 7,
    }


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("none.png", r"none\.png: can't be read as a picture \(No such file or directory\)"),
        (".", r"\.: can't be read as a picture \(neither a file nor .*\)"),
    ],
)
def test_user_error_is_one_sentence(predict: Predict, word: str, sentence: str) -> None:
    done = predict(word)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"Error: {sentence}\n", done.stderr)


def chosen(model: str | None) -> tuple[str, str]:
    version = script.find_champion(model)
    return version.name, str(version.version)


def test_best_score_of_the_data_set_wins_or_the_model_that_was_asked_for(client: Any) -> None:
    assert chosen(None) == ("mnist-closest", "2")
    assert chosen("three") == ("mnist-three", "1")
    client.set_model_version_tag("mnist-three", "1", "score", "0.91")
    assert chosen(None) == ("mnist-three", "1")
    client.set_registered_model_alias("mnist-closest", "champion", "1")
    assert chosen("closest") == ("mnist-closest", "1")


def test_missing_champion_is_told_with_the_command_that_makes_one(client: Any) -> None:
    client.delete_registered_model_alias("mnist-three", "champion")
    for model in ("three", "cnn"):
        with pytest.raises(UserError) as told:
            script.predict(np.zeros((1, 1, 28, 28), np.uint8), model)
        assert str(told.value) == (
            f"no champion of data=mnist model={model} in MLflow: a sweep makes one: "
            f"python src/train.py -m hparams_search=optuna model={model}"
        )


def test_scores_of_different_objectives_are_not_compared(client: Any) -> None:
    client.set_model_version_tag("mnist-three", "1", "objective", "val/loss")
    with pytest.raises(UserError, match="choose --model of closest, three"):
        script.find_champion(None)
    assert chosen("three") == ("mnist-three", "1")


def test_model_that_is_gone_is_told_in_a_sentence(client: Any, tmp_path: Path) -> None:
    version = client.create_model_version("mnist-three", str(tmp_path / "gone")).version
    client.set_registered_model_alias("mnist-three", "champion", version)
    with pytest.raises(UserError, match=r"^MLflow gives no champion \(.*\)$"):
        script.predict(np.zeros((1, 1, 28, 28), np.uint8), "three")


def test_nothing_heavy_is_imported_for_help_or_for_what_cannot_be_read(tmp_path: Path) -> None:
    for word in ("--help", "missing.png"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", REPOSITORY / "examples/digits/predict.py", word],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"torch", "mlflow", "torchvision", "optuna", "matplotlib"}


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
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A root whose champion is a LeNet5 as ``python src/train.py`` trains it."""
    root = tmp_path_factory.mktemp("trained")
    copy_store(empty_store, root)
    script = [sys.executable, REPOSITORY / "src" / "train.py", f"paths.data={REPOSITORY / 'data'}"]
    subprocess.run([*script, "n_threads=1"], env=environment(root), check=True)
    (model,) = client_of(root).search_logged_models(
        [each.experiment_id for each in client_of(root).search_experiments()]
    )
    register(
        f"sqlite:///{root}/mlflow.db",
        ("mnist-lenet5", f"models:/{model.model_id}", tags(0.99)),
        cwd=root,
    )
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
    for change, made in changes.items():
        labels = {}
        (tmp_path / change).mkdir()
        for n in chosen:
            name = f"{change}/{n}.png"
            made(Image.fromarray(test.inputs[n, 0].numpy())).save(tmp_path / name)
            labels[name] = int(test.targets[n])
        answers = table(predict(change, root=trained).stdout)
        assert accuracy(answers, labels) > (0.96 if change == "noisy" else 0.97), change


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

    def seconds(word: str) -> float:  # of a core, whoever else has the others
        started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        assert predict(word).returncode == 0
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started

    alone, all_of_them = seconds("many/0.png"), seconds("many")
    assert all_of_them - alone < 20


@pytest.mark.slow
def test_server_holds_champions_too(predict: Predict, root: Path, tmp_path: Path) -> None:
    draw(7).save(tmp_path / "seven.png")
    (tmp_path / "remote").mkdir()
    weights = closest_digit(root)
    with server(tmp_path / "remote") as (port, end):
        register(f"http://127.0.0.1:{port}", ("mnist-closest", weights, tags(0.9)), cwd=root)
        uri = f"http://me:secret@127.0.0.1:{port}"
        done = predict("seven.png", MLFLOW_TRACKING_URI=uri)
        assert re.fullmatch(r"7  \d+\.\d %  \(mnist-closest v1\)\n", done.stdout)
        end()
        done = predict("seven.png", MLFLOW_TRACKING_URI=uri)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: MLflow gives no champion \(.*\)\n", done.stderr)
    assert "secret" not in done.stderr
