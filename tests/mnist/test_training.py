"""The loop: a generator of one flat dict per epoch, equal to plain PyTorch, bit by bit the
same for one seed, and able to go on where it stopped."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from application import Compose, MakesFolder, parts
from torch import Tensor, nn
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
# Dropout, augmentation and momentum: everything that draws numbers or keeps a state.
LIVELY = ("model.dropout=0.3", "augmentation=affine", "epochs=4", "data.n_train=200")

History = list[dict[str, float]]


def trained(compose: Compose, *overrides: str) -> tuple[Training, History]:
    cfg = compose(*overrides)
    training, train, val = parts(cfg)
    sizes = {"epochs": cfg.epochs, "batch_size": cfg.data.batch_size}
    return training, list(fit(training, train, val, **sizes))


def without_times(history: History) -> History:
    return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in history]


def same_weights(one: Training, other: Training) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_same_seed_same_bits_other_seed_others(compose: Compose) -> None:
    one, history = trained(compose, *LIVELY)
    same, same_history = trained(compose, *LIVELY)
    other, other_history = trained(compose, *LIVELY, "seed=1")
    assert same_weights(one, same)
    assert without_times(history) == without_times(same_history)
    assert not same_weights(one, other)
    assert history[-1]["train/loss"] != other_history[-1]["train/loss"]


class WaitsForDevice(TorchDispatchMode):
    """Counts the operations for which a host would have to wait for its GPU."""

    NAMES = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"})

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.n += func.__name__.partition(".")[0] in self.NAMES
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("augmentation", ["none", "affine"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("model", ["baseline", "cnn", "lenet5"])
def test_no_batch_waits_for_the_device(
    compose: Compose, model: str, optimizer: str, augmentation: str
) -> None:
    groups = f"model={model}", f"optimizer={optimizer}", f"augmentation={augmentation}"
    counts = []
    for n_train in (32, 320):
        sizes = "epochs=2", "data.batch_size=16", f"data.n_train={n_train}"
        training, train, val = parts(compose(*groups, *sizes))
        epochs = fit(training, train, val, epochs=2, batch_size=16)
        next(epochs)  # the first makes the optimizer's state
        with WaitsForDevice() as waits:
            next(epochs)
        counts.append(waits.n)
    assert 0 < counts[0] == counts[1], "waits in an epoch of 2 and of 20 batches"


def test_each_epoch_gives_one_dict_of_the_same_metrics(compose: Compose) -> None:
    _, history = trained(compose, "epochs=2")
    assert [set(metrics) for metrics in history] == [METRICS, METRICS]
    assert all(math.isfinite(value) for metrics in history for value in metrics.values())
    assert history[1]["train/loss"] < history[0]["train/loss"]
    _, (metrics,) = trained(compose, "epochs=1", "data.n_val=0")
    assert set(metrics) == {name for name in METRICS if not name.startswith("val/")}
    assert trained(compose, "epochs=0")[1] == []


def test_equals_a_plain_pytorch_loop(compose: Compose) -> None:
    overrides = ("optimizer=adam", "scheduler=cosine", "data.n_train=600", "data.batch_size=50")
    overrides = (*overrides, "average_weights=0")
    _, history = trained(compose, *overrides, "epochs=4", "task.label_smoothing=0.1")

    cfg = compose(*overrides, "epochs=4")
    ours, train, val = parts(cfg)
    model = ours.model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=48)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def inputs(images: Tensor) -> Tensor:
        return (images / 255 - 0.1307) / 0.3081

    for metrics in history:
        order = torch.randperm(600).tolist()
        loader = DataLoader(
            TensorDataset(train.inputs, train.targets),
            batch_size=50,
            sampler=order,
            generator=torch.Generator(),  # without its own it would draw from the global one
        )
        losses = []
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs(images)), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        assert metrics["train/loss"] == pytest.approx(sum(losses) / 12, rel=1e-4)
        with torch.no_grad():
            logits = model(inputs(val.inputs))
        assert metrics["val/loss"] == pytest.approx(
            F.cross_entropy(logits, val.targets).item(), rel=1e-3
        )
        assert metrics["val/accuracy"] == pytest.approx(
            (logits.argmax(1) == val.targets).float().mean().item(), abs=0.01
        )


def test_training_metrics_weigh_the_short_last_batch_by_its_size(compose: Compose) -> None:
    cfg = compose("data.n_train=70", "optimizer=sgd", "optimizer.lr=1e-30", "scheduler=constant")
    training, train, val = parts(cfg)
    expected = evaluate("train", training, train)
    (metrics,) = fit(training, train, val, epochs=1, batch_size=64)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_evaluation_counts_every_row_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 2))
    split = Split(
        torch.randint(0, 256, (2345, 1, 2, 2), dtype=torch.uint8), torch.randint(0, 2, (2345,))
    )
    normalize, task = Normalize([0.5], [0.5]), Classification({}, 2, 0.1)
    average, nothing = WeightAverage(model, 0), Any
    training = Training(
        model,
        normalize,
        nn.Identity(),
        task,
        nothing,
        nothing,
        average,  # type: ignore[arg-type]
    )
    logits = predict(training, split)
    assert model.training
    model.eval()
    expected = model(normalize(split.inputs))
    torch.testing.assert_close(logits, expected)
    metrics = evaluate("test", training, split)
    n_right = sum(int(expected[i].argmax() == split.targets[i]) for i in range(2345))
    loss = F.cross_entropy(expected, split.targets).item()
    assert metrics == {"test/loss": pytest.approx(loss), "test/accuracy": n_right / 2345}


def test_time_of_training_adds_up_without_validation(compose: Compose) -> None:
    _, (first, second) = trained(compose, "epochs=2")
    assert 0 < first["time/train_seconds"] < first["time/epoch_seconds"]
    seconds = second["time/train_seconds"] - first["time/train_seconds"]
    assert second["time/samples_per_second"] == pytest.approx(600 / seconds)


def test_batches_pass_by_whoever_watches(compose: Compose) -> None:
    training, train, val = parts(compose("data.n_train=70"))
    seen = []

    def watch(batches: Any) -> Any:
        for batch in batches:
            seen.append(len(batch))
            yield batch

    list(fit(training, train, val, epochs=2, batch_size=32, watch=watch))
    assert seen == [32, 32, 6] * 2


def test_loss_that_is_not_finite_names_epoch_and_step(compose: Compose) -> None:
    class TurnsBad(nn.Module):
        """Gives infinite logits from the given call on."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))
            self.n_calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.n_calls += self.training
            logits = self.weight.expand(len(images), 10)
            return logits * (torch.inf if self.n_calls >= 6 else 1)

    training, train, val = parts(compose("data.n_train=64", "scheduler=constant"))
    training.model = TurnsBad()
    epochs = fit(training, train, val, epochs=3, batch_size=16)
    next(epochs)
    with pytest.raises(NonFiniteLossError, match="nan at step 2 of epoch 2"):
        next(epochs)


