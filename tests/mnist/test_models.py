"""The architectures: their sizes, what they take, and one brought from outside the package."""

from pathlib import Path
from textwrap import dedent

import pytest
import torch
from application import Compose, Script, parts
from torch.nn import functional as F

from hydrasweep import UserError
from mnist import config
from mnist.training import fit

ARCHITECTURES = ("baseline", "cnn", "lenet5", "vgg")


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [("baseline", 623_290), ("cnn", 934_798), ("lenet5", 61_706), ("vgg", 70_330)],
)
def test_number_of_parameters_and_shape_of_logits(
    compose: Compose, name: str, n_parameters: int
) -> None:
    model = config.build(compose(f"model={name}").model)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_models_and_their_weights_are_plain_torch(compose: Compose) -> None:
    names = {
        "baseline": ["classifier.1", "classifier.4"],
        "cnn": ["features.0", "classifier.1", "classifier.3"],
        "lenet5": ["features.0", "features.3", "features.6", "classifier.2", "classifier.5"],
    }
    for name, layers in names.items():
        model = config.build(compose(f"model={name}").model)
        assert {type(module).__module__.partition(".")[0] for module in model.children()} == {
            "torch"
        }
        weights = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
        assert list(model.state_dict()) == weights


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_and_classes_come_from_the_data(compose: Compose, name: str) -> None:
    cfg = compose(f"model={name}", "data.n_channels=3", "data.n_classes=4")
    assert config.build(cfg.model)(torch.rand(2, 3, 28, 28)).shape == (2, 4)


@pytest.mark.parametrize("name", ["baseline", "cnn", "vgg"])
def test_image_size_comes_from_the_data(compose: Compose, name: str) -> None:
    cfg = compose(f"model={name}", "data.image_size=[9,14]")
    assert config.build(cfg.model)(torch.rand(2, 1, 9, 14)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size", "taken"),
    [("lenet5", "32,32", "28x28"), ("cnn", "1,28", "2x2"), ("vgg", "3,28", "4x4")],
)
def test_images_that_an_architecture_cannot_take_are_refused(
    compose: Compose, name: str, size: str, taken: str
) -> None:
    with pytest.raises(UserError, match=rf"model={name} .*{taken}.*data\.image_size") as refused:
        config.build(compose(f"model={name}", f"data.image_size=[{size}]").model)
    assert size.replace(",", "x") in str(refused.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropout_acts_in_training_and_not_in_evaluation(compose: Compose, name: str) -> None:
    images = torch.rand(2, 1, 28, 28)
    model = config.build(compose(f"model={name}", "model.dropout=0.5").model)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    without = config.build(compose(f"model={name}", "model.dropout=0").model)
    assert torch.equal(without(images), without(images))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_batch_can_be_overfitted(compose: Compose, name: str) -> None:
    cfg = compose(
        f"model={name}", "model.dropout=0", "scheduler=constant", "epochs=50", "data.n_train=32"
    )
    training, train, val = parts(cfg)
    *_, last = fit(training, train, val, epochs=50, batch_size=32)
    assert last["train/accuracy"] == 1
    assert last["train/loss"] < 0.05
    logits = training.model(training.normalize(train.inputs))
    assert F.cross_entropy(logits, train.targets) < 0.05


def test_architecture_from_outside_is_one_class_and_one_yaml(
    script: Script, tmp_path: Path
) -> None:
    (tmp_path / "my_models.py").write_text(
        dedent(
            """
            from torch import nn

            class Linear(nn.Sequential):
                def __init__(self, n_channels, image_size, n_classes):
                    n_inputs = n_channels * image_size[0] * image_size[1]
                    super().__init__(nn.Flatten(), nn.Linear(n_inputs, n_classes))
            """
        )
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "linear.yaml").write_text(
        dedent(
            """
            _target_: my_models.Linear
            n_channels: ${data.n_channels}
            image_size: ${data.image_size}
            n_classes: ${data.n_classes}
            """
        )
    )
    done = script(
        "train.py",
        f"--config-dir={tmp_path / 'conf'}",
        "model=linear",
        "epochs=2",
        "tracking=none",
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "linear, 7,850 parameters" in done.stdout
    assert "epoch 2/2" in done.stdout
