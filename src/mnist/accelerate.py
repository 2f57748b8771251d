"""A built model, a user's own as well, computes the same in less time on a CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mnist import layers

AVERAGE, MAXIMUM = nn.AvgPool2d(2), nn.MaxPool2d(2, stride=1)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def accelerate(model: nn.Module) -> nn.Module:
    """Give each module whose class is known here a faster one, as torch's ``parametrize`` does,
    and return the model: its modules, parameters and names stay the objects that they are.

    What is subclassed, or set in a way that is not known here, stays as it is too.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d:
            settings = module.stride, module.dilation, module.groups, module.padding_mode
            if settings == ((1, 1), (1, 1), 1, "zeros") and type(module.padding) is tuple:
                module.__class__ = layers.Conv2d
        elif type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
    return model


class Sequential(nn.Sequential):
    """``nn.Sequential`` that computes runs of modules that are known here in one operation."""

    def forward(self, input: Any) -> Any:
        if not layers.is_fast(input):
            return super().forward(input)
        modules = list(self)
        while modules:
            n_modules, operation = _first_operation(modules)
            input = operation(input)
            del modules[:n_modules]
        return input


FASTER = {nn.Linear: layers.Linear, nn.Dropout: layers.Dropout, nn.Sequential: Sequential}


def _first_operation(modules: list[nn.Module]) -> tuple[int, Callable[[Any], Any]]:
    """How many modules from the first on make one operation, and that operation."""
    match modules[:3]:
        case [layers.Conv2d() as conv, nn.Tanh(), nn.AvgPool2d() as pool]:
            if _equals(pool, AVERAGE) and _are_plain(modules[:3]):
                return 3, partial(layers.conv_tanh_pool, conv=conv)
        case [nn.MaxPool2d() as pool, nn.ReLU(), *_]:
            if _equals(pool, MAXIMUM) and _are_plain(modules[:2]):
                return 2, layers.pool_relu
    return 1, modules[0]


def _are_plain(modules: list[nn.Module]) -> bool:
    """Whether their classes are torch's or from here, and calling them does nothing beside."""
    return all(
        type(module).__module__.startswith(("torch.nn.modules.", layers.__name__))
        and "forward" not in vars(module)
        and not any(vars(module)[hooks] for hooks in HOOKS)
        for module in modules
    )


def _equals(module: nn.Module, other: nn.Module) -> bool:
    return vars(module) | {"training": True} == vars(other)
