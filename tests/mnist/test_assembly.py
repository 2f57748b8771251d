"""Assembly: parts that don't fit each other are refused before anything is spent on them."""

import pytest
import torch
from application import Compose
from torch import nn

from hydrasweep import UserError
from mnist.assembly import assemble, resolve_device


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UserError, match=f"device={name}: this machine has .*cpu"):
        resolve_device(name)


def test_auto_takes_the_best_device() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert (resolve_device("auto").type == "cuda") == torch.cuda.is_available()


@pytest.mark.parametrize("n_classes", [7, 12])
def test_model_with_another_number_of_classes_is_refused(compose: Compose, n_classes: int) -> None:
    with pytest.raises(UserError, match=rf"^model: its output .*\(32, {n_classes}\)"):
        assemble(compose("model=baseline", f"model.n_classes={n_classes}"))


def test_model_for_other_inputs_is_refused(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"don't fit inputs of the shape \(1, 28, 28\)"):
        assemble(compose("model=baseline", "model.n_channels=3"))


def test_task_gives_the_metrics_that_its_directions_name(compose: Compose) -> None:
    with pytest.raises(UserError, match=r"^task\.directions=.*f1.*: must name loss, accuracy"):
        assemble(compose("+task.directions.f1=maximize"))


def test_trial_of_parts_changes_nothing(compose: Compose) -> None:
    training = assemble(compose("model=baseline", "model.dropout=0.5")).training
    torch.manual_seed(0)
    plain = nn.Linear(784, 784)
    assert all(module.training for module in training.model.modules())
    assert torch.equal(next(training.model.parameters()), plain.weight)


def test_steps_are_counted_for_schedulers(compose: Compose) -> None:
    cfg = compose("epochs=3", "data.n_train=70", "data.batch_size=32")
    assert assemble(cfg).n_steps == cfg.n_steps == 9
