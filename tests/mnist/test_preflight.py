"""Before a sweep's trials: a config is tried out on a few batches, and the directions checked."""

from types import SimpleNamespace
from typing import Any

import pytest
from application import Compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hydrasweep import UserError
from mnist import accelerate, assembly, preflight, seal


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_costs", {})


@pytest.fixture
def direction(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``direction(value)`` sets what the sweeper is told to do."""

    def is_set(value: Any) -> None:
        sweeper = OmegaConf.create({"direction": value})
        monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper=sweeper))

    yield is_set
    seal.set_sealed(False)


def test_time_of_all_batches_is_estimated_from_a_few(compose: Compose, direction: Any) -> None:
    direction("maximize")
    short, long = (preflight.check(compose("model=baseline", f"epochs={n}")) for n in (1, 100))
    assert 0 < short < long
    assert preflight.check(compose("epochs=1", "data.n_train=20", "data.batch_size=32")) > 0
    assert preflight.check(compose("epochs=0", "objective=val/accuracy")) == 0


def test_what_differs_in_numbers_alone_is_built_and_trained_once_with_the_largest_batch(
    compose: Compose, direction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    direction("maximize")
    sizes: list[int] = []
    train = preflight.fit
    monkeypatch.setattr(
        preflight, "fit", lambda *a, **kw: sizes.append(kw["batch_size"]) or train(*a, **kw)
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
    ("objective", "given", "fitting"),
    [
        ("val/accuracy", "minimize", "maximize"),
        ("val/loss", "maximize", "minimize"),
        ("[val/accuracy,n_parameters]", ["minimize", "minimize"], "maximize,minimize"),
        ("[val/accuracy,n_parameters]", "maximize", "maximize,minimize"),
    ],
)
def test_objective_is_improved_the_way_that_its_task_says(
    compose: Compose, direction: Any, objective: str, given: Any, fitting: str
) -> None:
    cfg = compose("model=baseline", f"objective={objective}")
    direction(given)
    with pytest.raises(UserError, match=rf"^hydra\.sweeper\.direction=.*: must be {fitting} for"):
        preflight.check(cfg)
    direction(fitting.split(",") if "," in fitting else fitting)
    assert preflight.check(cfg) > 0


def test_test_split_is_sealed(compose: Compose, direction: Any) -> None:
    direction("maximize")
    preflight.check(compose("epochs=0"))
    with pytest.raises(UserError, match="sealed"):
        seal.check()


def test_divergence_is_no_fault_of_the_config(compose: Compose, direction: Any) -> None:
    direction("maximize")
    assert preflight.check(compose("optimizer=sgd", "optimizer.lr=1e30", "epochs=3")) >= 0


def test_layers_are_those_that_are_faster_at_every_corner(compose: Compose) -> None:
    def corners(*words: str) -> list[Any]:
        return [compose(*words, f"data.batch_size={n}") for n in (32, 256)]

    chosen = preflight.calibrate(corners("model=cnn"))["fast_layers"]
    of_each = [assembly.layer_times(cfg) for cfg in corners("model=cnn")]
    assert chosen == accelerate.choose(*of_each)
    names = ("features.0", "features.1", "features.3", "classifier.1", "classifier.3")
    assert {*chosen} <= {f"model.{name}" for name in names}
    told = OmegaConf.to_container(OmegaConf.create(chosen))
    cfg = compose("model=cnn", "data.batch_size=64")
    cfg.fast_layers = told
    assembly.assemble(cfg)
    assert preflight.calibrate(corners("model=cnn", "fast_layers={}")) == {}
    assert preflight.calibrate([compose("model=cnn"), compose("model=lenet5")]) == {}


def test_layers_of_another_models_recipe_give_way(compose: Compose) -> None:
    recipe = "fast_layers={model.features.0: ChannelsLastConv2d}"
    cfg = compose("model=baseline", recipe)
    chosen = preflight.calibrate([cfg])["fast_layers"]
    assert chosen == preflight.calibrate([compose("model=baseline")])["fast_layers"]
    assembly.assemble(cfg)
    assert cfg.fast_layers == chosen
    cnn = compose("model=cnn", recipe)
    assembly.assemble(cnn)
    assert cnn.fast_layers == {"model.features.0": "ChannelsLastConv2d"}
