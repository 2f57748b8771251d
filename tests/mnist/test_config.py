"""Every file of the configuration works, and values that cannot work are refused."""

import itertools
from pathlib import Path

import pytest
import torch
from application import REPOSITORY
from omegaconf import OmegaConf, open_dict

from hydrasweep import UserError
from mnist import config

CONF = REPOSITORY / "conf"
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))


def test_files_of_all_groups_are_found():
    assert {file.parent.as_posix() for file in FILES} >= {
        *(".", "augmentation", "data", "experiment", "hparams_search", "hydra/job_logging"),
        *("model", "optimizer", "scheduler", "task", "tracking"),
    }


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_begins_with_its_purpose_and_a_command_whose_config_can_be_built(compose, file):
    lines = (CONF / file).read_text().splitlines()
    header = itertools.takewhile(lambda line: line.startswith("#"), lines)
    purpose, *others = (
        line.removeprefix("# ") for line in header if not line.startswith("# @package")
    )
    assert purpose[0].isupper()
    command = next(line.split() for line in others if line.startswith("python src/"))
    assert command[1] == "src/train.py"
    if file.parent != Path():
        assert f"{file.parent.as_posix()}={file.stem}" in command

    cfg = compose(*(word for word in command if "=" in word), return_hydra_config=True)
    for node in ("hydra.sweeper.sampler", "hydra.sweeper.pruner"):
        if OmegaConf.select(cfg, node):
            assert config.build(OmegaConf.select(cfg, node))
    with open_dict(cfg):
        del cfg.hydra  # some of its values exist only in a job
    cfg.n_steps = 10
    OmegaConf.resolve(cfg)
    config.check(cfg)
    model, task, data = (config.build(cfg[name]) for name in ("model", "task", "data"))
    optimizer = config.build(cfg.optimizer)(model.parameters())
    scheduler = config.build(cfg.scheduler)(optimizer)
    images = torch.zeros(2, data.n_channels, *data.image_size, dtype=torch.uint8)
    augmented = config.build(cfg.augmentation)(images.float())
    task.loss(model(data.normalize()(augmented)), torch.tensor([0, 1])).backward()
    optimizer.step()
    scheduler.step()
    assert config.build(cfg.tracking).run


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        *((f"epochs={value}", "0 .*2147483647") for value in ("abc", "-1", "2.5", "true", "null")),
        ("seed=-1", "0 .*9223372036854775807"),
        ("seed=9223372036854775808", "0 .*9223372036854775807"),
        ("fast_layers=none", "null"),
        ("fast_layers={model:1}", "null"),
        ("n_threads=0", "null .*1 .*1024"),
        ("n_threads=1000000", "null .*1 .*1024"),
        ("data.batch_size=0", "1 .*2147483647"),
        ("data.batch_size=1e2", "1 .*2147483647"),
        ("score_test=maybe", "true .*false"),
        ("score_train=a@b", "null .*NAME/loss, NAME/accuracy"),
        ("score_train=a/f1", "null .*NAME/loss, NAME/accuracy"),
        *((f"objective={value}", "val/accuracy") for value in ("3", "[]", "foo", "test/accuracy")),
        ("objective=[val/accuracy,foo]", "val/accuracy"),
        ("task.directions={loss:down}", "down"),
    ],
)
def test_wrong_value_is_refused_with_key_value_and_what_is_allowed(compose, override, allowed):
    with pytest.raises(UserError, match=allowed) as refused:
        config.check(compose(override))
    key, _, value = override.partition("=")
    message = str(refused.value)
    assert message.startswith(f"{key}=")
    if value.isalpha() and value not in ("null", "true"):
        assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dropout=1.5", "model: .*1.5"),
        ("optimizer.lr=-1", "optimizer: .*-1"),
        ("optimizer.lr=nan", "optimizer: .*nan"),
        ("optimizer.weight_decay=-0.1", "optimizer: .*weight_decay.*-0.1"),
        ("scheduler.pct_start=2", "scheduler: .*pct_start"),
        ("task.label_smoothing=1", r"task\.label_smoothing=1: "),
        ("data.std=[0.0]", r"data\.std=\[0\.0\]: "),
        ("data.n_train=0", r"data\.n_train=0: "),
        ("data.image_size=[8,8]", "model=lenet5 .*28x28"),
    ],
)
def test_class_refuses_its_own_settings(compose, override, message):
    cfg = compose(override)
    cfg.n_steps = 10
    config.check(cfg)
    weights = [torch.nn.Parameter(torch.zeros(1))]

    def build():
        for name in ("model", "task", "data"):
            config.build(cfg[name])
        config.build(cfg.scheduler, config.build(cfg.optimizer, weights))

    with pytest.raises(UserError, match=f"^{message}") as refused:
        build()
    assert "\n" not in str(refused.value)


def test_error_of_a_users_class_names_the_group_and_its_cause():
    node = OmegaConf.create({"model": {"_target_": "mnist.models.LeNet5", "dropout": 0}})
    with pytest.raises(UserError, match=r"^model: .*n_channels"):
        config.build(node.model)


def test_added_setting_of_the_users_own_is_kept(trained):
    assert trained.done.returncode == 0
    assert OmegaConf.load(trained.output_dir / "config.yaml").mine == 0.1


def test_objective_that_is_not_measured_is_refused(compose):
    with pytest.raises(UserError, match=r"data\.n_val=0"):
        config.check(compose("data.n_val=0"))
    config.check(compose("data.n_val=0", "objective=train/accuracy"))
    with pytest.raises(UserError, match="epochs=0"):
        config.check(compose("epochs=0", "objective=train/accuracy"))
    config.check(compose("epochs=0"))


def test_objective_is_one_metric_or_several(compose):
    cfg = compose("objective=[val/accuracy,n_parameters]")
    config.check(cfg)
    assert config.objectives(cfg) == ["val/accuracy", "n_parameters"]
    assert config.objectives(compose()) == ["val/accuracy"]


def test_task_gives_each_metric_its_direction(compose):
    known = config.metric_directions(compose())
    assert known["val/loss"] == known["train/loss"] == known["n_parameters"] == "minimize"
    assert known["val/accuracy"] == known["train/accuracy"] == "maximize"
    other = compose("+task.directions.f1=maximize")
    assert config.metric_directions(other)["val/f1"] == "maximize"


def test_choice_of_a_group_is_read_from_hydras_files_or_is_the_class(compose, tmp_path):
    cfg = compose("model=cnn")
    assert config.choices(cfg, tmp_path)["model"] == "cnn"
    assert config.choices(cfg, tmp_path)["optimizer"] == "adamw"
    (tmp_path / ".hydra").mkdir()
    recorded = "hydra: {runtime: {choices: {model: cnn_wide}}}"
    (tmp_path / ".hydra" / "hydra.yaml").write_text(recorded)
    assert config.choices(cfg, tmp_path)["model"] == "cnn_wide"


def test_architectures_have_the_same_settings(compose):
    names = [compose(f"model={name}").model.keys() for name in ("baseline", "cnn", "lenet5")]
    assert names[0] == names[1] == names[2]
    assert "dropout" in names[0]
