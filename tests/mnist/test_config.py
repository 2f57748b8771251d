"""The configuration: every file works, and a value that can't work is refused in words."""

import itertools
from pathlib import Path

import pytest
import torch
from application import REPOSITORY, SMALL, Compose, Script
from omegaconf import OmegaConf, open_dict

from hydrasweep import UserError
from mnist import config

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
        *(".", "augmentation", "data", "experiment", "hparams_search", "hydra/job_logging"),
        *("model", "optimizer", "scheduler", "task", "tracking"),
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
        ("epochs=abc", "a whole number from 0"),
        ("epochs=-1", "a whole number from 0"),
        ("epochs=2.5", "a whole number from 0"),
        ("epochs=true", "a whole number from 0"),
        ("epochs=null", "a whole number from 0"),
        ("seed=-1", "a whole number from 0"),
        ("seed=9223372036854775808", "a whole number from 0"),
        ("fast_layers=none", "null, or classes by modules' names"),
        ("fast_layers={model:1}", "null, or classes by modules' names"),
        ("n_threads=0", "null or a whole number from 1 to 1024"),
        ("n_threads=1000000", "null or a whole number from 1 to 1024"),
        ("data.batch_size=0", "a whole number from 1"),
        ("data.batch_size=1e2", "a whole number from 1"),
        ("score_test=maybe", "true or false"),
        ("score_train=a@b", "null or one of NAME/loss, NAME/accuracy"),
        ("score_train=a/f1", "null or one of NAME/loss, NAME/accuracy"),
        ("objective=3", "val/accuracy"),
        ("objective=[]", "val/accuracy"),
        ("objective=foo", "val/accuracy"),
        ("objective=test/accuracy", "val/accuracy"),
        ("objective=[val/accuracy,foo]", "val/accuracy"),
        ("task.directions={loss:down}", "its direction"),
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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.dropout=1.5", "model: .*has to be between 0 and 1, but got 1.5"),
        ("optimizer.lr=-1", "optimizer: .*Invalid learning rate: -1"),
        ("optimizer.lr=nan", "optimizer: .*Invalid learning rate: nan"),
        ("optimizer.weight_decay=-0.1", "optimizer: .*Invalid weight_decay value: -0.1"),
        ("scheduler.pct_start=2", "scheduler: .*pct_start"),
        ("task.label_smoothing=1", r"task\.label_smoothing=1: must be from 0 to below 1"),
        ("data.std=[0.0]", r"data\.std=\[0\.0\]: must be"),
        ("data.n_train=0", r"data\.n_train=0: must be"),
    ],
)
def test_class_refuses_its_own_settings(compose: Compose, override: str, words: str) -> None:
    def build() -> None:
        for name in ("model", "task", "data"):
            config.build(cfg[name])
        weights = [torch.nn.Parameter(torch.zeros(1))]
        config.build(cfg.scheduler, config.build(cfg.optimizer, weights))

    cfg = compose(override)
    cfg.n_steps = 10
    config.check(cfg)
    with pytest.raises(UserError, match=f"^{words}") as refused:
        build()
    assert "\n" not in str(refused.value)


def test_setting_that_nothing_reads_is_refused(script: Script) -> None:
    done = script("train.py", "+lr=0.1")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: +lr=0.1: adds a setting that nothing reads; meant was, it seems, optimizer.lr=0.1\n"
    )
    done = script("train.py", "study=first")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: study=first: names a sweep, and none was chosen: "
        "python src/train.py -m hparams_search=optuna study=first\n"
    )
    done = script("train.py", "+mine=0.1", "tracking=none", "artifacts=false", *SMALL)
    assert done.returncode == 0, done.stderr


def test_metric_of_what_is_not_measured_is_no_objective(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"data\.n_val=0 leaves nothing to validate on"):
        config.check(compose("data.n_val=0"))
    config.check(compose("data.n_val=0", "objective=train/accuracy"))
    with pytest.raises(UserError, match="epochs=0 trains nothing"):
        config.check(compose("epochs=0", "objective=train/accuracy"))
    config.check(compose("epochs=0"))


def test_several_objectives_are_allowed(compose: Compose) -> None:
    cfg = compose("objective=[val/accuracy,n_parameters]")
    config.check(cfg)
    assert config.objectives(cfg) == ["val/accuracy", "n_parameters"]
    assert config.objectives(compose()) == ["val/accuracy"]


def test_task_says_which_way_each_metric_improves(compose: Compose) -> None:
    known = config.metric_directions(compose())
    assert known["val/loss"] == known["train/loss"] == known["n_parameters"] == "minimize"
    assert known["val/accuracy"] == known["train/accuracy"] == "maximize"
    other = compose("+task.directions.f1=maximize")
    assert config.metric_directions(other)["val/f1"] == "maximize"


def test_identity_is_the_choice_and_else_the_class(compose: Compose, tmp_path: Path) -> None:
    cfg = compose("model=cnn")
    assert config.choices(cfg, tmp_path)["model"] == "cnn"
    assert config.choices(cfg, tmp_path)["optimizer"] == "adamw"
    (tmp_path / ".hydra").mkdir()
    recorded = "hydra: {runtime: {choices: {model: cnn_wide}}}"
    (tmp_path / ".hydra" / "hydra.yaml").write_text(recorded)
    assert config.choices(cfg, tmp_path)["model"] == "cnn_wide"


def test_architectures_have_the_same_settings(compose: Compose) -> None:
    names = [compose(f"model={name}").model.keys() for name in ("baseline", "cnn", "lenet5")]
    assert names[0] == names[1] == names[2]
    assert "dropout" in names[0]


def test_what_a_class_tells_the_user_is_told_as_it_is(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"^model=lenet5 takes images of 28x28 pixels"):
        config.build(compose("model=lenet5", "data.image_size=[8,8]").model)


def test_error_of_a_users_class_comes_through_with_its_cause() -> None:
    node = OmegaConf.create({"model": {"_target_": "mnist.models.LeNet5", "dropout": 0}})
    with pytest.raises(UserError, match=r"^model: .*n_channels"):
        config.build(node.model)
