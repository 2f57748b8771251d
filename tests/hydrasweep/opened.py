"""Studies in a storage on disk, as workers open them to begin trials."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial

from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies

SPACE = {"x": FloatDistribution(0.0, 1.0)}
SAMPLER = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 1})


def sqlite(path: Path) -> DictConfig:
    """The node that ``hydra/sweeper/storage=sqlite`` stands for."""
    url = f"sqlite:///{path}?timeout=60"
    return OmegaConf.create({"_target_": "hydrasweep.storage.database", "url": url})


def journal(path: Path) -> DictConfig:
    """The node that ``hydra/sweeper/storage=journal`` stands for."""
    backend = {"_target_": "optuna.storages.journal.JournalFileBackend", "file_path": str(path)}
    return OmegaConf.create({"_target_": "optuna.storages.JournalStorage", "log_storage": backend})


def open_studies(storage: DictConfig, *strata: str, **kwargs: Any) -> Studies:
    """Open study ``s`` with a random sampler and no pruner."""
    return Studies.open("s", storage, strata or [""], ["maximize"], SAMPLER, None, **kwargs)


def begin(studies: Studies, space: Mapping[str, BaseDistribution] = SPACE) -> tuple[Stratum, Trial]:
    """Begin the next trial, which there must be."""
    begun = studies.take(space)
    assert begun is not None
    return begun


def finish(studies: Studies, space: Mapping[str, BaseDistribution] = SPACE) -> FrozenTrial:
    """Begin the next trial and complete it. Its value is x."""
    stratum, trial = begin(studies, space)
    return stratum.study.tell(trial, trial.params["x"])


class HeldLock(AbstractContextManager[None]):
    """A lock that another process holds, which does something before it releases the lock."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def __enter__(self) -> None:
        self._act()

    def __exit__(self, *error: object) -> None:
        pass
