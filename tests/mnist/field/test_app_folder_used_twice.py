"""Two runs are given one output folder.

They: set ``hydra.run.dir`` to a fixed name, or ``hydra.sweep.subdir=.``, and ran twice.
Source: github.com/hydra-ecosystem/hydra/issues/2103, github.com/hydra-ecosystem/hydra/issues/1817
Right: the second is refused, naming ``resume=``, and the first keeps its settings and results.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
from application import Compose, Script, at_line
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydrasweep import UserError
from mnist import config
from train import train

LEAN = ("epochs=1", "tracking=none", "artifacts=false", "score_test=false")


def is_job_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Hydra say that this process is a job with that folder."""
    job = SimpleNamespace(
        mode=RunMode.RUN,
        runtime=SimpleNamespace(output_dir=str(folder)),
        overrides=SimpleNamespace(task=[]),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: job)


def begin(folder: Path, cfg: DictConfig) -> None:
    """Save the settings of a job with the model baseline, as Hydra does."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    hydra = {"mode": "RUN", "runtime": {"choices": {"model": "baseline", "optimizer": "adamw"}}}
    OmegaConf.save({"hydra": hydra}, folder / ".hydra" / "hydra.yaml")


def test_second_run_is_refused_and_the_first_goes_on_with_its_own_settings(
    script: Script, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    begin(folder, cfg := compose(*LEAN, "model=baseline"))
    train(cfg, folder)
    results = (folder / "metrics.jsonl").read_text()
    words = ("model=lenet5", "optimizer.lr=0.5", f"hydra.run.dir={folder}")
    done = script("train.py", *LEAN, *words)
    assert "lr: 0.5" in (folder / ".hydra" / "config.yaml").read_text()
    assert done.returncode == 1
    assert f"resume={folder}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (folder / "metrics.jsonl").read_text() == results
    is_job_in(tmp_path / "other", monkeypatch)
    cfg, output_dir = config.resolve_run(compose(f"resume={folder}"))
    assert output_dir == folder
    assert cfg.optimizer.lr == 0.003
    assert config.choices(cfg, folder)["model"] == "baseline"


def test_run_that_was_stopped_before_its_first_epoch_is_not_taken_over(
    compose: Compose, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    cfg = compose(*LEAN, "model=baseline", "seed=7")
    begin(output_dir, cfg)
    with at_line("Output", stop), pytest.raises(KeyboardInterrupt):
        train(cfg, output_dir)
    assert not (output_dir / "metrics.jsonl").exists()
    is_job_in(output_dir, monkeypatch)
    OmegaConf.save(compose(*LEAN), output_dir / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match="resume="):
        config.resolve_run(compose(*LEAN))
    assert config.resolve_run(compose(f"resume={output_dir}"))[0].seed == 7


def test_run_that_was_refused_may_be_corrected_in_its_folder(
    compose: Compose, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_job_in(output_dir, monkeypatch)
    with pytest.raises(UserError, match=r"data\.n_train"):
        train(*config.resolve_run(compose(*LEAN, "data.n_train=60000")))
    train(*config.resolve_run(compose(*LEAN, "model=baseline")))
    assert (output_dir / "metrics.jsonl").exists()


def test_second_job_of_a_multirun_does_not_take_the_firsts_state(
    script: Script, root: Path
) -> None:
    done = script("train.py", "-m", "model=baseline,lenet5", *LEAN, "hydra.sweep.subdir=.")
    assert done.returncode == 1
    assert "holds another run" in done.stderr
    assert "Traceback" not in done.stderr
    (results,) = (root / "outputs").rglob("metrics.jsonl")
    assert len(results.read_text().splitlines()) == 1
