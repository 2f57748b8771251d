"""From a config to what is trained: data, model, optimizer, scheduler."""

import ctypes
import functools
import math
import sys
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf

from hydrasweep import config
from hydrasweep.data import ImageData, Split
from hydrasweep.training import Training

# glibc's options for mallopt, and values above any tensor of ours.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, PLENTY = -1, -3, 2**30


@dataclass(frozen=True)
class Assembly:
    """All that ``fit`` needs, on its device, seeded."""

    data: ImageData
    train: Split
    val: Split
    training: Training
    n_steps: int  # in the whole training


def assemble(cfg: DictConfig) -> Assembly:
    """Build what ``cfg`` describes; sets ``cfg.n_steps``, which schedulers refer to.

    Seeds torch's global generators first, and draws the weights from them.

    Raises:
        UserError: settings do not fit each other, the data or the machine.
    """
    _keep_freed_memory()
    device = config.resolve_device(cfg.device)
    torch.set_num_threads(cfg.n_threads or torch.get_num_threads())
    data, train, val = _load(_data_settings(cfg), device)
    cfg.n_steps = max(1, cfg.epochs * math.ceil(len(train.labels) / cfg.data.batch_size))
    torch.manual_seed(cfg.seed)
    model = config.build(cfg.model).to(device)
    optimizer = config.build(cfg.optimizer)(model.parameters())
    scheduler = config.build(cfg.scheduler)(optimizer)
    augment = config.build(cfg.augmentation)
    training = Training(model, data.normalize().to(device), augment, optimizer, scheduler)
    return Assembly(data, train, val, training, cfg.n_steps)


@functools.cache
def _keep_freed_memory() -> None:
    """Keep what tensors free for the next batch: to give it back to the kernel and fault it in
    again takes a twentieth of the CNN's step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, PLENTY)


@functools.lru_cache(maxsize=1)
def _load(settings: str, device: torch.device) -> tuple[ImageData, Split, Split]:
    """Read the data once for all trials of a worker."""
    data = config.build(DictConfig(OmegaConf.create(settings)))
    train, val = data.development()
    return data, train.to(device), val.to(device)


def _data_settings(cfg: DictConfig) -> str:
    """The data group without what the tensors don't depend on."""
    settings = cfg.data.copy()
    OmegaConf.resolve(settings)
    settings.batch_size = 0
    return OmegaConf.to_yaml(settings)
