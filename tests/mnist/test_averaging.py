"""Weights averaged over an epoch's last steps are scored and saved; training does not use them."""

import pytest
import torch
from application import parts
from torch import nn

from hydrasweep import UserError
from mnist import config
from mnist.averaging import EVERY, WeightAverage
from mnist.training import fit, predict

SIZES = ("epochs=2", "data.n_train=400", "data.batch_size=16")


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("share", [0.1, 0.5, 1])
def test_mean_is_over_every_fourth_of_the_last_steps(share):
    model = nn.Linear(2, 2)
    average, seen = WeightAverage(model, share), []
    for step in range(20):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(step, 20)
        if step >= 20 - 20 * share and (19 - step) % EVERY == 0:
            seen.append(float(step))
    own = weights(model)
    average.finish(())
    with average.applied():
        assert torch.allclose(model.weight, torch.full((2, 2), sum(seen) / len(seen)))
        assert torch.allclose(model.bias, own[1])
    assert all(map(torch.equal, weights(model), own))
    assert seen[-1] == 19


def test_averaging_does_not_change_training(compose):
    ends = []
    for share in (0, 0.5):
        training, train, val = parts(compose(*SIZES, f"average_weights={share}"))
        *_, metrics = fit(training, train, val, epochs=2, batch_size=16)
        ends.append((weights(training.model), metrics["train/loss"], metrics["val/loss"]))
    (raw, loss, score), (same, same_loss, other_score) = ends
    assert all(map(torch.equal, raw, same))
    assert loss == same_loss
    assert score != other_score


def test_predictions_use_the_mean_also_after_loading(compose, tmp_path):
    training, train, val = parts(compose(*SIZES))
    list(fit(training, train, val, epochs=2, batch_size=16))
    own = weights(training.model)
    outputs = predict(training, val)
    assert all(map(torch.equal, weights(training.model), own))
    training.save(tmp_path / "last.pt")
    training.average = WeightAverage(training.model, 0)
    assert not torch.equal(outputs, predict(training, val))
    again, *_ = parts(compose(*SIZES))
    again.load(tmp_path / "last.pt")
    assert torch.equal(predict(again, val), outputs)


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_batch_norm_has_statistics_of_its_own_for_the_mean(compose):
    cfg = compose(*SIZES)
    cfg.model = {"_target_": "test_averaging.Normed"}
    training, train, val = parts(cfg)
    history = list(fit(training, train, val, epochs=2, batch_size=16))
    norm = training.model[2]
    own = norm.running_mean.clone()
    with training.average.applied():
        hidden = training.model[1](training.model[0](training.normalize(train.inputs.float())))
        assert torch.allclose(norm.running_mean, hidden.mean(0), atol=0.05)
        assert not torch.equal(norm.running_mean, own)
    assert torch.equal(norm.running_mean, own)
    assert history[-1]["val/accuracy"] > 0.2


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", "null"])
def test_share_out_of_range_is_refused(compose, share):
    with pytest.raises(UserError, match=f"average_weights={share}".replace("null", "None")):
        config.check(compose(f"average_weights={share}"))
