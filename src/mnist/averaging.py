"""Weights averaged over an epoch's last steps: at a high learning rate, those of a single step are
mostly noise, and so would be what they score."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

EVERY = 4  # steps: half of an epoch's would cost the perceptron a thirtieth of its time


class WeightAverage:
    """The mean of a model's weights over the last ``share`` of an epoch's steps, of which every
    fourth is taken (Izmailov et al. 2018, arXiv 1803.05407, within one epoch).

    Training goes on with the model's own weights; inside ``applied()`` it has the mean. With a
    share of 0 that is the same.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.model = model
        self.share = share
        self._sum: list[Tensor] = []
        self._n = 0
        self._mean: list[Tensor] = []  # of the parameters, then of what normalizes batches

    def update(self, step: int, n_steps: int) -> None:
        """Take the weights after a step, counted from 0, of an epoch's ``n_steps``."""
        n_left = n_steps - 1 - step
        if n_left % EVERY or n_left >= self.share * n_steps:
            return
        weights = [parameter.detach() for parameter in self.model.parameters()]
        if self._n:
            for total, weight in zip(self._sum, weights, strict=True):
                total.add_(weight)
        else:
            self._sum = [weight.clone() for weight in weights]
        self._n += 1

    def finish(self, inputs: Iterable[Tensor]) -> None:
        """End an epoch; ``inputs`` are batches that batch norm measures its statistics on."""
        if not self._n:
            return
        self._mean, self._sum = [total.div_(self._n) for total in self._sum], []
        self._n = 0
        if statistics := self._statistics():
            own = [tensor.clone() for tensor in statistics]
            with self.applied():
                update_bn(inputs, self.model)
                self._mean += [tensor.clone() for tensor in statistics]
            for tensor, before in zip(statistics, own, strict=True):
                tensor.copy_(before)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the mean."""
        tensors = list(chain(self.model.parameters(), self._statistics()))
        own = [tensor.data for tensor in tensors]
        for tensor, mean in zip(tensors, self._mean, strict=False):
            tensor.data = mean
        try:
            yield
        finally:
            for tensor, data in zip(tensors, own, strict=True):
                tensor.data = data

    def _statistics(self) -> list[Tensor]:
        """The running means and variances of the model's batch norms."""
        norms = (m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return [tensor for norm in norms for tensor in norm.buffers() if tensor.is_floating_point()]

    def state_dict(self) -> dict[str, Any]:
        """What a stopped training needs again."""
        return {"mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        device = next(self.model.parameters()).device
        self._mean = [tensor.to(device) for tensor in state["mean"]]
