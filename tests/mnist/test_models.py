"""The architectures: their sizes and their inputs, and a user's own."""

import pytest
import torch
from application import parts
from torch.nn import functional as F

from hydrasweep import UserError
from mnist import config
from mnist.training import fit
from train import train

ARCHITECTURES = ("baseline", "cnn", "lenet5", "vgg")


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [("baseline", 623_290), ("cnn", 934_798), ("lenet5", 61_706), ("vgg", 70_330)],
)
def test_number_of_parameters_and_shape_of_logits(compose, name, n_parameters):
    model = config.build(compose(f"model={name}").model)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_models_and_their_weights_are_plain_torch(compose):
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
def test_channels_and_classes_come_from_the_data(compose, name):
    cfg = compose(f"model={name}", "data.n_channels=3", "data.n_classes=4")
    assert config.build(cfg.model)(torch.rand(2, 3, 28, 28)).shape == (2, 4)


@pytest.mark.parametrize("name", ["baseline", "cnn", "vgg"])
def test_image_size_comes_from_the_data(compose, name):
    cfg = compose(f"model={name}", "data.image_size=[9,14]")
    assert config.build(cfg.model)(torch.rand(2, 1, 9, 14)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size", "taken"),
    [("lenet5", "32,32", "28x28"), ("cnn", "1,28", "2x2"), ("vgg", "3,28", "4x4")],
)
def test_image_sizes_that_do_not_fit_an_architecture_are_refused(compose, name, size, taken):
    with pytest.raises(UserError, match=rf"model={name} .*{taken}.*data\.image_size") as refused:
        config.build(compose(f"model={name}", f"data.image_size=[{size}]").model)
    assert size.replace(",", "x") in str(refused.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropout_acts_in_training_and_not_in_evaluation(compose, name):
    images = torch.rand(2, 1, 28, 28)
    model = config.build(compose(f"model={name}", "model.dropout=0.5").model)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
    without = config.build(compose(f"model={name}", "model.dropout=0").model)
    assert torch.equal(without(images), without(images))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_batch_can_be_overfitted(compose, name):
    few = ("epochs=40", "data.n_train=16", "data.n_val=0", "data.batch_size=16")
    training, images, val = parts(
        compose(f"model={name}", "model.dropout=0", "scheduler=constant", *few)
    )
    *_, last = fit(training, images, val, epochs=40, batch_size=16)
    assert last["train/accuracy"] == 1
    assert last["train/loss"] < 0.05
    logits = training.model(training.normalize(images.inputs))
    assert F.cross_entropy(logits, images.targets) < 0.05


LINEAR = """
from torch import nn

class Linear(nn.Sequential):
    def __init__(self, n_channels, image_size, n_classes):
        n_inputs = n_channels * image_size[0] * image_size[1]
        super().__init__(nn.Flatten(), nn.Linear(n_inputs, n_classes))
"""
LINEAR_YAML = """
_target_: my_models.Linear
n_channels: ${data.n_channels}
image_size: ${data.image_size}
n_classes: ${data.n_classes}
"""


def test_users_architecture_is_one_class_and_one_yaml_file(
    compose, output_dir, tmp_path, monkeypatch
):
    (tmp_path / "my_models.py").write_text(LINEAR)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "linear.yaml").write_text(LINEAR_YAML)
    path = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    lean = ("tracking=none", "artifacts=false", "score_test=false")
    cfg = compose(path, "model=linear", "epochs=2", *lean, "objective=n_parameters")
    assert train(cfg, output_dir) == 7850
    assert len((output_dir / "metrics.jsonl").read_text().splitlines()) == 2
