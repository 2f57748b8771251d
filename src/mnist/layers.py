"""Operations and modules that equal torch's and take less time on a CPU, where a small model
spends most of it.

What each gains is measured by tests/benchmarks/loop.py. Wherever ``is_fast`` says no, they are
torch's own operations. Their gradients can't be differentiated again.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

MIN_PRODUCT = 500_000  # multiplications from which setting up oneDNN pays

# oneDNN's product of matrices: MKL's, which torch takes, leaves half of an AMD core with AVX-512
# idle. Torch has no public way to choose between them.
_onednn_linear = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)


def is_fast(*tensors: Any) -> bool:
    """Whether what is here may take torch's place for these tensors: float32 on a CPU, not empty,
    and neither being compiled or exported, nor under autocast."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and all(
            type(x) in (Tensor, nn.Parameter)
            and x.is_cpu
            and x.dtype == torch.float32
            and x.layout == torch.strided
            and x.numel() > 0
            for x in tensors
        )
    )


class Linear(nn.Linear):
    """``nn.Linear``, by oneDNN where it takes rows (n, in_features)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Dropout(nn.Dropout):
    """``nn.Dropout`` with a mask from 16 random bits a value: ``p`` in steps of 1/65536."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and 0 < self.p < 1 and is_fast(x):
            return x * _mask(x, self.p)
        return super().forward(x)


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with stride, dilation and groups of 1 and zeros for padding, whose gradients
    come faster; one product of matrices where the kernel covers the image."""

    def forward(self, x: Tensor) -> Tensor:
        if not (is_fast(x, self.weight) and x.dim() == 4):
            return super().forward(x)
        if x.shape[2:] == self.kernel_size and self.padding == (0, 0):
            return linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]
        return _Conv2d.apply(x, self.weight, self.bias, self.padding)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``."""
    pays = x.dim() == 2 and x.numel() * len(weight) >= MIN_PRODUCT
    if pays and _onednn_linear and is_fast(x, weight):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def conv_tanh_pool(x: Tensor, conv: Conv2d) -> Tensor:
    """The convolution, ``nn.Tanh()`` and ``nn.AvgPool2d(2)``, one after the other."""
    # Padding adds an even number.
    even = all(
        (side - kernel) % 2 for side, kernel in zip(x.shape[2:], conv.kernel_size, strict=False)
    )
    if even and conv.bias is not None and x.dim() == 4 and is_fast(x, conv.weight):
        return _ConvTanhPool.apply(x, conv.weight, conv.bias, conv.padding)
    return F.avg_pool2d(torch.tanh(conv(x)), 2)


def pool_relu_dropout(x: Tensor, p: float) -> Tensor:
    """``nn.MaxPool2d(2, stride=1)``, ``nn.ReLU()`` and ``nn.Dropout(p)`` in training, one after
    the other; the mask as ``Dropout`` here has it."""
    if x.dim() == 4 and min(x.shape[2:]) > 1 and p < 1 and is_fast(x):
        return _PoolReLUDropout.apply(x, p)
    return F.dropout(F.relu(F.max_pool2d(x, 2, 1)), p)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if of_x else None,
            _product(grad.t(), x.t()) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.t() + bias``."""
    return _onednn_linear(a, b, bias, "none", [], "") if _onednn_linear else F.linear(a, b, bias)


def _mask(x: Tensor, p: float) -> Tensor:
    """Of the shape of ``x``: 0 with probability ``p``, else 1 / (1 - p)."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    noise = words.view(torch.int16)[: x.numel()].view(x.shape).float()
    return torch.gt(noise, round(p * 2**16) - 2**15 - 0.5, out=noise).mul_(1 / (1 - p))


def _greater(a: Tensor, b: Tensor | float) -> Tensor:
    """1.0 where ``a`` > ``b``, else 0.0: a boolean mask would take four times as long."""
    return torch.gt(a, b, out=torch.empty_like(a))


