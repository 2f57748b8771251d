"""A built model, a user's own as well, computes the same in less time on a CPU."""

import copy
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from hydrasweep import Outage, UserError
from mnist import files, layers

AVERAGE, MAXIMUM = nn.AvgPool2d(2), nn.MaxPool2d(2, stride=1)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CONVOLUTIONS = (layers.Conv2d, layers.ChannelsLastConv2d)
FUSED = (layers.ConvTanhPool, layers.ChannelsLastConvTanhPool)

PREFIX = "model"  # of modules' names, which without it may be numbers

GAIN = 0.95  # of torch's time: what takes longer than that may be faster by luck
SECONDS, MIN_ROUNDS = 0.01, 2  # of each comparison
MAX_ROWS = 128  # that are measured: more take longer, and little else

Classes = Sequence[type[nn.Module]]
Shares = dict[str, float]  # of torch's own time, by class
Times = Mapping[str, Shares]  # by module


class Sequential(layers.Faster, nn.Sequential):
    """``nn.Sequential`` that computes runs of modules in one operation."""

    def forward(self, input: Any) -> Any:
        if not layers.is_fast(input):
            return super().forward(input)
        modules = list(self)
        while modules:
            first, n_modules = modules[0], 1
            if isinstance(first, layers.ConvTanhPool) and _is_conv_run(modules):
                input, n_modules = layers.conv_tanh_pool(input, first), 3
            elif isinstance(first, layers.MaxPoolReLU) and _is_pool_run(modules):
                input, n_modules = layers.pool_relu(input), 2
            else:
                input = first(input)
            del modules[:n_modules]
        return input


def accelerate(model: nn.Module, chosen: Mapping[str, str]) -> nn.Module:
    """Give modules faster classes, as torch's ``parametrize`` does, and return the model: its
    modules, parameters and names stay the objects that they are.

    ``chosen`` are names of classes by those of the modules, as ``choose`` gives them.

    Raises:
        UserError: the model has no such module, or the class is none for it.
    """
    modules, runs = dict(model.named_modules(prefix=PREFIX)), dict(_runs(model))
    for name, given in chosen.items():
        known = _by_name(runs.get(name, ()))
        if given not in known:
            fitting = ", ".join(known) or "none"
            raise UserError(f"fast_layers={{{name}:{given}}}: the classes for {name}: {fitting}")
        modules[name].__class__ = known[given]
    for module in modules.values():
        fused = (layers.ConvTanhPool, layers.MaxPoolReLU)
        if type(module) is nn.Sequential and any(isinstance(each, fused) for each in module):
            module.__class__ = Sequential
    return model


def fits(model: nn.Module, chosen: Mapping[str, str]) -> bool:
    """Whether the model has all these modules, and each could have its class."""
    runs = dict(_runs(model))
    return all(given in _by_name(runs.get(name, ())) for name, given in chosen.items())


def _by_name(run: Sequence[nn.Module]) -> dict[str, type[nn.Module]]:
    return {each.__name__: each for each in _classes(run)} if run else {}


def choose(*measured: Times) -> dict[str, str]:
    """The fastest class for each module that all models have, where one is faster than torch's
    own in everything that was measured."""
    chosen = {}
    for name, classes in measured[0].items():
        times = [each.get(name, {}) for each in measured]
        worst = {each: max(time.get(each, 1.0) for time in times) for each in classes}
        fastest = min(worst, key=lambda each: worst[each])
        if worst[fastest] < GAIN:
            chosen[name] = fastest
    return chosen


def measure(model: nn.Module, inputs: Tensor, kept: Path) -> Times:
    """How long the modules that could have faster classes take with each, for ``inputs`` of this
    shape on this CPU; the model stays as it is.

    What was measured before is read from the file ``kept``, so that two runs on a machine choose
    the same and have the same bits.
    """
    runs = dict(_runs(model := copy.deepcopy(model).train()))
    with torch.random.fork_rng(devices=[]), _kept(kept) as known:
        first = {name: run[0] for name, run in runs.items()}
        seen = _inputs(model, first, inputs[:MAX_ROWS])
        fitting = {name: x for name, x in seen.items() if layers.is_fast(x)}
        return {name: _compare(runs[name], x, known) for name, x in fitting.items()}


@contextmanager
def _kept(path: Path) -> Iterator[dict[str, Shares]]:
    """What is known of this CPU, to be added to; one process measures at a time."""
    own = f"{cpu()}, torch {torch.__version__}"
    known: dict[str, dict[str, Shares]] = {own: {}}
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire().lock.release()  # to see whether it can be had
    except OSError:  # somebody else's folder
        yield known[own]
        return
    with lock:
        with suppress(Exception):  # not there yet, or damaged: measured anew
            known |= torch.load(path, weights_only=True)
        before = dict(known[own])
        yield known[own]
        if known[own] != before:
            with suppress(Outage):  # it has no room
                files.save(path, known)


