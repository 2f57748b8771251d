"""Layers that equal torch's and are faster on a CPU, where the small models spend their time.

What each gains is measured by tests/benchmarks/loop.py. On other devices, and while a model is
exported, they are torch's own operations.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

# (a, b, x) -> a where b > x, else 0: a fifth of the time of a boolean mask's making and use.
_where_above = torch.ops.aten.threshold_backward
_write_where_above = torch.ops.aten.threshold_backward.grad_input

MIN_PRODUCT = 500_000  # multiplications, with which oneDNN's setting up pays


def _is_plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_exporting()


class Linear(nn.Linear):
    """``nn.Linear`` of rows (n, in_features), by oneDNN's product of matrices: MKL's, which torch
    takes, leaves half of an AMD core with AVX-512 idle."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x) or x.numel() * len(self.weight) < MIN_PRODUCT:
            return super().forward(x)
        return _Linear.apply(x, self.weight, self.bias)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _rows_product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _rows_product(grad, weight.t()) if of_x else None,
            _rows_product(grad.t(), x.t()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _rows_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.t() + bias``; oneDNN takes no double precision, and no empty matrices."""
    if torch.backends.mkldnn.is_available() and a.dtype == torch.float32 and a.numel():
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


class PoolReLUDropout(nn.Module):
    """``nn.MaxPool2d(2, stride=1)``, ``nn.ReLU()`` and ``nn.Dropout(p)``, one after the other, of
    images (n, channels, height, width); the mask as ``Dropout`` here has it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x):
            return F.dropout(F.relu(F.max_pool2d(x, 2, 1)), self.p, self.training)
        return _PoolReLUDropout.apply(x, self.p if self.training else 0.0)


class _PoolReLUDropout(Function):
    """Takes the greater of two neighbours by rows, then by columns, on the images laid out in
    one line: what crosses the end of a row or an image falls away with the last column and row.
    Where ReLU or dropout gave 0 no gradient passes, so the output serves for both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        width = x.shape[-1]
        line = x.contiguous().view(-1)
        upper, lower = line[:-width], line[width:]
        rows = torch.maximum(upper, lower)
        left, right = rows[:-1], rows[1:]
        pooled = torch.empty_like(line)
        torch.maximum(left, right, out=pooled[: -width - 1])
        # Copied: beside a copy, masks of what lies in rows take eight times as long.
        y = pooled.view(x.shape)[..., :-1, :-1].contiguous().clamp_min_(0)
        if p:
            _write_where_above(y, *_noise(y, p), grad_input=y).mul_(1 / (1 - p))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(y, upper - lower, left - right)
            ctx.shape, ctx.scale = x.shape, 1 / (1 - p)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, upper_wins, left_wins = ctx.saved_tensors
        width = ctx.shape[-1]
        pooled = grad.new_zeros(ctx.shape)
        pooled[..., :-1, :-1] = _where_above(grad, y, 0)
        if ctx.scale != 1:
            pooled.mul_(ctx.scale)
        rows = _share_out(pooled.view(-1)[: -width - 1], left_wins, 1)
        return _share_out(rows, upper_wins, width).view(ctx.shape), None


def _share_out(grad: Tensor, first_wins: Tensor, distance: int) -> Tensor:
    """The gradient of the greater of two values that stand ``distance`` apart; ``grad`` is
    overwritten."""
    shared = grad.new_empty(len(grad) + distance)
    shared[-distance:] = 0
    _write_where_above(grad, first_wins, 0, grad_input=shared[:-distance])
    grad -= shared[:-distance]
    shared[distance:] += grad
    return shared


class Dropout(nn.Dropout):
    """``nn.Dropout``, whose mask comes from 16 random bits a value, as ``p`` in steps of
    1/65536 does."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x) or not self.training or self.p == 0:
            return super().forward(x)
        return _Dropout.apply(x, self.p)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.noise, ctx.threshold = _noise(x, p)
        ctx.scale = 1 / (1 - p)
        return _where_above(x, ctx.noise, ctx.threshold).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _where_above(grad, ctx.noise, ctx.threshold).mul_(ctx.scale), None


