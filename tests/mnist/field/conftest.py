"""Fixtures of the field cases: a user's own module, and a process that is a Hydra job."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from mnist import seal

AsJob = Callable[[DictConfig], DictConfig]


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """``users(source)`` writes a user's module. Settings refer to it as ``users.NAME``."""

    def write(source: str) -> None:
        (tmp_path / "users.py").write_text(source)

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    sys.modules.pop("users", None)


@pytest.fixture
def as_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[AsJob]:
    """``as_job(cfg)`` returns what a job of that composed config gets, and makes this process that
    job: ``HydraConfig`` has the settings below ``cfg.hydra``."""

    def begin(cfg: DictConfig) -> DictConfig:
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        job = cfg.copy()
        with open_dict(job):
            del job["hydra"]
        return job

    yield begin
    seal.set_sealed(False)


@pytest.fixture
def job_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``job_in(folder)`` makes this process a job with that output folder and no overrides."""

    def begin(folder: Path) -> None:
        job = SimpleNamespace(
            mode=RunMode.RUN,
            runtime=SimpleNamespace(output_dir=str(folder)),
            overrides=SimpleNamespace(task=[]),
        )
        monkeypatch.setattr(HydraConfig, "get", lambda: job)

    yield begin
    seal.set_sealed(False)
