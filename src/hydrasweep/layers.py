"""Layers that equal torch's and are faster on a CPU, where the small models spend their time.

What each gains is measured by tests/benchmarks/loop.py. On other devices, and while a model is
exported, they are torch's own operations.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

# (a, b, x) -> a where b > x, else 0: a fifth of the time of a boolean mask's making and use.
_where_above = torch.ops.aten.threshold_backward


def _is_plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_exporting()


class MaxPool2x2(nn.Module):
    """``nn.MaxPool2d(2, stride=1)`` of images (n, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2, 1) if _is_plain(x) else _MaxPool2x2.apply(x)


class _MaxPool2x2(Function):
    """Takes the greater of two neighbours by rows, then by columns, on the images laid out in
    one line: what crosses the end of a row or an image falls away with the last column and row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        width = x.shape[-1]
        line = x.contiguous().view(-1)
        upper, lower = line[:-width], line[width:]
        rows = torch.maximum(upper, lower)
        left, right = rows[:-1], rows[1:]
        pooled = torch.empty_like(line)
        torch.maximum(left, right, out=pooled[: -width - 1])
        ctx.save_for_backward(upper - lower, left - right)
        ctx.shape = x.shape
        return pooled.view(x.shape)[..., :-1, :-1].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        upper_wins, left_wins = ctx.saved_tensors
        width = ctx.shape[-1]
        pooled = grad.new_zeros(ctx.shape)
        pooled[..., :-1, :-1] = grad
        rows = _share_out(pooled.view(-1)[: -width - 1], left_wins, 1)
        return _share_out(rows, upper_wins, width).view(ctx.shape)


def _share_out(grad: Tensor, first_wins: Tensor, distance: int) -> Tensor:
    """The gradient of the greater of two values that stand ``distance`` apart; ``grad`` is
    overwritten."""
    shared = grad.new_zeros(len(grad) + distance)
    shared[:-distance] = _where_above(grad, first_wins, 0)
    grad -= shared[:-distance]
    shared[distance:] += grad
    return shared


class AvgPool2x2(nn.Module):
    """``nn.AvgPool2d(2)`` of images with even sides, as one matrix product: two rows of an
    image lie side by side and are multiplied by a matrix of quarters."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x) or x.shape[-1] % 2 or x.shape[-2] % 2:
            return F.avg_pool2d(x, 2)
        n, channels, height, width = x.shape
        quarters = (
            torch.eye(width // 2, dtype=x.dtype).mul_(0.25).repeat_interleave(2, 0).repeat(2, 1)
        )
        return (x.reshape(-1, 2 * width) @ quarters).view(n, channels, height // 2, width // 2)


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
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        ctx.noise = words.view(torch.int16)[: x.numel()].view(x.shape).float()
        ctx.threshold = round(p * 2**16) - 2**15 - 0.5
        ctx.scale = 1 / (1 - p)
        return _where_above(x, ctx.noise, ctx.threshold).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _where_above(grad, ctx.noise, ctx.threshold).mul_(ctx.scale), None


class Tanh(nn.Module):
    """``nn.Tanh`` by the logistic function, which torch computes in a sixth of the time."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) if _is_plain(x) else _Tanh.apply(x)


class _Tanh(Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        y = torch.sigmoid(2 * x).mul_(2).sub_(1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.aten.tanh_backward(grad, *ctx.saved_tensors)


class WholeImageConv2d(nn.Conv2d):
    """``nn.Conv2d`` of images that its kernel covers: one product of matrices."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(x):
            return super().forward(x)
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]
