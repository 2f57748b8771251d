"""The configuration: every file works, and a value that can't work is refused in words."""

import itertools
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, Compose
from omegaconf import OmegaConf, open_dict

from mnist import config
from mnist.errors import UserError

CONF = REPOSITORY / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
by_file = pytest.mark.parametrize("file", FILES, ids=str)


def header(file: Path) -> list[str]:
    """The comment lines at the top of a file, without those that are Hydra's."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), (CONF / file).read_text().splitlines()
    )
    return [line.removeprefix("# ") for line in lines if not line.startswith("# @package")]


def command(file: Path) -> list[str]:
    """The words of the command that a file's header gives."""
    commands = [line.split() for line in header(file) if line.startswith("python src/")]
    assert commands, f"conf/{file} gives no command"
    return commands[0]


def test_all_groups_are_looked_at() -> None:
    assert {file.parent.as_posix() for file in FILES} >= {
        *(".", "augmentation", "data", "experiment", "model", "optimizer", "scheduler"),
        "tracking",
    }


@by_file
def test_every_file_says_first_what_it_is_for_and_then_how_it_is_used(file: Path) -> None:
    first, *_ = header(file)
    assert first[0].isupper()
    assert command(file)[1] == "src/train.py"
    if file.parent != Path():
        assert f"{file.parent.as_posix()}={file.stem}" in command(file)


@by_file
def test_every_file_composes_by_its_command_passes_the_check_and_instantiates(
    compose: Compose, file: Path
) -> None:
    overrides = [word for word in command(file) if "=" in word]
    cfg = compose(*overrides, return_hydra_config=True)
    for node in ("hydra.sweeper.sampler", "hydra.sweeper.pruner"):
        if OmegaConf.select(cfg, node):
            assert config.build(OmegaConf.select(cfg, node))
    with open_dict(cfg):
        del cfg.hydra  # some of it is known only to a job
    cfg.n_steps = 10
    OmegaConf.resolve(cfg)
    config.check(cfg)
    model = config.build(cfg.model)
    optimizer = config.build(cfg.optimizer)(model.parameters())
    scheduler = config.build(cfg.scheduler)(optimizer)
    data = config.build(cfg.data)
    images = torch.zeros(2, data.n_channels, *data.image_size, dtype=torch.uint8)
    augmented = config.build(cfg.augmentation)(images.float())
    logits = model(data.normalize()(augmented))
    assert logits.shape == (2, data.n_classes)
    logits.sum().backward()
    optimizer.step()
    scheduler.step()
    assert config.build(cfg.tracking).run


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("epochs=abc", "a whole number, 0 or more"),
        ("epochs=-1", "a whole number, 0 or more"),
        ("epochs=2.5", "a whole number, 0 or more"),
        ("epochs=true", "a whole number, 0 or more"),
        ("epochs=null", "a whole number, 0 or more"),
        ("seed=-1", "a whole number from 0"),
        ("seed=9223372036854775808", "a whole number from 0"),
        ("label_smoothing=1", "a number from 0 to below 1"),
        ("n_threads=0", "null or a whole number from 1 to 1024"),
        ("n_threads=1000000", "null or a whole number from 1 to 1024"),
        ("data.batch_size=0", "a whole number, 1 or more"),
        ("data.batch_size=1e2", "a whole number, 1 or more"),
        ("data.n_train=0", "null or a whole number, 1 or more"),
        ("data.n_val=-1", "a whole number, 0 or more"),
        ("model.dropout=1.5", "a number from 0 to below 1"),
        ("model.dropout=abc", "a number from 0 to below 1"),
        ("optimizer.lr=-1", "a number above 0"),
        ("optimizer.lr=0", "a number above 0"),
        ("optimizer.lr=nan", "a number above 0"),
        ("optimizer.lr=inf", "a number above 0"),
        ("optimizer.weight_decay=-0.1", "a number, 0 or more"),
        ("optimizer.weight_decay=inf", "a number, 0 or more"),
        ("data.std=[0.0]", "numbers above 0"),
        ("data.std=3", "numbers above 0"),
        ("data.mean=[]", "a list of numbers"),
        ("data.name=../mnist", "letters, digits"),
        ("data.raw=", "a pattern of files"),
        ("data.raw=/etc/*", "a pattern of files"),
        ("data.image_size=28", "height and width"),
        ("data.split_seed=null", "a whole number from 0"),
        ("score_train=a@b", "null or a metric's name"),
        ("objective=3", "a metric, or a list of them"),
        ("objective=[]", "a metric, or a list of them"),
        ("optimizer.weight_decay=100000000000000000000", "a number, 0 or more"),
        ("score_test=maybe", "true or false"),
        ("objective=foo", "val/accuracy"),
        ("objective=test/acc", "val/accuracy"),
        ("objective=[val/accuracy,foo]", "val/accuracy"),
    ],
)
def test_wrong_value_is_refused_with_key_value_and_what_is_allowed(
    compose: Compose, override: str, allowed: str
) -> None:
    with pytest.raises(UserError) as refused:
        config.check(compose(override))
    key, _, value = override.partition("=")
    message = str(refused.value)
    assert message.startswith(f"{key}=")
    assert allowed in message
    if value.isalpha() and value not in ("null", "true"):
        assert value in message
    assert "\n" not in message


def test_validation_metric_is_no_objective_without_validation_images(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"data\.n_val=0 leaves nothing to validate on"):
        config.check(compose("data.n_val=0"))
    config.check(compose("data.n_val=0", "objective=train/accuracy"))


def test_several_objectives_are_allowed(compose: Compose) -> None:
    cfg = compose("objective=[val/accuracy,n_parameters]")
    config.check(cfg)
    assert config.objectives(cfg) == ["val/accuracy", "n_parameters"]
    assert config.objectives(compose()) == ["val/accuracy"]


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UserError, match=f"device={name}: this machine has .*cpu"):
        config.resolve_device(name)


def test_auto_takes_the_best_device() -> None:
    assert config.resolve_device("cpu") == torch.device("cpu")
    assert (config.resolve_device("auto").type == "cuda") == torch.cuda.is_available()


def test_architectures_have_the_same_settings(compose: Compose) -> None:
    flat = [config.flatten(compose(f"model={name}")) for name in ("baseline", "cnn", "lenet5")]
    assert set(flat[0]) == set(flat[1]) == set(flat[2])
    assert {"model.dropout", "optimizer.lr", "data.batch_size", "epochs"} <= set(flat[0])
    assert [values["model.dropout"] for values in flat] == [0.0, 0.2, 0.0]


def test_what_a_class_tells_the_user_is_told_as_it_is() -> None:
    node = OmegaConf.create({"_target_": "hydrasweep.search.storage.database", "url": "no URL"})
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage: its URL must be like"):
        config.build(node)


def test_error_of_a_users_class_comes_through_with_its_cause() -> None:
    node = OmegaConf.create({"_target_": "mnist.models.LeNet5", "dropout": 0})
    with pytest.raises(Exception, match="n_channels"):
        config.build(node)


def test_training_metric_is_no_objective_without_epochs(compose: Compose) -> None:
    with pytest.raises(UserError, match="epochs=0 trains nothing"):
        config.check(compose("epochs=0", "objective=train/accuracy"))
    config.check(compose("epochs=0"))
