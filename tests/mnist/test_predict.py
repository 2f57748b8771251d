"""``examples/digits/predict.py`` as a person uses it: what it prints, how it ends, and which model
it uses."""

import csv
import io
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable

import application
import mlflow
import numpy as np
import pytest
import torch
from application import (
    REPOSITORY,
    Done,
    client_of,
    copy_store,
    environment,
    modules_after,
    server,
)
from PIL import Image, ImageOps
from strokes import draw
from torch import nn

import digits
import predict as script
from hydrasweep import UserError
from mnist import config, store

Predict = Callable[..., Done]
PREDICT = REPOSITORY / "examples" / "digits" / "predict.py"
TRAIN = REPOSITORY / "src" / "train.py"


class Linear(nn.Linear):
    """A linear model of raw pixels."""

    def __init__(self, weight, bias):
        super().__init__(784, 10)
        self.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, pixels):
        return super().forward(pixels.float().flatten(1) / 255)


def closest_digit():
    """A model that takes an image for the drawn digit that is closest to it."""
    images = np.stack([np.asarray(digits.as_mnist(draw(digit))) for digit in range(10)])
    drawn = torch.from_numpy(images).flatten(1) / 255
    return Linear(drawn, -(drawn**2).sum(1) / 2)


def register(uri, *champions):
    """Register models, or the models at these addresses, as a sweep registers its winners."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = mlflow.MlflowClient()
        for name, model, score in champions:
            if isinstance(model, Linear):
                example = np.zeros((2, 1, 28, 28), np.uint8)
                model = store.log_model(mlflow, model.eval(), example).model_uri
            version = mlflow.register_model(model, name).version
            for key, value in {"score": str(score), "objective": "val/accuracy"}.items():
                client.set_model_version_tag(name, version, key, value)
            client.set_registered_model_alias(name, "champion", version)


@pytest.fixture(scope="module")
def champions(tmp_path_factory, empty_store):
    """A root with the champions of two architectures and of another data set."""
    root = tmp_path_factory.mktemp("root")
    copy_store(empty_store, root)
    three = Linear(torch.zeros(10, 784), 9.0 * (torch.arange(10) == 3))
    register(
        f"sqlite:///{root}/mlflow.db",
        ("mnist-three", three, 0.5),
        ("mnist-closest", three, 0.8),
        ("mnist-closest", closest_digit(), 0.9),
        ("mnist_tutorial-three", three, 0.99),
    )
    return root


@pytest.fixture
def predict(
    champions,
    tmp_path,
    monkeypatch,
    capsys,
):
    """``predict(*words)`` runs predict.py in this process, in ``tmp_path``, where it must not
    write."""

    def run(*words, uri=f"sqlite:///{champions}/mlflow.db"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
        before = {*tmp_path.rglob("*")}
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            script.main()
        assert {*tmp_path.rglob("*")} == before
        code, printed = end.value.code, capsys.readouterr()
        if isinstance(code, str):  # an interpreter prints it
            return Done(words, 1, printed.out, f"{printed.err}{code}\n")
        return Done(words, int(code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def client(champions, tmp_path, monkeypatch):
    """MLflow's client of a copy of the champions' store, which this process uses."""
    (tmp_path / "root").mkdir()
    shutil.copy(champions / "mlflow.db", tmp_path / "root")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/root/mlflow.db")
    return client_of(tmp_path / "root")


def table(text):
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["file", "digit", "probability"]
    return {name: (int(digit), float(share)) for name, digit, share in rows}


def test_one_picture_gives_one_line(predict, tmp_path):
    draw(7).save(tmp_path / "seven.png")
    done = predict("seven.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"7  \d+\.\d %  \(mnist-closest v2\)\n", done.stdout)


def test_several_pictures_and_folders_give_csv_and_unreadable_ones_give_errors(champions, tmp_path):
    folder = tmp_path / "drawn"
    (folder / "below").mkdir(parents=True)
    for digit in range(10):
        draw(digit, canvas=(600, 700), at=(digit * 20, 99)).save(folder / f"below/{digit}.JPG")
    ImageOps.invert(draw(2, height=90, pen=9)).save(tmp_path / "two, white.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty.png").touch()
    Image.new("L", (99, 99), 255).save(folder / "blank.png")
    seven = str(tmp_path / "drawn/below/7.JPG")
    words = [str(PREDICT), "two, white.png", "drawn", "missing.png", seven]
    done = application.run(words, cwd=tmp_path, env=environment(champions))
    assert done.returncode == 1
    *errors, model = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in errors] == [
        ["Error", "drawn/blank.png"],
        ["Error", "drawn/empty.png"],
        ["Error", "missing.png"],
    ]
    assert "mnist-closest v2" in model
    answers = table(done.stdout)
    assert all(0.5 < share <= 1 for _, share in answers.values())
    assert {file: digit for file, (digit, _) in answers.items()} == {
        "two, white.png": 2,
        **{f"drawn/below/{digit}.JPG": digit for digit in range(10)},
        seven: 7,
    }


@pytest.mark.parametrize("word", ["none.png", "."])
def test_path_without_a_picture_is_one_error_message(predict, word):
    done = predict(word)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(f"Error: {re.escape(word)}: .*\n", done.stderr)


def chosen(model):
    version = script.find_champion(model)
    return version.name, str(version.version)


def test_champion_has_the_best_score_or_is_the_given_model(client):
    assert chosen(None) == ("mnist-closest", "2")
    assert chosen("three") == ("mnist-three", "1")
    client.set_model_version_tag("mnist-three", "1", "score", "0.91")
    assert chosen(None) == ("mnist-three", "1")
    client.set_registered_model_alias("mnist-closest", "champion", "1")
    assert chosen("closest") == ("mnist-closest", "1")


def test_missing_champion_is_refused_with_the_command_that_makes_one(client):
    client.delete_registered_model_alias("mnist-three", "champion")
    for model in ("three", "cnn"):
        command = f"python src/train.py -m hparams_search=optuna model={model}"
        with pytest.raises(UserError, match=command):
            script.predict(np.zeros((1, 1, 28, 28), np.uint8), model)


def test_champions_with_different_objectives_are_not_compared(client):
    client.set_model_version_tag("mnist-three", "1", "objective", "val/loss")
    with pytest.raises(UserError, match=r"--model .*closest, three"):
        script.find_champion(None)
    assert chosen("three") == ("mnist-three", "1")


def test_deleted_model_is_one_error_message(client, tmp_path):
    version = client.create_model_version("mnist-three", str(tmp_path / "gone")).version
    client.set_registered_model_alias("mnist-three", "champion", version)
    with pytest.raises(UserError, match=r"^.*MLflow.*$"):
        script.predict(np.zeros((1, 1, 28, 28), np.uint8), "three")


def test_help_and_refusals_import_nothing_heavy(tmp_path):
    shown, imported = modules_after(PREDICT, ["--help"], ["missing.png"], root=tmp_path)
    assert "--model" in shown
    assert "argparse" in imported
    assert not imported & {"torch", "mlflow", "torchvision", "optuna", "matplotlib"}


def on_paper(image, rng):
    """Eight times as large, black, somewhere on a large light canvas."""
    paper = Image.new("L", (800, 600), 245)
    large = image.resize((224, 224), Image.Resampling.BICUBIC)
    place = (int(rng.integers(0, 576)), int(rng.integers(0, 376)))
    paper.paste(20, place, mask=large)
    return paper


def noisy(image, rng):
    """Turned by up to ten degrees, with the grain and the uneven light of a photograph."""
    turned = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC, fillcolor=245)
    light = np.linspace(1, rng.uniform(0.5, 1), image.width)
    grain = rng.normal(0, 10, (image.height, image.width))
    return Image.fromarray((np.asarray(turned) * light + grain).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def lenet5(tmp_path_factory, empty_store):
    """The address of a store whose champion is a LeNet5 that was trained on all images."""
    root = tmp_path_factory.mktemp("lenet5")
    copy_store(empty_store, root)
    words = [str(TRAIN), f"paths.data={REPOSITORY / 'data'}", "n_threads=1", "epochs=3"]
    done = application.run(words, cwd=root, env=environment(root))
    assert done.returncode == 0, done.stderr
    (run,) = application.runs_of(client_of(root))
    (model,) = client_of(root).search_logged_models([run.info.experiment_id])
    uri = f"sqlite:///{root}/mlflow.db"
    register(uri, ("mnist-lenet5", f"models:/{model.model_id}", 0.99))
    return uri


@pytest.mark.slow
def test_thousand_pictures_of_mnists_digits_are_recognized_in_seconds(
    predict, lenet5, compose, tmp_path
):
    test = config.build(compose(small=False).data).test()
    rng = np.random.default_rng(0)
    rows = rng.choice(10_000, 250, replace=False)
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "plain": lambda image: image,
        "inverted": ImageOps.invert,
        "on paper": lambda image: on_paper(image, rng),
        "noisy": lambda image: noisy(on_paper(image, rng), rng),
    }
    for change, made in changes.items():
        (tmp_path / change).mkdir()
        for n in rows:
            made(Image.fromarray(test.inputs[n, 0].numpy())).save(tmp_path / change / f"{n}.png")
    predict("plain/" + next((tmp_path / "plain").iterdir()).name, uri=lenet5)  # imports everything
    started = time.process_time()
    answers = table(predict(*changes, uri=lenet5).stdout)
    assert time.process_time() - started < 20
    for change in changes:
        right = [answers[f"{change}/{n}.png"][0] == test.targets[n] for n in rows]
        assert np.mean(right) > (0.96 if change == "noisy" else 0.97), change


@pytest.mark.slow
def test_drawn_digits_are_recognized_with_any_pen(predict, lenet5, tmp_path):
    pens = (3, 8, 20, 40)
    for pen in pens:
        for digit in range(10):
            draw(digit, pen=pen).save(tmp_path / f"{pen}-{digit}.png")
    answers = table(predict(tmp_path, uri=lenet5).stdout)
    for pen in pens:
        right = [answers[str(tmp_path / f"{pen}-{n}.png")][0] == n for n in range(10)]
        assert np.mean(right) >= 0.9, pen


@pytest.mark.slow
def test_champion_on_a_server_is_used_without_showing_the_password(predict, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    draw(7).save(tmp_path / "seven.png")
    (tmp_path / "remote").mkdir()
    with server(tmp_path / "remote") as (port, end):
        register(f"http://127.0.0.1:{port}", ("mnist-closest", closest_digit(), 0.9))
        uri = f"http://me:secret@127.0.0.1:{port}"
        done = predict("seven.png", uri=uri)
        assert re.fullmatch(r"7  \d+\.\d %  \(mnist-closest v1\)\n", done.stdout)
        end()
        done = predict("seven.png", uri=uri)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*MLflow.*\n", done.stderr)
    assert "secret" not in done.stderr
