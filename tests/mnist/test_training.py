"""The training loop equals plain PyTorch, repeats bit by bit with one seed, and can be resumed."""

import math
from typing import Any

import pytest
import torch
from application import MakesFolder, parts
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from hydrasweep import UserError
from mnist import config
from mnist.averaging import WeightAverage
from mnist.data import Normalize, Split
from mnist.tasks import Classification
from mnist.training import NonFiniteLossError, Training, evaluate, fit, predict

METRICS = {
    "train/loss",
    "train/accuracy",
    "val/loss",
    "val/accuracy",
    "lr",
    "time/epoch_seconds",
    "time/train_seconds",
    "time/samples_per_second",
}
# Dropout and augmentation draw random numbers; the optimizer and the scheduler keep a state.
LIVELY = ("model.dropout=0.3", "augmentation=affine", "epochs=4", "data.n_train=128")

History = list[dict[str, float]]


def trained(compose, *overrides):
    cfg = compose(*overrides)
    training, train, val = parts(cfg)
    sizes = {"epochs": cfg.epochs, "batch_size": cfg.data.batch_size}
    return training, list(fit(training, train, val, **sizes))


def without_times(history):
    return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in history]


def same_weights(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_same_seed_gives_the_same_bits_and_another_seed_others(compose):
    one, history = trained(compose, *LIVELY)
    same, same_history = trained(compose, *LIVELY)
    other, other_history = trained(compose, *LIVELY, "seed=1")
    assert same_weights(one, same)
    assert without_times(history) == without_times(same_history)
    assert not same_weights(one, other)
    assert history[-1]["train/loss"] != other_history[-1]["train/loss"]


class WaitsForDevice(TorchDispatchMode):
    """Counts the operations that would make the host wait for its GPU."""

    NAMES = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"})

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        self.n += func.__name__.partition(".")[0] in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "groups",
    [
        ("model=baseline", "optimizer=adam", "augmentation=none", "scheduler=cosine"),
        ("model=cnn", "optimizer=sgd", "augmentation=affine", "scheduler=constant"),
        ("model=lenet5", "optimizer=adamw", "augmentation=elastic", "scheduler=linear"),
    ],
    ids="-".join,
)
def test_no_batch_waits_for_the_device(compose, groups):
    counts = []
    for n_train in (32, 96):
        sizes = "epochs=2", "data.batch_size=16", f"data.n_train={n_train}"
        training, train, val = parts(compose(*groups, *sizes))
        epochs = fit(training, train, val, epochs=2, batch_size=16)
        next(epochs)  # the first epoch initializes the optimizer's state
        with WaitsForDevice() as waits:
            next(epochs)
        counts.append(waits.n)
    assert 0 < counts[0] == counts[1], "waits in an epoch of 2 and of 6 batches"


def test_each_epoch_yields_one_dict_of_the_same_metrics(compose):
    _, history = trained(compose, "epochs=2")
    first, second = history
    assert [set(metrics) for metrics in history] == [METRICS, METRICS]
    assert all(math.isfinite(value) for metrics in history for value in metrics.values())
    assert second["train/loss"] < first["train/loss"]
    assert 0 < first["time/train_seconds"] < first["time/epoch_seconds"]
    seconds = second["time/train_seconds"] - first["time/train_seconds"]
    assert second["time/samples_per_second"] == pytest.approx(600 / seconds)
    _, (metrics,) = trained(compose, "epochs=1", "data.n_val=0")
    assert set(metrics) == {name for name in METRICS if not name.startswith("val/")}
    assert trained(compose, "epochs=0")[1] == []


def test_equals_a_plain_pytorch_loop(compose):
    groups = ("optimizer=adam", "scheduler=cosine", "average_weights=0")
    overrides = (*groups, "epochs=2", "data.n_train=300", "data.batch_size=50")
    _, history = trained(compose, *overrides, "task.label_smoothing=0.1")

    ours, train, val = parts(compose(*overrides))
    model = ours.model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def inputs(images):
        return (images / 255 - 0.1307) / 0.3081

    for metrics in history:
        order = torch.randperm(300).tolist()
        loader = DataLoader(
            TensorDataset(train.inputs, train.targets),
            batch_size=50,
            sampler=order,
            generator=torch.Generator(),  # otherwise it draws from the global generator
        )
        losses = []
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs(images)), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        assert metrics["train/loss"] == pytest.approx(sum(losses) / 6, rel=1e-4)
        with torch.no_grad():
            logits = model(inputs(val.inputs))
        assert metrics["val/loss"] == pytest.approx(
            F.cross_entropy(logits, val.targets).item(), rel=1e-3
        )
        assert metrics["val/accuracy"] == pytest.approx(
            (logits.argmax(1) == val.targets).float().mean().item(), abs=0.01
        )