def test_divergence_is_found_with_real_optimizers(compose: Compose) -> None:
    with pytest.raises(NonFiniteLossError, match="of epoch 1"):
        trained(compose, "model=baseline", "optimizer=sgd", "optimizer.lr=1e20", "epochs=2")


@pytest.mark.parametrize("group", ["optimizer=adamw", "optimizer=sgd_momentum"])
def test_stopped_training_goes_on_to_the_same_bits(
    compose: Compose, tmp_path: Path, group: str
) -> None:
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


DAMAGES = ["cut short", "empty", "other bytes", "other model", "no state", "half a state"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_checkpoint_that_does_not_fit_is_named(
    compose: Compose, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "last.pt"
    parts(compose("model=baseline"))[0].save(path)
    whole = path.read_bytes()
    contents = {"cut short": whole[:-1000], "empty": b"", "other bytes": b"no checkpoint"}
    path.write_bytes(contents.get(damage, whole))
    if damage == "no state":
        torch.save([1, 2, 3], path)
    if damage == "half a state":
        state = torch.load(path, weights_only=True)
        del state["generator"]
        torch.save(state, path)
    model = "lenet5" if damage == "other model" else "baseline"
    training, _, _ = parts(compose(f"model={model}"))
    with pytest.raises(UserError, match=r"last\.pt"):
        training.load(path)


def test_checkpoint_is_read_without_running_code(compose: Compose, tmp_path: Path) -> None:
    training, _, _ = parts(compose("model=baseline"))
    torch.save({"model": MakesFolder(tmp_path / "made")}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt"):
        training.load(tmp_path / "last.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("scheduler", ["constant", "cosine", "linear", "onecycle"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_scheduler_lasts_to_the_last_step(compose: Compose, scheduler: str, epochs: int) -> None:
    overrides = (f"scheduler={scheduler}", f"epochs={epochs}", "data.n_train=70")
    training, history = trained(compose, *overrides)
    assert len(history) == epochs
    last = {
        "constant": history[0]["lr"],
        "cosine": training.optimizer.param_groups[0]["lr"],  # zero comes after the last step
        "linear": history[-1]["lr"],
        "onecycle": history[-1]["lr"],
    }[scheduler]
    assert last == pytest.approx(3e-3 if scheduler == "constant" else 0, abs=1e-7)


@pytest.mark.parametrize("scheduler", ["constant", "cosine", "linear", "onecycle"])
def test_schedulers_work_for_any_number_of_steps(compose: Compose, scheduler: str) -> None:
    cfg = compose(f"scheduler={scheduler}")
    for n_steps in range(1, 120):
        cfg.n_steps = n_steps
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        made = config.build(cfg.scheduler, optimizer)
        for _ in range(n_steps - 1):
            optimizer.step()
            made.step()
        assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1


@pytest.mark.parametrize("scheduler", ["constant", "cosine", "linear", "onecycle"])
def test_training_of_a_single_batch_works(compose: Compose, scheduler: str) -> None:
    _, history = trained(compose, f"scheduler={scheduler}", "epochs=1", "data.n_train=20")
    assert len(history) == 1
