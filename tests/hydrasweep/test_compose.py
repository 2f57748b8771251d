"""Configs of trials, composed from files that were read once, equal those that Hydra composes."""

import textwrap

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

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
TRIALS = [
    ("model=lenet5", "optimizer.lr=0.001", "data.batch_size=64"),
    ("model=lenet5", "optimizer.lr=0.002", "data.batch_size=32"),
    ("model=cnn", "optimizer.lr=0.002", "model.dropout=0.25"),
    ("model=cnn", "epochs=3", "optimizer=sgd", "optimizer.lr=0.5"),  # a group among values
    ("model=cnn", "+new.key=[1,a]", "~label_smoothing", "epochs=3"),
    ("model=lenet5", "name='base #1 lr=2'", "objective=val/loss"),
    ("model=cnn", "epochs=3", "epochs=4"),
    ("epochs=3", "hydra.verbose=true", "hydra.job.chdir=true"),
]


@pytest.fixture
def sweep(tmp_path):
    """The config of the sweep."""
    for name, content in CONF.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(content).strip())
    with initialize_config_dir(str(tmp_path)):
        yield loader().load_configuration("config", list(SWEEP), run_mode=RunMode.MULTIRUN)


def loader():
    return GlobalHydra.instance().config_loader()


def by_hydra(sweep, overrides, label, number):
    job = loader().load_sweep_config(sweep, [*overrides, f"hydra.sweep.subdir={label}"])
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = label, number
    return OmegaConf.to_yaml(job)


def test_trials_have_the_configs_that_hydra_composes(sweep):
    composer = Composer(loader(), sweep)
    jobs = [([*SWEEP, *overrides], f"t-{i}", i) for i, overrides in enumerate(TRIALS)]
    expected = [by_hydra(sweep, *job) for job in jobs]
    for _ in range(2):  # no trial changes the config of a later one
        assert [OmegaConf.to_yaml(composer.compose(*job)) for job in jobs] == expected


@pytest.mark.parametrize("override", ["model=none_such", "none.such=1", "epochs@here=1"])
def test_wrong_override_is_refused_as_by_hydra(sweep, override):
    with pytest.raises(HydraException) as theirs:
        loader().load_sweep_config(sweep, [*SWEEP, override])
    with pytest.raises(HydraException) as ours:
        Composer(loader(), sweep).compose([*SWEEP, override], "t", 0)
    assert str(ours.value) == str(theirs.value)


def test_files_are_read_once_for_each_choice_of_groups(sweep, monkeypatch):
    read, load = [], loader().load_sweep_config

    def count(config, overrides):
        read.append(overrides)
        return load(config, overrides)

    monkeypatch.setattr(loader(), "load_sweep_config", count)
    composer = Composer(loader(), sweep)
    for i, model in enumerate(("cnn", "lenet5") * 3):
        composer.compose([*SWEEP, f"model={model}", f"optimizer.lr={0.1 * (i + 1)}"], "t", i)
    assert len(read) == 2
