"""From a config to what is trained: data, model, optimizer, scheduler."""

import ctypes
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hydrasweep import config
from hydrasweep.data import ImageData, Split
from hydrasweep.errors import UserError, root_cause
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
    model, augment, normalize = (
        config.build(cfg.model),
        config.build(cfg.augmentation),
        data.normalize(),
    )
    _try((augment, normalize, model), train.images[:2].cpu(), data.n_classes)
    optimizer = config.build(cfg.optimizer, model.to(device).parameters())
    scheduler = config.build(cfg.scheduler, optimizer)
    training = Training(model, normalize.to(device), augment, optimizer, scheduler)
    return Assembly(data, train, val, training, cfg.n_steps)


@functools.cache
def _keep_freed_memory() -> None:
    """Keep what tensors free for the next batch: to give it back to the kernel and fault it in
    again takes a twentieth of the CNN's step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, PLENTY)


def _try(parts: Sequence[nn.Module], images: Tensor, n_classes: int) -> None:
    """Refuse parts that don't fit each other, before anything is spent on them.

    Raises:
        UserError: they don't take the images, or don't give ``n_classes`` logits for each.
    """
    try:
        chain = nn.Sequential(*parts).eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # training draws anew
            shape = tuple(chain(images.float()).shape)
        chain.train()
    except Exception as error:
        raise UserError(
            f"augmentation, data.mean, data.std and model don't fit images of the shape "
            f"{tuple(images.shape[1:])} ({root_cause(error)}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
    if shape != (len(images), n_classes):
        raise UserError(
            f"model: its output has the shape {shape}, and data.n_classes={n_classes} for "
            f"{len(images)} images"
        )


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