def test_training_metrics_weight_the_short_last_batch_by_its_size(compose):
    cfg = compose("data.n_train=70", "optimizer=sgd", "optimizer.lr=1e-30", "scheduler=constant")
    training, train, val = parts(cfg)
    expected = evaluate("train", training, train)
    (metrics,) = fit(training, train, val, epochs=1, batch_size=64)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_evaluation_counts_every_row_in_evaluation_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2))
    split = Split(
        torch.randint(0, 256, (2345, 1, 2, 2), dtype=torch.uint8), torch.randint(0, 2, (2345,))
    )
    normalize, task = Normalize([0.5], [0.5]), Classification({}, 2, 0.1)
    unused: Any = None
    average = WeightAverage(model, 0)
    training = Training(model, normalize, nn.Identity(), task, unused, unused, average)
    logits = predict(training, split)
    assert model.training
    model.eval()
    expected = model(normalize(split.inputs))
    torch.testing.assert_close(logits, expected)
    metrics = evaluate("test", training, split)
    n_right = sum(int(expected[i].argmax() == split.targets[i]) for i in range(2345))
    loss = F.cross_entropy(expected, split.targets).item()
    assert metrics == {"test/loss": pytest.approx(loss), "test/accuracy": n_right / 2345}


def test_watch_sees_every_batch(compose):
    training, train, val = parts(compose("data.n_train=70"))
    seen = []

    def watch(batches):
        for batch in batches:
            seen.append(len(batch))
            yield batch

    list(fit(training, train, val, epochs=2, batch_size=32, watch=watch))
    assert seen == [32, 32, 6] * 2


def test_loss_that_is_not_finite_is_refused_with_its_epoch_and_step(compose):
    class TurnsBad(nn.Module):
        """Its logits are infinite from the sixth training step on."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))
            self.n_calls = 0

        def forward(self, images):
            self.n_calls += self.training
            logits = self.weight.expand(len(images), 10)
            return logits * (torch.inf if self.n_calls >= 6 else 1)

    training, train, val = parts(compose("data.n_train=64", "scheduler=constant"))
    training.model = TurnsBad()
    epochs = fit(training, train, val, epochs=3, batch_size=16)
    next(epochs)
    with pytest.raises(NonFiniteLossError, match=r"step 2 .*epoch 2"):
        next(epochs)


def test_divergence_is_found_with_a_real_optimizer(compose):
    with pytest.raises(NonFiniteLossError, match="epoch 1"):
        trained(compose, "model=baseline", "optimizer=sgd", "optimizer.lr=1e20", "epochs=2")


@pytest.mark.parametrize("group", ["optimizer=adamw", "optimizer=sgd_momentum"])
def test_resumed_training_ends_with_the_same_bits(compose, tmp_path, group):
    whole, history = trained(compose, *LIVELY, group)
    cfg = compose(*LIVELY, group)
    first, train, val = parts(cfg)
    epochs = fit(first, train, val, epochs=4, batch_size=64)
    next(epochs), next(epochs)
    first.save(tmp_path / "last.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]

    second, train, val = parts(cfg)
    torch.manual_seed(12345)
    second.load(tmp_path / "last.pt")
    rest = list(fit(second, train, val, epochs=4, batch_size=64))
    assert second.epoch == 4
    assert same_weights(whole, second)
    assert without_times(rest) == without_times(history[2:])


DAMAGES = ["cut short", "empty", "other bytes", "other model", "no state", "half a state", "code"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoint_that_cannot_be_loaded_is_refused(compose, tmp_path, damage):
    path = tmp_path / "last.pt"
    training, _, _ = parts(compose("model=lenet5"))
    training.save(path)
    whole = path.read_bytes()
    contents = {"cut short": whole[:-1000], "empty": b"", "other bytes": b"no checkpoint"}
    path.write_bytes(contents.get(damage, whole))
    if damage == "no state":
        torch.save([1, 2, 3], path)
    if damage == "half a state":
        state = torch.load(path, weights_only=True)
        del state["generator"]
        torch.save(state, path)
    if damage == "other model":
        training, _, _ = parts(compose("model=baseline"))
    if damage == "code":
        torch.save({"model": MakesFolder(tmp_path / "made")}, path)
    with pytest.raises(UserError, match=r"last\.pt"):
        training.load(path)
    assert not (tmp_path / "made").exists()


SCHEDULERS = ["constant", "cosine", "linear", "onecycle"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_scheduler_lasts_to_the_last_step(compose, scheduler):
    training, history = trained(compose, f"scheduler={scheduler}", "epochs=3", "data.n_train=70")
    last = {
        "constant": history[0]["lr"],
        "cosine": training.optimizer.param_groups[0]["lr"],  # zero comes after the last step
        "linear": history[-1]["lr"],
        "onecycle": history[-1]["lr"],
    }[scheduler]
    assert last == pytest.approx(3e-3 if scheduler == "constant" else 0, abs=1e-7)
    _, history = trained(compose, f"scheduler={scheduler}", "epochs=1", "data.n_train=20")
    assert len(history) == 1, "a training of a single batch"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_work_for_any_number_of_steps(compose, scheduler):
    cfg = compose(f"scheduler={scheduler}")
    for n_steps in (*range(1, 40), 50, 51, 67, 100, 117):
        cfg.n_steps = n_steps
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        made = config.build(cfg.scheduler, optimizer)
        for _ in range(n_steps - 1):
            optimizer.step()
            made.step()
        assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1