class _PoolReLUDropout(Function):
    """Takes the greater of two neighbours in a row, then of two rows, on the images laid out in
    one line: what crosses the end of a row or an image falls away with the last column and row.
    The gradient goes to the first of equals, as torch's does. None passes where ReLU or dropout
    gave 0, so the output serves for both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        width = x.shape[-1]
        line = x.contiguous().view(-1)
        pairs = torch.maximum(line[:-1], line[1:])
        pooled = torch.empty_like(line)
        torch.maximum(pairs[:-width], pairs[width:], out=pooled[: -width - 1])
        # Copied: masks of a part of each row take eight times as long.
        y = pooled.view(x.shape)[..., :-1, :-1].contiguous().clamp_min_(0)
        if p:
            y.mul_(_mask(y, p))
        if ctx.needs_input_grad[0]:
            right_wins = _greater(line[1:], line[:-1])
            ctx.save_for_backward(y, right_wins, _greater(pairs[width:], pairs[:-width]))
            ctx.shape, ctx.scale = x.shape, 1 / (1 - p)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, right_wins, lower_wins = ctx.saved_tensors
        width = ctx.shape[-1]
        pooled = grad.new_zeros(ctx.shape)
        pooled[..., :-1, :-1] = _greater(y, 0).mul_(grad)
        if ctx.scale != 1:
            pooled.mul_(ctx.scale)
        pairs = _share_out(pooled.view(-1)[: -width - 1], lower_wins, width)
        return _share_out(pairs, right_wins, 1).view(ctx.shape), None


def _share_out(grad: Tensor, second_wins: Tensor, distance: int) -> Tensor:
    """The gradient of values of which ``grad`` belongs to the greater of each two that stand
    ``distance`` apart."""
    seconds = grad * second_wins
    shared = grad.new_empty(len(grad) + distance)
    torch.sub(grad, seconds, out=shared[:-distance])
    shared[-distance:] = 0
    shared[distance:] += seconds
    return shared


class _Conv2d(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_conv2d_gradients(ctx, grad), None


def _conv2d_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of the images, the weights and the bias. That of the weights takes the images with their
    channels last: half of the time, without AVX-512 of the first layer's a quarter."""
    x, weight, *_ = ctx.saved_tensors
    of_x, of_weight, of_bias, _ = ctx.needs_input_grad
    last = x
    if weight.shape[1] >= 4 or not _has_avx512():  # few channels are faster as they are
        last = x.to(memory_format=torch.channels_last)
    return (
        conv2d_input(x.shape, weight, grad, padding=ctx.padding) if of_x else None,
        conv2d_weight(last, weight.shape, grad, padding=ctx.padding) if of_weight else None,
        grad.sum((0, 2, 3)) if of_bias else None,
    )


@functools.cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class _ConvTanhPool(Function):
    """Tanh by the logistic function, which torch computes in a quarter of the time:
    tanh(z) = 2 logistic(2 z) - 1. The first 2 goes into the weights, the rest into the mean.
    The mean is one product of matrices: two rows of an image lie side by side."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, padding: Sequence[int]
    ) -> Tensor:
        y = F.conv2d(x, 2 * weight, 2 * bias, padding=padding).contiguous().sigmoid_()
        n, channels, height, width = y.shape
        halves, minus_one, _ = _pooling(width)
        means = _product(y.view(-1, 2 * width), halves, minus_one)
        ctx.save_for_backward(x, weight, y)
        ctx.padding = padding
        return means.view(n, channels, height // 2, width // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y = ctx.saved_tensors[2]
        width = y.shape[-1]
        of_y = _product(grad.reshape(-1, width // 2), _pooling(width)[2]).view(y.shape)
        of_y.mul_(y).addcmul_(of_y, y, value=-1)  # y (1 - y) is the logistic function's slope
        return *_conv2d_gradients(ctx, of_y), None


@functools.cache
def _pooling(width: int) -> tuple[Tensor, Tensor, Tensor]:
    """For rows of images that lie side by side in pairs: what gives twice the means of 2x2
    values (width / 2, 2 width), what is to be added (width / 2), and what gives each of the four
    its mean's gradient times 2 (2 width, width / 2): the logistic function was given 2 z."""
    members = torch.eye(width // 2).repeat_interleave(2, 1).repeat(1, 2)
    return members / 2, members.new_full((width // 2,), -1), members.t().contiguous()
