"""``accelerate`` gives modules faster classes, which compute the same as torch's."""

import functools
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from hydrasweep import UserError
from mnist import layers
from mnist.accelerate import accelerate, choose, measure
from mnist.models import CNN, Baseline, LeNet5

IMAGES = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Users(nn.Module):
    """A user's model: modules as attributes, in lists and in nested sequences; ``hidden`` is called
    twice, and parts of ``pool`` are called alone."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Tanh()), nn.AvgPool2d(2))
            for _ in range(2)
        )
        self.pool = nn.Sequential(nn.Conv2d(8, 8, 2), nn.Tanh(), nn.AvgPool2d(2))
        self.tail = nn.Sequential(nn.MaxPool2d(2, stride=1), nn.ReLU(), nn.Flatten(2))
        self.norm = nn.BatchNorm1d(8)
        self.hidden = nn.Linear(8, 8)
        self.output = nn.Linear(8, 10)

    def forward(self, images):
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        x = self.pool(x).mean((2, 3)) + self.tail(self.pool[:2](x) + self.pool[0](x)).mean(2)
        return self.output(F.relu(self.hidden(F.relu(self.hidden(self.norm(x))))))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "baseline": lambda: Baseline(1, (28, 28), 10, dropout=0.0),
    "cnn": lambda: CNN(1, (28, 28), 10, dropout=0.0),
    "lenet5": lambda: LeNet5(1, (28, 28), 10, dropout=0.0),
    "a user's own": Users,
}


def times(model, inputs=IMAGES[:16]):
    with TemporaryDirectory() as folder:
        return measure(model, inputs, Path(folder) / "kept.pt")


@functools.cache
def known(name):
    """The faster classes of each module of a model, and their times."""
    return times(MODELS[name]())


def fastest(model, which=-1, measured=None):
    """The model, each of its modules with the last (or another) of its faster classes."""
    measured = times(model) if measured is None else measured
    return accelerate(model, {name: [*each][which % len(each)] for name, each in measured.items()})


def pair(name, which=-1):
    """A model, and an accelerated copy."""
    torch.manual_seed(0)
    plain = MODELS[name]()
    fast = fastest(deepcopy(plain), which, known(name))
    assert [*map(type, fast.modules())] != [*map(type, plain.modules())]
    return plain, fast


@pytest.mark.parametrize("name", MODELS)
def test_modules_parameters_and_names_stay_the_same(name):
    model = MODELS[name]()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    weights = deepcopy(model.state_dict())
    assert fastest(model, measured=known(name)) is model
    assert all(modules[key] is module for key, module in model.named_modules())
    assert all(parameters[key] is each for key, each in model.named_parameters())
    assert str(model) == str(MODELS[name]())
    MODELS[name]().load_state_dict(model.state_dict())
    fastest(MODELS[name](), measured=known(name)).load_state_dict(weights)


# A convolution has 2 faster classes, and 4 if tanh and pooling follow it.
CLASSES = [("baseline", 0), ("cnn", 0), ("cnn", 1)]
CLASSES += [(name, which) for name in ("lenet5", "a user's own") for which in range(4)]


@pytest.mark.parametrize(("name", "which"), CLASSES)
def test_training_steps_equal_those_of_the_plain_model(name, which):
    labels, losses = torch.randint(0, 10, (64,)), []
    for model in pair(name, which):
        optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.05), []
        for step in range(24):
            batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
            loss = F.cross_entropy(model(IMAGES[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        losses.append(torch.stack(seen))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    assert losses[0][-4:].mean() < losses[0][:4].mean()


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_evaluation_equal_the_plain_model(name):
    plain, fast = (model.eval() for model in pair(name))
    expected = plain(IMAGES)
    for model in (fast, deepcopy(fast), fastest(fast, measured=known(name))):
        torch.testing.assert_close(model(IMAGES), expected)
        with torch.inference_mode():
            torch.testing.assert_close(model(IMAGES.mT), plain(IMAGES.mT))
    torch.testing.assert_close(fast.double()(IMAGES.double()), plain.double()(IMAGES.double()))


@pytest.mark.parametrize("name", ["cnn", "lenet5"])
def test_exported_graph_equals_that_of_the_plain_model(name):
    graphs = []
    for model in pair(name):
        dynamic = ({0: torch.export.Dim("n", min=1)},)
        exported = torch.export.export(model.eval(), (IMAGES[:2],), dynamic_shapes=dynamic)
        graphs.append([node.target for node in exported.graph.nodes])
    assert graphs[0] == graphs[1]


def test_compiled_model_equals_the_plain_model():
    plain, fast = (model.eval() for model in pair("lenet5"))
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), plain(IMAGES))


def test_dropout_after_a_fast_pool_drops_its_share():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.MaxPool2d(2, stride=1), nn.ReLU())
    fast = fastest(nn.Sequential(*plain, nn.Dropout(0.3)))
    expected, y = plain(IMAGES), fast(IMAGES)
    kept = (y > 0)[expected > 0].float().mean().item()
    assert kept == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(y, expected * (y > 0) / 0.7)
    torch.testing.assert_close(fast.eval()(IMAGES), expected)


class OwnConvolution(nn.Conv2d):
    pass


ODD: dict[str, Callable[[], nn.Module]] = {
    "a subclass": lambda: OwnConvolution(1, 4, 5),
    "a parametrization": lambda: parametrizations.weight_norm(nn.Conv2d(1, 4, 5)),
    "strides": lambda: nn.Conv2d(1, 4, 5, stride=2),
    "dilation": lambda: nn.Conv2d(1, 4, 5, dilation=2),
    "groups": lambda: nn.Conv2d(4, 4, 5, groups=2),
    "padding by reflection": lambda: nn.Conv2d(1, 4, 5, padding=2, padding_mode="reflect"),
    "padding by name": lambda: nn.Conv2d(1, 4, 5, padding="same"),
    "one dimension": lambda: nn.Conv1d(1, 4, 5),
    "a lazy layer": lambda: nn.LazyLinear(5),
    "a sequence of one's own": lambda: type("Own", (nn.Sequential,), {})(nn.Tanh()),
}


@pytest.mark.parametrize("name", ODD)
def test_unknown_kinds_of_modules_stay_as_they_are(name):
    module = ODD[name]()
    kinds = [*map(type, module.modules())]
    with suppress(Exception):  # some take no images
        assert times(module, IMAGES) == {}
    with pytest.raises(UserError, match=r"fast_layers=.*Conv2d.* none"):
        accelerate(module, {"model": "Conv2d"})
    assert [*map(type, accelerate(module, {}).modules())] == kinds


def conv_tanh_pool(**pool):
    return nn.Sequential(nn.Conv2d(1, 4, 5), nn.Tanh(), nn.AvgPool2d(**{"kernel_size": 2, **pool}))


def max_pool_relu(**pool):
    settings = {"kernel_size": 2, "stride": 1, **pool}
    return nn.Sequential(nn.MaxPool2d(**settings), nn.ReLU())


RUNS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "convolution, tanh, pool": (conv_tanh_pool, True),
    "other strides": (lambda: conv_tanh_pool(stride=1), False),
    "padding": (lambda: conv_tanh_pool(padding=1), False),
    "another divisor": (lambda: conv_tanh_pool(divisor_override=3), False),
    "rounding up": (lambda: conv_tanh_pool(ceil_mode=True), False),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(1, 4, 5, bias=False), *conv_tanh_pool()[1:]), True),
    "pool, ReLU": (max_pool_relu, True),
    "ReLU in place": (lambda: nn.Sequential(max_pool_relu()[0], nn.ReLU(inplace=True)), True),
    "usual strides": (lambda: max_pool_relu(stride=2), False),
    "larger pools": (lambda: max_pool_relu(kernel_size=3), False),
    "dilated pools": (lambda: max_pool_relu(dilation=2), False),
}


@pytest.mark.parametrize("name", RUNS)
def test_modules_are_fused_only_with_the_expected_settings(name, monkeypatch):
    make, is_known = RUNS[name]
    calls = []
    for run in ("conv_tanh_pool", "pool_relu"):
        monkeypatch.setattr(layers, run, watched(getattr(layers, run), calls))
    plain = make()
    fast = fastest(deepcopy(plain))
    calls.clear()
    torch.testing.assert_close(fast(IMAGES), plain(IMAGES))
    assert len(calls) == is_known


def watched(operation, calls):
    def call(*args, **kwargs):
        calls.append(args)
        return operation(*args, **kwargs)

    return call


def test_hooks_get_the_same_outputs_as_in_the_plain_model():
    for n in range(3):
        plain, seen = conv_tanh_pool(), []
        for model in (plain, fastest(deepcopy(plain))):
            model[n].register_forward_hook(lambda *event, seen=seen: seen.append(event[-1]))
            model(IMAGES)
        torch.testing.assert_close(*seen)


def test_replaced_forward_of_a_module_is_called():
    fast = fastest(max_pool_relu())
    fast[1].forward = lambda x: -x
    torch.testing.assert_close(fast(IMAGES), -fast[0](IMAGES))


def test_later_parametrization_has_the_same_effect_as_in_the_plain_model():
    torch.manual_seed(0)
    plain = conv_tanh_pool()
    fast = fastest(deepcopy(plain))
    for model in (plain, fast):
        parametrizations.weight_norm(model[0])
        model[0].parametrizations.weight.original0.data *= 2
    torch.testing.assert_close(fast(IMAGES), plain(IMAGES))


def test_classes_are_chosen_only_if_they_are_faster_in_all_measurements():
    small = {"a": {"Linear": 0.5}, "b": {"Conv2d": 0.7, "ChannelsLastConv2d": 0.4}, "c": {"X": 0.1}}
    large = {"a": {"Linear": 1.1}, "b": {"Conv2d": 0.8, "ChannelsLastConv2d": 0.9}, "c": {"X": 0.9}}
    assert choose(small) == {"a": "Linear", "b": "ChannelsLastConv2d", "c": "X"}
    assert choose(small, large) == {"b": "Conv2d", "c": "X"}
    assert choose({"a": {"Linear": 0.99}}) == {}  # the difference may be noise
    assert choose(small, {"a": {"Linear": 0.6}}) == {"a": "Linear"}  # a model with fewer layers
    assert choose({}, {}) == {}


@pytest.mark.parametrize("name", ["lenet5", "a user's own"])
def test_measuring_changes_nothing_and_results_are_kept(name, tmp_path):
    model, kept = MODELS[name](), tmp_path / "cache" / "fast_layers.pt"
    before, state = deepcopy(model.state_dict()), torch.get_rng_state()
    measured = measure(model, IMAGES[:8], kept)
    assert measured
    assert all(0 < share < 100 for each in measured.values() for share in each.values())
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert measure(model, IMAGES[:8], kept) == measured
    assert measure(model, IMAGES[:9], kept) != measured  # another shape
    kept.write_bytes(b"damaged")
    assert measure(model, IMAGES[:8], kept).keys() == measured.keys()


def test_dropout_probability_does_not_change_what_is_measured(tmp_path):
    models = (Baseline(1, (28, 28), 10, dropout=p) for p in (0.0, 0.5))
    first, second = (measure(model, IMAGES[:8], tmp_path / "kept.pt") for model in models)
    assert first == second


def test_layers_are_measured_even_if_the_results_cannot_be_saved(tmp_path):
    (tmp_path / "file").touch()
    measured = measure(nn.Linear(28, 4), IMAGES[:, 0, 0], tmp_path / "file" / "kept.pt")
    assert measured.keys() == {"model"}


@pytest.mark.parametrize(
    ("layer", "name", "known"), [(9, "Linear", "none"), (1, "Dropout", "Linear")]
)
def test_classes_that_a_layer_does_not_have_are_refused(layer, name, known):
    model, layer_name = MODELS["baseline"](), f"model.classifier.{layer}"
    with pytest.raises(UserError, match=rf"{layer_name}:{name}.* {known}$"):
        accelerate(model, {layer_name: name})
