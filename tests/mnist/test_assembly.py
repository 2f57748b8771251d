"""Assembly refuses parts that do not fit each other, before it trains them."""

import pytest
import torch
from torch import nn

from hydrasweep import UserError
from mnist.assembly import assemble, resolve_device


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=f"device={name}: .*cpu"):
        resolve_device(name)


def test_auto_chooses_the_best_device():
    assert resolve_device("cpu") == torch.device("cpu")
    assert (resolve_device("auto").type == "cuda") == torch.cuda.is_available()


@pytest.mark.parametrize("n_classes", [7, 12])
def test_model_with_another_number_of_classes_is_refused(compose, n_classes):
    with pytest.raises(UserError, match=rf"^model: .*\(32, {n_classes}\)"):
        assemble(compose("model=baseline", f"model.n_classes={n_classes}"))


def test_model_for_other_inputs_is_refused(compose):
    with pytest.raises(UserError, match=r"\(1, 28, 28\)"):
        assemble(compose("model=baseline", "model.n_channels=3"))


def test_directions_that_do_not_match_the_tasks_metrics_are_refused(compose):
    with pytest.raises(UserError, match=r"^task\.directions=.*f1.*: .*loss, accuracy"):
        assemble(compose("+task.directions.f1=maximize"))


def test_checking_the_parts_changes_neither_weights_nor_modes(compose):
    training = assemble(compose("model=baseline", "model.dropout=0.5")).training
    torch.manual_seed(0)
    plain = nn.Linear(784, 784)
    assert all(module.training for module in training.model.modules())
    assert torch.equal(next(training.model.parameters()), plain.weight)


def test_number_of_steps_is_set_for_schedulers(compose):
    cfg = compose("epochs=3", "data.n_train=70", "data.batch_size=32")
    assert assemble(cfg).n_steps == cfg.n_steps == 9
