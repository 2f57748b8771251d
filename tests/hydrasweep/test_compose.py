"""Composing trials' configs from what was read once: equal to Hydra's own composing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from hydrasweep.compose import Composer

CONF = {
    "config": """
        defaults:
          - _self_
          - model: cnn
          - optimizer: adam
          - preset: null
          - override hydra/sweeper: hydrasweep
          - override hydra/job_logging: none
        seed: 0
        epochs: 5
        label_smoothing: 0.1
        name: ${model.name} ${optimizer.lr}
        objective: val/accuracy
        data: {batch_size: 64}
        hydra:
          sweep: {dir: "sweeps/${name}"}
          sweeper: {study_name: "${name}", params: {optimizer.lr: "interval(0, 1)"}}
    """,
    "model/cnn": "{name: cnn, dropout: 0.5, width: '${data.batch_size}'}",
    "model/lenet5": "{name: lenet5, dropout: 0.0}",
    "optimizer/adam": "{lr: 0.001}",
    "optimizer/sgd": "{lr: 0.1, momentum: 0.9}",
    "preset/small": """
        # @package _global_
        defaults:
          - override /model: lenet5
        epochs: 1
    """,
}
SWEEP = ("preset=small", "seed=3")
TRIALS = {
    "values": ("model=lenet5", "optimizer.lr=0.001", "data.batch_size=64"),
    "other values": ("model=lenet5", "optimizer.lr=0.002", "data.batch_size=32"),
    "another model": ("model=cnn", "optimizer.lr=0.002", "model.dropout=0.25"),
    "groups among values": ("model=cnn", "epochs=3", "optimizer=sgd", "optimizer.lr=0.5"),
    "added and removed": ("model=cnn", "+new.key=[1,a]", "~label_smoothing", "epochs=3"),
    "words": ("model=lenet5", "name='base #1 lr=2'", "objective=val/loss"),
    "a value twice": ("model=cnn", "epochs=3", "epochs=4"),
    "settings of Hydra": ("epochs=3", "hydra.verbose=true", "hydra.job.chdir=true"),
}


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[DictConfig]:
    for name, content in CONF.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        lines = content.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines))
    with initialize_config_dir(str(tmp_path)):
        loader = GlobalHydra.instance().config_loader()
        yield loader.load_configuration("config", list(SWEEP), run_mode=RunMode.MULTIRUN)


def by_hydra(sweep: DictConfig, words: Sequence[str], label: str, number: int) -> str:
    loader = GlobalHydra.instance().config_loader()
    job = loader.load_sweep_config(sweep, [*words, f"hydra.sweep.subdir={label}"])
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = label, number
    return OmegaConf.to_yaml(job)


def test_every_trial_has_the_config_that_hydra_composes(sweep: DictConfig) -> None:
    composer = Composer(GlobalHydra.instance().config_loader(), sweep)
    for _ in range(2):  # what one trial was given is in no later one
        for number, words in enumerate(TRIALS.values()):
            job = composer.compose([*SWEEP, *words], f"t-{number}", number)
            assert OmegaConf.to_yaml(job) == by_hydra(
                sweep, [*SWEEP, *words], f"t-{number}", number
            )


@pytest.mark.parametrize("word", ["model=none_such", "none.such=1", "epochs@here=1"])
def test_wrong_words_are_refused_as_hydra_does(sweep: DictConfig, word: str) -> None:
    loader = GlobalHydra.instance().config_loader()
    with pytest.raises(HydraException) as theirs:
        loader.load_sweep_config(sweep, [*SWEEP, word])
    with pytest.raises(HydraException) as ours:
        Composer(loader, sweep).compose([*SWEEP, word], "t", 0)
    assert str(ours.value) == str(theirs.value)


def test_files_are_read_once_for_each_choice_of_groups(
    sweep: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = GlobalHydra.instance().config_loader()
    read, load = [], loader.load_sweep_config

    def count(config: DictConfig, words: list[str]) -> DictConfig:
        read.append(words)
        return load(config, words)

    monkeypatch.setattr(loader, "load_sweep_config", count)
    composer = Composer(loader, sweep)
    for i in range(6):
        model = ("cnn", "lenet5")[i % 2]
        composer.compose([*SWEEP, f"model={model}", f"optimizer.lr={0.1 * (i + 1)}"], "t", i)
    assert len(read) == 2
