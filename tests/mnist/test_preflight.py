"""Before its trials, a sweep trains configs for a few batches and checks its directions."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hydrasweep import UserError
from mnist import accelerate, assembly, preflight, seal

Direct = Callable[[Any], None]


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """``direct(value)`` sets hydra.sweeper.direction, which is "maximize" at first."""

    def set_direction(value):
        sweeper = OmegaConf.create({"direction": value})
        monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper=sweeper))

    set_direction("maximize")
    monkeypatch.setattr(preflight, "_costs", {})
    yield set_direction
    seal.set_sealed(False)


def test_estimated_seconds_grow_with_the_epochs(compose):
    short, long = (preflight.check(compose("model=baseline", f"epochs={n}")) for n in (1, 100))
    assert 0 < short < long
    assert preflight.check(compose("epochs=1", "data.n_train=20", "data.batch_size=32")) > 0
    assert preflight.check(compose("epochs=0", "objective=val/accuracy")) == 0


def test_configs_that_differ_only_in_numbers_are_trained_once_with_the_largest_batch(
    compose, monkeypatch
):
    sizes: list[int] = []
    fit = preflight.fit
    monkeypatch.setattr(
        preflight, "fit", lambda *a, **kw: sizes.append(kw["batch_size"]) or fit(*a, **kw)
    )
    large = preflight.check(compose("model=baseline", "data.batch_size=64", "model.dropout=0.2"))
    assert sizes == [64, 8]
    small = preflight.check(
        compose("model=baseline", "data.batch_size=16", "optimizer.lr=0.1", "model.dropout=0.5")
    )
    assert sizes == [64, 8]
    assert 0 < large < small < 8 * large  # four times the steps, each cheaper
    for others in (
        ("data.batch_size=16",),  # without dropout
        ("data.batch_size=128", "model.dropout=0.2"),
        ("optimizer=sgd", "data.batch_size=16"),
    ):
        n = len(sizes)
        preflight.check(compose("model=baseline", *others))
        assert len(sizes) == n + 2
    with pytest.raises(UserError, match="dropout"):
        preflight.check(compose("model=baseline", "model.dropout=2"))


@pytest.mark.parametrize(
    ("objective", "wrong", "right"),
    [
        ("val/accuracy", "minimize", "maximize"),
        ("val/loss", "maximize", "minimize"),
        ("[val/accuracy,n_parameters]", ["minimize", "minimize"], "maximize,minimize"),
        ("[val/accuracy,n_parameters]", "maximize", "maximize,minimize"),
    ],
)
def test_direction_must_be_that_of_the_objective(compose, direct, objective, wrong, right):
    cfg = compose("model=baseline", f"objective={objective}")
    direct(wrong)
    with pytest.raises(UserError, match=rf"^hydra\.sweeper\.direction=.*{right}"):
        preflight.check(cfg)
    direct(right.split(",") if "," in right else right)
    assert preflight.check(cfg) > 0


def test_test_images_are_sealed(compose):
    preflight.check(compose("epochs=0"))
    with pytest.raises(UserError, match="sealed"):
        seal.check()


def test_config_that_diverges_is_not_refused(compose):
    assert preflight.check(compose("optimizer=sgd", "optimizer.lr=1e30", "epochs=3")) >= 0


def test_chosen_layers_are_faster_with_the_smallest_and_the_largest_batch(
    compose,
):
    def corners(*words):
        return [compose(*words, f"data.batch_size={n}") for n in (32, 256)]

    chosen = preflight.calibrate(corners("model=cnn"))["fast_layers"]
    assert chosen == accelerate.choose(*map(assembly.layer_times, corners("model=cnn")))
    names = ("features.0", "features.1", "features.3", "classifier.1", "classifier.3")
    assert {*chosen} <= {f"model.{name}" for name in names}
    cfg = compose("model=cnn", "data.batch_size=64")
    cfg.fast_layers = chosen
    assembly.assemble(cfg)
    assert preflight.calibrate(corners("model=cnn", "fast_layers={}")) == {}
    assert preflight.calibrate([compose("model=cnn"), compose("model=lenet5")]) == {}


def test_fast_layers_of_another_model_are_replaced(compose):
    recipe = "fast_layers={model.features.0: ChannelsLastConv2d}"
    cfg = compose("model=baseline", recipe)
    chosen = preflight.calibrate([cfg])["fast_layers"]
    assert chosen == preflight.calibrate([compose("model=baseline")])["fast_layers"]
    assembly.assemble(cfg)
    assert cfg.fast_layers == chosen
    cnn = compose("model=cnn", recipe)
    assembly.assemble(cnn)
    assert cnn.fast_layers == {"model.features.0": "ChannelsLastConv2d"}