def cpu() -> str:
    """The CPU's name, on Linux its family and model, as clouds give several the same name, and
    which of its instructions torch uses."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = dict(re.findall(r"^(.+?)\s*: (.*)$", text, re.MULTILINE))
    parts = [found.get(part, "") for part in ("model name", "cpu family", "model")]
    name = " ".join(parts).strip() or platform.processor()
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def _inputs(
    model: nn.Module, modules: Mapping[str, nn.Module], inputs: Tensor
) -> dict[str, Tensor]:
    """What each module gets."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, given: Sequence[Any]) -> None:
        if given:  # by position
            seen[name] = given[0]

    hooks = [m.register_forward_pre_hook(partial(keep, name)) for name, m in modules.items()]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return seen


def _compare(run: Sequence[nn.Module], like: Tensor, known: dict[str, Shares]) -> Shares:
    """The time of forward and backward with each class for the first module, as a share of the
    time that torch's own takes; the least of some rounds each, in turns."""
    plain = nn.Sequential(*copy.deepcopy(run))
    for module in plain:
        if isinstance(module, nn.Dropout):
            module.p = 0.5  # its time does not depend on it, but for 0 and 1
    key = f"{plain} {tuple(like.shape)} {like.requires_grad} {torch.get_num_threads()}"
    if key in known:
        return known[key]
    sides: dict[str, nn.Module] = {"": plain}
    for each in _classes(run):
        sides[each.__name__] = accelerate(copy.deepcopy(plain), {f"{PREFIX}.0": each.__name__})
    x = torch.randn_like(like).requires_grad_(like.requires_grad)
    grad = torch.randn_like(plain(x))
    times: dict[str, list[float]] = {name: [] for name in sides}
    # What one thread takes is the same while others have its core.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    started = time.perf_counter()
    while len(times[""]) <= MIN_ROUNDS or time.perf_counter() - started < SECONDS:
        for name, side in sides.items():
            begun = clock()
            if (y := side(x)).requires_grad:
                y.backward(grad)
            times[name].append(clock() - begun)
    least = {name: min(of[1:]) for name, of in times.items()}  # the first sets things up
    known[key] = {name: least[name] / least[""] for name in sides if name}
    return known[key]


def _runs(model: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """Modules that could have a faster class, by name, each followed by those that would be
    computed with it; what is subclassed or set in a way that is not known here is left out."""
    followers: dict[nn.Module, list[nn.Module]] = {}
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential) and type(sequence) in (nn.Sequential, Sequential):
            modules = list(sequence)
            followers |= {module: modules[i:] for i, module in enumerate(modules)}
    for name, module in model.named_modules(prefix=PREFIX):
        run = followers.get(module, [module])
        for n in (3, 2, 1):
            if _classes(run[:n]):
                yield name, run[:n]
                break


def _classes(run: Sequence[nn.Module]) -> Classes:
    """The faster classes for the first of these modules."""
    first, n = run[0], len(run)
    if type(first) in (nn.Linear, layers.Linear):
        return (layers.Linear,) if n == 1 else ()
    if type(first) in (nn.Dropout, layers.Dropout):
        return (layers.Dropout,) if n == 1 else ()
    if n == 2 and type(first) in (nn.MaxPool2d, layers.MaxPoolReLU) and _is_pool_run(run):
        return (layers.MaxPoolReLU,)
    if type(first) in (nn.Conv2d, *CONVOLUTIONS, *FUSED):
        if n == 1 and _is_usual(first):
            return CONVOLUTIONS
        if n == 3 and _is_usual(first) and _is_conv_run(run):
            return (*CONVOLUTIONS, *FUSED)
    return ()


def _is_usual(conv: Any) -> bool:
    settings = conv.stride, conv.dilation, conv.groups, conv.padding_mode
    return settings == ((1, 1), (1, 1), 1, "zeros") and type(conv.padding) is tuple


def _is_conv_run(modules: Sequence[nn.Module]) -> bool:
    """Whether a convolution is followed by what ``conv_tanh_pool`` does with it."""
    match modules[1:3]:
        case [nn.Tanh(), nn.AvgPool2d() as pool]:
            return _equals(pool, AVERAGE) and _are_plain(modules[:3])
    return False


def _is_pool_run(modules: Sequence[nn.Module]) -> bool:
    """Whether these are the pooling and the ReLU of ``pool_relu``."""
    match modules[:2]:
        case [nn.MaxPool2d() as pool, nn.ReLU()]:
            return _equals(pool, MAXIMUM) and _are_plain(modules[:2])
    return False


def _are_plain(modules: Sequence[nn.Module]) -> bool:
    """Whether their classes are torch's or from here, and calling them does nothing beside."""
    return all(
        type(module).__module__.startswith(("torch.nn.modules.", layers.__name__))
        and "forward" not in vars(module)
        and not any(vars(module)[hooks] for hooks in HOOKS)
        for module in modules
    )


def _equals(module: nn.Module, other: nn.Module) -> bool:
    return vars(module) | {"training": True} == vars(other)
