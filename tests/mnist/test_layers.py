"""The fast layers equal torch's."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mnist import layers

Layer = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def assert_equal(fast, plain, x):
    """Compare values and all gradients; ``fast`` has the parameters of ``plain``."""
    x = x.detach().requires_grad_(x.dtype.is_floating_point)
    values = fast(x), plain(x)
    torch.testing.assert_close(*values)
    weights = torch.randn_like(values[0])
    for inputs in ([x, *plain.parameters()], [*plain.parameters()]):
        if inputs:
            grads = (torch.autograd.grad(f(x), inputs, weights) for f in (fast, plain))
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def with_class(plain, fast):
    """A module of the class ``fast`` with the parameters of ``plain``."""
    module = fast.__new__(fast)
    module.__dict__ = dict(plain.__dict__)
    return module


def images(*shape, dtype=torch.float32):
    """Images of the same shape in several memory layouts."""
    x = torch.randn(shape, dtype=dtype)
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "a view": torch.randn(2 * shape[0], *shape[1:], dtype=dtype).transpose(2, 3)[::2],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_linear_layer_equals_torchs(n, bias, dtype):
    plain = nn.Linear(30, 20, bias=bias, dtype=dtype)
    fast = with_class(plain, layers.Linear)
    x = torch.randn(n, 40, dtype=dtype)[:, 10:]
    assert_equal(fast, plain, x)
    assert_equal(fast, plain, torch.randn(2, 5, 30, dtype=dtype))  # no rows
    x.requires_grad_()
    for weights in (torch.randn(20, n, dtype=dtype).t(), torch.ones(1, dtype=dtype).expand(n, 20)):
        grads = (torch.autograd.grad(layer(x), x, weights) for layer in (fast, plain))
        torch.testing.assert_close(*grads)


def test_linear_layer_without_onednn_equals_torchs(monkeypatch):
    plain, x = nn.Linear(30, 20), torch.randn(50, 30)
    monkeypatch.setattr(layers, "_onednn_linear", None)
    assert torch.equal(with_class(plain, layers.Linear)(x), plain(x))


def test_convolution_over_the_whole_image_equals_torchs():
    for bias in (True, False):
        plain = nn.Conv2d(16, 120, kernel_size=5, bias=bias)
        for x in images(3, 16, 5, 5).values():
            assert_equal(with_class(plain, layers.Conv2d), plain, x)


def conv_tanh_pool(conv, kind=layers.Conv2d):
    fast = with_class(conv, kind)
    return lambda x: layers.conv_tanh_pool(x, fast), nn.Sequential(conv, nn.Tanh(), nn.AvgPool2d(2))


def alone(conv, kind=layers.Conv2d):
    return with_class(conv, kind), conv


@pytest.mark.parametrize("pair", [alone, conv_tanh_pool])
@pytest.mark.parametrize(("channels", "padding"), [(1, 2), (3, 0), (6, 1)])
@pytest.mark.parametrize("kind", [layers.Conv2d, layers.ChannelsLastConv2d])
@pytest.mark.parametrize("sides", [(14, 14), (8, 20), (9, 10), (10, 9)])
def test_convolution_equals_torchs(
    pair,
    channels,
    padding,
    kind,
    sides,
):
    for bias in (True, False):
        pairs = pair(nn.Conv2d(channels, 10, kernel_size=5, padding=padding, bias=bias), kind)
        for x in images(7, channels, *sides).values():
            assert_equal(*pairs, x)


@pytest.mark.parametrize("pair", [alone, conv_tanh_pool])
def test_convolution_accepts_the_same_inputs_as_torchs(
    pair,
):
    for dtype in (torch.float32, torch.float64):
        fast, plain = pair(nn.Conv2d(3, 4, kernel_size=(3, 5), padding=(1, 0), dtype=dtype))
        assert_equal(fast, plain, torch.randn(0, 3, 14, 8, dtype=dtype))
        assert_equal(fast, plain, torch.randn(3, 14, 8, dtype=dtype))  # one image, no batch
        for x in images(2, 3, 14, 8, dtype=dtype).values():
            assert_equal(fast, plain, x)
        for layer in (fast, plain):
            with pytest.raises(RuntimeError, match="channels"):
                layer(torch.randn(2, 5, 14, 8, dtype=dtype))


def test_convolution_can_be_trained_after_inference_mode():
    fast, plain = conv_tanh_pool(nn.Conv2d(1, 10, kernel_size=5))
    x = torch.randn(20, 1, 8, 46)  # no other test has this width, so nothing is cached
    with torch.inference_mode():
        fast(x)
    assert_equal(fast, plain, x)


POOL = nn.Sequential(nn.MaxPool2d(2, 1), nn.ReLU())


@pytest.mark.parametrize("shape", [(3, 10, 28, 28), (1, 1, 2, 3), (0, 3, 5, 5)])
def test_pool_equals_torchs(shape):
    for x in images(*shape).values():
        assert_equal(layers.pool_relu, POOL, x)
        assert_equal(layers.pool_relu, POOL, x.round())  # the first of equal pixels has it
        assert_equal(layers.pool_relu, POOL, x.double())


def test_pool_refuses_the_same_inputs_as_torchs():
    for layer in (layers.pool_relu, POOL):
        with pytest.raises(RuntimeError, match="too small"):
            layer(torch.randn(2, 3, 1, 5))
        assert layer(torch.tensor([[[[-1.0, torch.nan], [0, 3]]]])).isnan().all()


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_it(p):
    torch.manual_seed(0)
    x = torch.ones(1_000_003, requires_grad=True)
    y = layers.Dropout(p)(x)
    kept = y > 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.003)
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, y.detach())  # the same mask on the way back
    neighbours = (kept[:-1] & kept[1:]).float().mean().item()
    assert neighbours == pytest.approx((1 - p) ** 2, abs=0.003)


def test_dropout_depends_on_the_seed_and_keeps_everything_in_evaluation():
    x, layer, seen = torch.ones(100), layers.Dropout(0.5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(layer(x))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(layer.eval()(x), x)


def test_dropout_of_nothing_and_of_everything_and_in_place():
    x = torch.ones(100)
    assert torch.equal(layers.Dropout(0.0)(x), x)
    assert not layers.Dropout(1.0)(x).any()
    assert layers.Dropout(0.5)(x[:0]).shape == (0,)
    layers.Dropout(0.9, inplace=True)(x)
    assert 0 < (x > 0).sum() < 50


def test_unusual_tensors_use_torchs_operations():
    x = torch.randn(3, 4)
    assert layers.is_fast(x, nn.Parameter(x))

    class Unusual(Tensor):
        pass

    unusual = (
        x.double(),
        x.half(),
        x[:0],
        x.to("meta"),
        x.to_sparse(),
        x.as_subclass(Unusual),
        [1],
    )
    for other in (*unusual, [1]):
        assert not layers.is_fast(x, other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not layers.is_fast(x)
        assert layers.Linear(784, 784)(torch.randn(100, 784)).dtype == torch.bfloat16


def test_second_derivatives_are_refused():
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    for layer in (layers.Conv2d(3, 4, 3), layers.Linear(6, 6), layers.pool_relu):
        shaped = x[0, 0] if isinstance(layer, nn.Linear) else x
        (grad,) = torch.autograd.grad(layer(shaped).pow(2).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()
