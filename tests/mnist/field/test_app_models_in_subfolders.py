"""Model files are sorted into subfolders of their group.

They: ``model: image/mlpx``, from a folder of their own on ``hydra.searchpath``.
Source: github.com/slegroux/nimrod config/train.yaml, github.com/hydra-ecosystem/hydra/issues/1766
Right: such a choice trains and is recorded by its whole name, and passes the check of a sweep.
"""

import shutil
from pathlib import Path

import pytest
from application import REPOSITORY, Compose, client_of, runs_of
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from mnist import preflight, seal
from train import train


@pytest.fixture
def searchpath(tmp_path: Path) -> str:
    folder = tmp_path / "mine" / "model" / "image"
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "conf" / "model" / "lenet5.yaml", folder / "conv.yaml")
    return f"hydra.searchpath=[file://{tmp_path / 'mine'}]"


def as_job(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The job's config, its Hydra being the composed one."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
    job = cfg.copy()
    with open_dict(job):
        del job["hydra"]
    return job


def test_run_is_recorded_by_the_whole_name(
    compose: Compose, root: Path, output_dir: Path, searchpath: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (searchpath, "model=image/conv", "epochs=1", "artifacts=false", "score_test=false")
    cfg = compose(*words, f"hydra.runtime.output_dir={output_dir}", return_hydra_config=True)
    train(as_job(cfg, monkeypatch), output_dir)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == run.data.tags["architecture"] == "image/conv"
    assert run.info.run_name.startswith("image/conv lr=0.003")


def test_check_before_a_sweep_passes(
    compose: Compose, tmp_path: Path, searchpath: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (searchpath, "hparams_search=quick", "model=image/conv")
    cfg = compose(*words, f"hydra.runtime.output_dir={tmp_path}", return_hydra_config=True)
    assert preflight.check(as_job(cfg, monkeypatch)) > 0
    seal.set_sealed(False)
