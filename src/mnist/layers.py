"""Layers that equal torch's and take less time on a CPU, where a small model spends most of it.

What each gains depends on CPU and shapes: ``mnist.accelerate`` measures it. Where ``is_fast`` says
no, they are torch's own operations. They give first derivatives only, and not under ``torch.func``.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

# oneDNN's product of matrices: MKL's, which torch takes, leaves half of an AMD core with AVX-512
# idle. Torch has no public way to choose between them.
_onednn_linear: Any = torch.backends.mkldnn.is_available() and getattr(
    torch.ops.mkldnn, "_linear_pointwise", None
)


def is_fast(*tensors: Any) -> bool:
    """Whether what is here may take torch's place: for tensors in float32 on a CPU, not empty, and
    neither compiled or exported, nor under autocast."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(
        type(x) in (Tensor, nn.Parameter)
        and x.is_cpu
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and x.numel()
        for x in tensors
    )


class Faster(nn.Module):
    """A module of torch's that another class has been given."""

    def _get_name(self) -> str:
        """torch's name for it, by which people know their model."""
        return next(c.__name__ for c in type(self).__mro__ if c.__module__.startswith("torch.nn."))


class Linear(Faster, nn.Linear):
    """``nn.Linear``, by oneDNN where it takes rows (n, in_features)."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Dropout(Faster, nn.Dropout):
    """``nn.Dropout`` with a mask from 16 random bits a value: ``p`` in steps of 1/65536."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and 0 < self.p < 1 and is_fast(input)) or self.inplace:
            return super().forward(input)
        words = input.new_empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        noise = words.view(torch.int16)[: input.numel()].view(input.shape).float()
        mask = torch.gt(noise, round(self.p * 2**16) - 2**15 - 0.5, out=noise)
        return input * mask.mul_(1 / (1 - self.p))


class Conv2d(Faster, nn.Conv2d):
    """``nn.Conv2d`` with stride, dilation and groups of 1 and zeros for padding, whose gradients
    come faster; one product of matrices where the kernel covers the image."""

    channels_last = False  # the images, for the weights' gradient

    def forward(self, input: Tensor) -> Tensor:
        if not (is_fast(input, self.weight) and input.dim() == 4):
            return super().forward(input)
        if input.shape[2:] == self.kernel_size and self.padding == (0, 0):
            return linear(input.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]
        return _Conv2d.apply(input, self.weight, self.bias, self.padding, self.channels_last)


class ConvTanhPool(Conv2d):
    """``Conv2d`` that is computed as one with the tanh and the average pooling after it."""


class ChannelsLastConv2d(Conv2d):
    """``Conv2d`` whose weights' gradient takes the images with their channels last."""

    channels_last = True


class ChannelsLastConvTanhPool(ConvTanhPool, ChannelsLastConv2d):
    """Both."""


class MaxPoolReLU(Faster, nn.MaxPool2d):
    """``nn.MaxPool2d(2, stride=1)`` that is computed as one with the ReLU after it."""


def conv_tanh_pool(x: Tensor, conv: Conv2d) -> Tensor:
    """A convolution, ``nn.Tanh()`` and ``nn.AvgPool2d(2)``, one after the other.

    Tanh by the logistic function, which torch computes in a quarter of the time:
    tanh(z) = 2 logistic(2 z) - 1. The first 2 goes into the weights, the rest into the mean.
    The mean is one product of matrices: two rows of an image lie side by side.
    """
    sides = zip(x.shape[2:], conv.kernel_size, strict=False)
    if (
        conv.bias is None
        or not (is_fast(x, conv.weight) and x.dim() == 4)
        or any((side - kernel + 1) % 2 for side, kernel in sides)  # padding adds an even number
    ):
        return F.avg_pool2d(torch.tanh(conv(x)), 2)
    z = _Conv2d.apply(x, 2 * conv.weight, 2 * conv.bias, conv.padding, conv.channels_last)
    n, channels, height, width = z.shape
    rows = z.contiguous().sigmoid_().view(-1, 2 * width)
    return linear(rows, *_twice_the_mean(width)).view(n, channels, height // 2, width // 2)


@functools.cache
@torch.inference_mode(False)  # a later training takes them too
def _twice_the_mean(width: int) -> tuple[Tensor, Tensor]:
    """Weights (width / 2, 2 width) and bias (width / 2) for pairs of rows that lie side by side:
    twice the mean of each 2x2 values, less 1."""
    halves = torch.eye(width // 2, dtype=torch.float32, device="cpu") / 2
    weights = halves.repeat_interleave(2, 1).repeat(1, 2)
    return weights, weights.new_full((width // 2,), -1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear``, by oneDNN."""
    if _onednn_linear and is_fast(x, weight) and x.dim() == 2:
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _onednn_linear(grad, weight.t(), None, "none", [], "") if of_x else None,
            _onednn_linear(grad.t(), x.t(), None, "none", [], "") if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


class _Conv2d(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        padding: Sequence[int],
        channels_last: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.channels_last = padding, channels_last
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), padding = ctx.saved_tensors, ctx.padding
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        images = x.to(memory_format=torch.channels_last) if ctx.channels_last else x
        return (
            F.conv_transpose2d(grad, weight, padding=padding) if of_x else None,
            conv2d_weight(images, weight.shape, grad, padding=padding) if of_weight else None,
            grad.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def pool_relu(x: Tensor) -> Tensor:
    """``nn.MaxPool2d(2, stride=1)`` and ``nn.ReLU()``, one after the other."""
    if is_fast(x) and x.dim() == 4 and min(x.shape[2:]) > 1:
        return _PoolReLU.apply(x)
    return F.relu(F.max_pool2d(x, 2, 1))


class _PoolReLU(Function):
    """Takes the greater of two neighbours in a row, then of two rows, on the images laid out in
    one line: what crosses the end of a row or an image falls away with the last column and row.
    The gradient goes to the first of equals, as torch's does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        width = x.shape[-1]
        line = x.contiguous().view(-1)
        pairs = torch.maximum(line[:-1], line[1:])
        pooled = torch.empty_like(line)
        torch.maximum(pairs[:-width], pairs[width:], out=pooled[: -width - 1])
        # Copied: masks of a part of each row take eight times as long.
        y = pooled.view(x.shape)[..., :-1, :-1].contiguous().clamp_min_(0)
        if ctx.needs_input_grad[0]:
            left_wins, upper_wins = torch.empty_like(pairs), torch.empty_like(pairs[width:])
            torch.ge(line[:-1], line[1:], out=left_wins)
            torch.ge(pairs[:-width], pairs[width:], out=upper_wins)
            ctx.save_for_backward(y, left_wins, upper_wins)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, left_wins, upper_wins = ctx.saved_tensors
        n, channels, height, width = y.shape
        pooled = grad.new_zeros(n, channels, height + 1, width + 1)
        pooled[..., :-1, :-1] = torch.gt(y, 0, out=torch.empty_like(y)).mul_(grad)
        pairs = _share_out(pooled.view(-1)[: -width - 2], upper_wins, width + 1)
        return _share_out(pairs, left_wins, 1).view(pooled.shape)


def _share_out(grad: Tensor, first_wins: Tensor, distance: int) -> Tensor:
    """The gradient of values of which ``grad``, which is overwritten, belongs to the greater of
    each two that stand ``distance`` apart."""
    shared = grad.new_empty(len(grad) + distance)
    shared[-distance:] = 0
    grad -= torch.mul(grad, first_wins, out=shared[:-distance])
    shared[distance:] += grad
    return shared
