"""From a config to what is trained: data, model, task, optimizer, scheduler."""

import ctypes
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from hydrasweep import UserError
from mnist import threads
from mnist.accelerate import Times, accelerate, choose, fits, measure
from mnist.averaging import WeightAverage
from mnist.config import build
from mnist.data import Split
from mnist.text import root_cause
from mnist.training import Training, as_input


@dataclass(frozen=True)
class Assembly:
    """All that ``fit`` needs, on its device, seeded."""

    data: Any
    train: Split
    val: Split
    training: Training
    n_steps: int  # in the whole training


def assemble(cfg: DictConfig) -> Assembly:
    """Build what ``cfg`` describes; sets ``cfg.n_steps``, which schedulers refer to, and where
    they are null ``cfg.fast_layers`` and ``cfg.n_threads``.

    Seeds torch's global generators first, and draws the weights from them.

    Raises:
        UserError: settings do not fit each other, the data or the machine.
    """
    _keep_freed_memory()
    device, task = resolve_device(cfg.device), build(cfg.task)
    if cfg.n_threads is None:
        cfg.n_threads = threads.free_cores()
    torch.set_num_threads(cfg.n_threads)
    data, train, val = _load(cfg, device)
    cfg.n_steps = max(1, cfg.epochs * math.ceil(len(train.targets) / cfg.data.batch_size))
    torch.manual_seed(cfg.seed)
    model, augment, normalize = build(cfg.model), build(cfg.augmentation), data.normalize()
    _try((augment, normalize, model), task, train)
    # A recipe of another model may be the base of this config.
    if cfg.fast_layers is None or not fits(model, cfg.fast_layers):
        cfg.fast_layers = choose(layer_times(cfg))
    accelerate(model, cfg.fast_layers)
    optimizer = build(cfg.optimizer, model.to(device).parameters())
    scheduler = build(cfg.scheduler, optimizer)
    average = WeightAverage(model, cfg.average_weights)
    training = Training(model, normalize.to(device), augment, task, optimizer, scheduler, average)
    return Assembly(data, train, val, training, cfg.n_steps)


def layer_times(cfg: DictConfig) -> Times:
    """How long the layers of the model take that there are faster ones for: none on a GPU."""
    device = resolve_device(cfg.device)
    if device.type != "cpu":
        return {}
    torch.set_num_threads(cfg.n_threads or threads.free_cores())
    data, train, _ = _load(cfg, device)
    inputs = data.normalize()(as_input(train.inputs[: cfg.data.batch_size]))
    with torch.random.fork_rng(devices=[]):  # a model that is told draws the same
        return measure(build(cfg.model), inputs, Path(cfg.paths.data) / ".cache" / "fast_layers.pt")


def resolve_device(name: str) -> torch.device:
    """The device that ``auto|cpu|cuda|cuda:N|mps`` means on this machine.

    Raises:
        UserError: the name is not one of these, or the machine has no such device.
    """
    n_gpus = torch.cuda.device_count()
    present = ["cuda", *(f"cuda:{i}" for i in range(n_gpus))] if n_gpus else []
    present += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    if name != "auto" and name not in present:
        raise UserError(
            f"device={name}: this machine has {', '.join(present)} (or auto, which takes the first)"
        )
    return torch.device(present[0] if name == "auto" else name)


@functools.cache
def _keep_freed_memory() -> None:
    """Keep what tensors free for the next batch: to give it back to the kernel and fault it in
    again takes a twentieth of the CNN's step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, above any tensor of ours
            libc.mallopt(option, 2**30)


def _try(parts: Sequence[Any], task: Any, train: Split) -> None:
    """Refuse parts that don't fit each other, before anything is spent on them.

    Raises:
        UserError: they don't take the inputs, or the task doesn't take what they give.
    """
    inputs, targets = (rows[:32].cpu() for rows in train)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # training draws anew
            outputs = (model := nn.Sequential(*parts)).eval()(as_input(inputs))
            names = task.metrics(outputs, targets).keys()
            task.loss(outputs, targets).item()
        model.train()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"augmentation, data, model and task don't fit inputs of the shape "
            f"{tuple(inputs.shape[1:])} ({root_cause(error)}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
    if names != task.directions.keys():
        raise UserError(f"task.directions={task.directions}: must name {', '.join(names)}")


def _load(cfg: DictConfig, device: torch.device) -> tuple[Any, Split, Split]:
    """Read the data once for all trials of a worker."""
    settings = OmegaConf.merge(cfg.data, {"batch_size": 0})  # which the rows don't depend on
    return _load_rows(OmegaConf.to_yaml(settings, resolve=True), device)


@functools.lru_cache(maxsize=1)
def _load_rows(settings: str, device: torch.device) -> tuple[Any, Split, Split]:
    data = build(DictConfig(OmegaConf.create(settings)))
    train, val = (Split(*(rows.to(device) for rows in split)) for split in data.development())
    return data, train, val