def _noise(x: Tensor, p: float) -> tuple[Tensor, float]:
    """Noise of the shape of ``x``, and what a share ``p`` of it is below."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    noise = words.view(torch.int16)[: x.numel()].view(x.shape).float()
    return noise, round(p * 2**16) - 2**15 - 0.5


class WholeImageConv2d(nn.Conv2d):
    """``nn.Conv2d`` of images that its kernel covers: one product of matrices."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x):
            return super().forward(x)
        pixels = _Linear.apply(x.flatten(1), self.weight.flatten(1), self.bias)
        return pixels[..., None, None]


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a bias and stride 1, whose gradients come faster."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x):
            return super().forward(x)
        return _Conv2d.apply(x, self.weight, self.bias, self.padding)


class _Conv2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        return *_convolution_gradients(ctx, grad, *ctx.saved_tensors), None


def _convolution_gradients(
    ctx: Any, grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Of the images, the weights and the bias. That of the weights takes the images with their
    channels last: half of the time, without AVX-512 of the first layer's a quarter."""

    def gradients(x: Tensor, *wanted: bool) -> list[Tensor]:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [len(weight)],
            (1, 1), ctx.padding, (1, 1), False, (0, 0), 1, wanted,
        )  # fmt: skip

    of_x = gradients(x, True, False, False)[0] if ctx.needs_input_grad[0] else None
    if weight.shape[1] >= 4 or not _has_avx512():  # few channels are faster as they are
        x = x.to(memory_format=torch.channels_last)
    _, of_weight, of_bias = gradients(x, False, True, True)
    return of_x, of_weight, of_bias


@functools.cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class ConvTanhPool(nn.Conv2d):
    """``nn.Conv2d`` with a bias and stride 1, ``nn.Tanh()`` and ``nn.AvgPool2d(2)``, one after
    the other."""

    def forward(self, x: Tensor) -> Tensor:
        # Padding adds an even number.
        sides = zip(x.shape[2:], self.kernel_size, strict=True)
        if _is_plain(x) or any((side - kernel + 1) % 2 for side, kernel in sides):
            return F.avg_pool2d(torch.tanh(super().forward(x)), 2)
        return _ConvTanhPool.apply(x, self.weight, self.bias, self.padding)


class _ConvTanhPool(Function):
    """Tanh by the logistic function, which torch computes in a sixth of the time:
    tanh(z) = 2 logistic(2 z) - 1. The first 2 goes into the weights, the rest into the mean.
    The mean is one product of matrices: two rows of an image lie side by side."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Any) -> Tensor:
        y = F.conv2d(x, 2 * weight, 2 * bias, padding=padding).contiguous().sigmoid_()
        n, channels, height, width = y.shape
        halves, minus_one, _ = _pooling(width, y.dtype)
        means = _rows_product(y.view(-1, 2 * width), halves, minus_one)
        ctx.save_for_backward(x, weight, y)
        ctx.padding = padding
        return means.view(n, channels, height // 2, width // 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, y = ctx.saved_tensors
        width = y.shape[-1]
        *_, spread = _pooling(width, y.dtype)
        of_y = _rows_product(grad.reshape(-1, width // 2), spread).view(y.shape)
        torch.ops.aten.sigmoid_backward.grad_input(of_y, y, grad_input=of_y)
        return *_convolution_gradients(ctx, of_y, x, weight), None


@functools.cache
def _pooling(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of images that lie side by side in pairs: what gives twice the means of 2x2
    values (width / 2, 2 width), what is to be added (width / 2), and what gives each of the four
    its mean's gradient times 2 (2 width, width / 2): the logistic function was given 2 z."""
    members = torch.eye(width // 2, dtype=dtype).repeat_interleave(2, 1).repeat(1, 2)
    return members / 2, members.new_full((width // 2,), -1), members.t().contiguous()
