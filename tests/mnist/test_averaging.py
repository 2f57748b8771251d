"""Weights averaged over an epoch's last steps: scored and saved, and no part of training."""

from pathlib import Path

import pytest
import torch
from application import Compose, parts
from torch import Tensor, nn

from hydrasweep import UserError
from mnist.averaging import EVERY, WeightAverage
from mnist.training import fit, predict


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("share", [0.1, 0.5, 1])
def test_mean_is_that_of_every_fourth_of_the_last_steps(share: float) -> None:
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


def test_it_is_no_part_of_training(compose: Compose) -> None:
    ends = []
    for share in (0, 0.5):
        cfg = compose(
            "epochs=2", "data.n_train=400", "data.batch_size=16", f"average_weights={share}"
        )
        training, train, val = parts(cfg)
        *_, metrics = fit(training, train, val, epochs=2, batch_size=16)
        ends.append((weights(training.model), metrics["train/loss"], metrics["val/loss"]))
    (raw, loss, score), (same, same_loss, other_score) = ends
    assert all(map(torch.equal, raw, same))
    assert loss == same_loss
    assert score != other_score


def test_predictions_are_the_means(compose: Compose) -> None:
    training, train, val = parts(compose("epochs=1", "data.n_train=400", "data.batch_size=16"))
    list(fit(training, train, val, epochs=1, batch_size=16))
    own = weights(training.model)
    outputs = predict(training, val)
    assert all(map(torch.equal, weights(training.model), own))
    training.average = WeightAverage(training.model, 0)
    assert not torch.equal(outputs, predict(training, val))


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def test_batch_norm_is_measured_anew_for_the_mean(compose: Compose) -> None:
    cfg = compose("epochs=2", "data.n_train=400", "data.batch_size=16")
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


def test_mean_is_saved_and_goes_on(compose: Compose, tmp_path: Path) -> None:
    overrides = ("epochs=2", "data.n_train=400", "data.batch_size=16")
    training, train, val = parts(compose(*overrides))
    list(fit(training, train, val, epochs=2, batch_size=16))
    training.save(tmp_path / "last.pt")
    again, *_ = parts(compose(*overrides))
    again.load(tmp_path / "last.pt")
    assert torch.equal(predict(again, val), predict(training, val))


@pytest.mark.parametrize("share", [-0.1, 1.5, "half", "null"])
def test_share_out_of_range_is_refused(compose: Compose, share: object) -> None:
    from mnist import config

    with pytest.raises(UserError, match=f"average_weights={share}".replace("null", "None")):
        config.check(compose(f"average_weights={share}"))
