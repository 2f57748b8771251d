"""The fast layers equal torch's own."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from conftest import Compose
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import config, layers

PLAIN_POOL = nn.Sequential(nn.MaxPool2d(2, 1), nn.ReLU())
PAIRS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "pool and ReLU": (layers.PoolReLUDropout(0.0), PLAIN_POOL, (3, 10, 28, 28)),
    "pool and ReLU of a small image": (layers.PoolReLUDropout(0.0), PLAIN_POOL, (1, 1, 2, 3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_equal_the_plain_layer(name: str) -> None:
    fast, plain, shape = PAIRS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    expected = plain(x)
    weights = torch.randn(expected.shape, generator=generator)
    torch.testing.assert_close(fast(x), expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(layer(x), x, weights)[0] for layer in (fast, plain))
    )


def test_pool_takes_images_that_are_views() -> None:
    x = torch.randn(4, 6, 14, 14).transpose(2, 3)[::2]
    torch.testing.assert_close(layers.PoolReLUDropout(0.0)(x), PLAIN_POOL(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n", [0, 1, 50])
@pytest.mark.parametrize("least", [0, layers.MIN_PRODUCT])
def test_linear_layer_equals_the_plain_one(
    n: int, bias: bool, dtype: torch.dtype, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MIN_PRODUCT", least)
    fast = layers.Linear(30, 20, bias=bias, dtype=dtype)
    plain = nn.Linear(30, 20, bias=bias, dtype=dtype)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(n, 40, dtype=dtype)[:, 10:].requires_grad_()
    torch.testing.assert_close(fast(x), plain(x))
    for weights in (torch.randn(20, n, dtype=dtype).t(), torch.ones(1, dtype=dtype).expand(n, 20)):
        grads = (
            torch.autograd.grad(layer(x), (x, *layer.parameters()), weights)
            for layer in (fast, plain)
        )
        for pair in zip(*grads, strict=True):
            torch.testing.assert_close(*pair)


def test_convolution_over_the_whole_image_equals_the_plain_one() -> None:
    fast = layers.WholeImageConv2d(16, 120, kernel_size=5)
    plain = nn.Conv2d(16, 120, kernel_size=5)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(3, 16, 5, 5)
    torch.testing.assert_close(fast(x), plain(x))


CONVOLUTIONS = {
    "alone": (layers.Conv2d, nn.Identity()),
    "with tanh and pool": (layers.ConvTanhPool, nn.Sequential(nn.Tanh(), nn.AvgPool2d(2))),
}


def convolutions(
    name: str, channels: int, padding: int, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, nn.Module]:
    """A fast layer, and what it stands for, with the same weights."""
    kind, rest = CONVOLUTIONS[name]
    fast = kind(channels, 10, kernel_size=5, padding=padding, dtype=dtype)
    plain = nn.Conv2d(channels, 10, kernel_size=5, padding=padding, dtype=dtype)
    plain.load_state_dict(fast.state_dict())
    return fast, nn.Sequential(plain, rest)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize(("channels", "padding"), [(1, 2), (3, 0), (6, 0)])
@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("shape", [(14, 14), (8, 20), (9, 10), (10, 9)])
def test_convolution_equals_the_plain_one(
    name: str,
    channels: int,
    padding: int,
    capability: str,
    shape: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layers, "_has_avx512", lambda: capability == "AVX512")
    fast, plain = convolutions(name, channels, padding)
    x = torch.randn(7, channels, *shape, requires_grad=True)
    expected = plain(x)
    weights = torch.randn(expected.shape)
    torch.testing.assert_close(fast(x), expected)
    for images, wanted in ((x.detach(), []), (x, [x])):
        grads = (
            torch.autograd.grad(layer(images), [*wanted, *layer.parameters()], weights)
            for layer in (fast, plain)
        )
        for pair in zip(*grads, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("n", [0, 1, 4])
def test_convolution_takes_any_images(name: str, n: int) -> None:
    for dtype in (torch.float32, torch.float64):
        fast, plain = convolutions(name, 3, 0, dtype)
        images = torch.randn(2 * n, 3, 14, 8, dtype=dtype).transpose(2, 3)[::2]
        for x in (images, images.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(fast(x), plain(x))


def test_convolution_is_trained_after_it_evaluated_in_inference_mode() -> None:
    fast, plain = convolutions("with tanh and pool", 1, 0)
    x = torch.randn(2, 1, 8, 42, requires_grad=True)  # a width that no other test has
    with torch.inference_mode():
        fast(x)
    grads = (
        torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()]) for layer in (fast, plain)
    )
    for pair in zip(*grads, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_pool_with_dropout_drops_its_share_of_what_the_plain_pool_gives(p: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 10, 28, 28, requires_grad=True)
    expected, y = PLAIN_POOL(x), layers.PoolReLUDropout(p)(x)
    positive, kept = expected > 0, y > 0
    assert (kept.sum() / positive.sum()).item() == pytest.approx(1 - p, abs=0.01)
    torch.testing.assert_close(y, expected * kept / (1 - p))
    (grad,) = torch.autograd.grad(y.sum(), x)
    (plain,) = torch.autograd.grad((expected * kept).sum() / (1 - p), x)
    torch.testing.assert_close(grad, plain)
    torch.testing.assert_close(layers.PoolReLUDropout(p).eval()(x), expected)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_it(p: float) -> None:
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


def test_dropout_follows_the_seed_and_keeps_all_in_evaluation() -> None:
    x, layer = torch.ones(100), layers.Dropout(0.5)
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append(layer(x))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(layer.eval()(x), x)


def plain_baseline(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(images: Tensor) -> Tensor:
        hidden = F.relu(F.linear(images.flatten(1), *own(model.hidden)))
        return F.linear(hidden, *own(model.output))

    return forward


def plain_cnn(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(images: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(F.conv2d(images, *own(model.convolution), padding=2)), 2, 1)
        return F.linear(
            F.relu(F.linear(features.flatten(1), *own(model.hidden))), *own(model.output)
        )

    return forward


def plain_lenet5(model: nn.Module) -> Callable[[Tensor], Tensor]:
    parts = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]

    def forward(images: Tensor) -> Tensor:
        first, second, third, fourth, last = map(own, parts)
        x = F.avg_pool2d(F.conv2d(images, *first, padding=2).tanh(), 2)
        x = F.avg_pool2d(F.conv2d(x, *second).tanh(), 2)
        x = F.conv2d(x, *third).tanh().flatten(1)
        return F.linear(F.linear(x, *fourth).tanh(), *last)

    return forward


def own(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


@pytest.mark.parametrize(
    ("name", "plain"),
    [("baseline", plain_baseline), ("cnn", plain_cnn), ("lenet5", plain_lenet5)],
)
def test_a_hundred_steps_equal_those_of_the_plain_layers(
    compose: Compose, name: str, plain: Callable[[nn.Module], Callable[[Tensor], Tensor]]
) -> None:
    torch.manual_seed(0)
    fast = config.build(compose(f"model={name}", "model.dropout=0").model)
    twin = deepcopy(fast)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    losses = []
    for model, forward in ((fast, fast), (twin, plain(twin))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        seen = []
        for step in range(100):
            batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
            loss = F.cross_entropy(forward(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        losses.append(torch.stack(seen))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    assert losses[0][-20:].mean() < losses[0][:20].mean()
