"""What Hydra finds of hydrasweep: its plugins, settings and config groups."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from apps import CONFIG
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.utils import instantiate

import hydrasweep
from hydrasweep import settings
from hydrasweep.storage import close_storages, open_storage, shareable
from hydrasweep.stratum import TRUSTED, make_pruner, make_sampler

SHIPPED = Path(hydrasweep.__file__).parent / "conf" / "hydra" / "sweeper"
FILES = sorted(path.relative_to(SHIPPED) for path in SHIPPED.rglob("*.yaml"))
STOCK = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


@pytest.fixture
def composed(tmp_path):
    """``composed(*overrides)`` is the config of a tiny app that sweeps with hydrasweep."""
    (tmp_path / "config.yaml").write_text("defaults: [override hydra/sweeper: hydrasweep]\nseed: 0")

    def made(*overrides):
        words = [*overrides, f"hydra.sweep.dir={tmp_path}"]
        with initialize_config_dir(str(tmp_path)):
            return compose("config", words, return_hydra_config=True)

    yield made
    close_storages()


# Plugins


def test_hydra_finds_the_plugins_by_their_entry_point():
    found = [plugin.__name__ for plugin in Plugins.instance().discover()]
    assert {"HydraSweepSweeper", "HydraSweepSearchPath", "OptunaSweeper"} <= set(found)


def test_stock_sweeper_stays_under_its_own_name(app, composed):
    theirs = composed("hydra/sweeper=optuna").hydra.sweeper
    assert theirs._target_ == STOCK
    assert not {"pruner", "stratify", "confirm", "heartbeat"} & set(theirs)
    config = CONFIG.replace("hydra/sweeper: hydrasweep", "hydra/sweeper: optuna")
    config = config.replace("  - override hydra/sweeper/storage: journal\n", "")
    done = app("return cfg.x", config)("hydra.sweeper.n_trials=2", code=0)
    names = {path.name for path in (done.folder / "sweep").iterdir()}
    assert names - {"multirun.yaml"} == {"0", "1", "optimization_results.yaml"}


# The settings


def test_shell_completion_knows_the_sweepers_groups_and_settings(app, monkeypatch):
    task = app("return 0.0")

    def completed(typed):
        line = f"python app.py -m {typed}"
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        return task("--shell-completion", "query=bash", multirun=False).out.split()

    assert completed("hydra/sweeper/pruner=p") == [
        f"hydra/sweeper/pruner={name}" for name in ("patient", "percentile", "promotion")
    ]
    assert {"hydra.sweeper.n_trials=", "hydra.sweeper.n_workers="} <= {
        *completed("hydra.sweeper.n_")
    }


def test_schema_has_all_settings_of_the_stock_sweeper_with_their_defaults(
    composed,
):
    ours, theirs = composed().hydra.sweeper, composed("hydra/sweeper=optuna").hydra.sweeper
    changed = {"_target_", "defaults", "storage", "n_jobs", "max_failure_rate"}
    assert {key: ours[key] for key in theirs if key not in changed} == {
        key: theirs[key] for key in theirs if key not in changed
    }
    assert settings.study_name(ours.study_name)
    assert (ours.n_trials, ours.n_jobs, ours.mlflow, ours.report) == (20, None, False, False)


def test_all_groups_are_shipped():
    assert {file.parent.as_posix() for file in FILES} == {"confirm", "pruner", "sampler", "storage"}
    names = {file.stem for file in FILES if file.parent.name == "pruner"}
    assert names >= {"none", "median", "successive_halving", "hyperband", "patient", "percentile"}


by_file = pytest.mark.parametrize("file", FILES, ids=str)


@by_file
def test_every_file_begins_with_its_purpose_and_its_command(file):
    lines = (SHIPPED / file).read_text().splitlines()
    header = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    assert header[0][0].isupper()
    (command,) = (line.split() for line in header if line.startswith("python "))
    assert command[:3] == ["python", "app.py", "-m"]
    assert f"hydra/sweeper/{file.parent}={file.stem}" in command


@by_file
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_file_composes_by_its_name_and_is_instantiated(composed, monkeypatch, file):
    config = composed(f"hydra/sweeper/{file.parent}={file.stem}")
    settings.check_settings(config.hydra.sweeper, config)
    node = config.hydra.sweeper[file.parent.name]
    if file.parent.name == "sampler":
        assert isinstance(make_sampler(node), optuna.samplers.BaseSampler)
        assert type(make_sampler(node)) is type(instantiate(node, _execution_whitelist_=TRUSTED))
    elif file.parent.name == "pruner":
        assert make_pruner(node).__class__.__module__.startswith("optuna.pruners")
    elif file.parent.name == "confirm":
        assert settings.confirms(config.hydra.sweeper) == (file.stem != "none")
    elif file.stem == "postgresql":
        monkeypatch.setenv("HYDRASWEEP_STORAGE", "postgresql://me:secret@host/db")
        assert node.url == "postgresql://me:secret@host/db"
    else:
        assert open_storage(shareable(config)).get_all_studies() == []


def test_app_may_add_files_to_the_groups(composed, tmp_path):
    folder = tmp_path / "hydra" / "sweeper" / "pruner"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults: [median, _self_]\nn_startup_trials: 1\n")
    pruner: Any = make_pruner(composed("hydra/sweeper/pruner=mine").hydra.sweeper.pruner)
    assert isinstance(pruner, optuna.pruners.MedianPruner)
    assert pruner._n_startup_trials == 1


def test_sampler_configs_of_the_stock_sweeper_are_found_too(
    composed,
):
    node = composed("hydra/sweeper/sampler=nsgaii").hydra.sweeper.sampler
    assert isinstance(make_sampler(node), optuna.samplers.NSGAIISampler)
