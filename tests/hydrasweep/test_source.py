"""What is read of a sweep, and who has won."""

import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from planted import plant, searched, trial, with_seeds

from hydrasweep.errors import UserError
from hydrasweep.report.source import read

LUCKY = trial(0.99, lr=0.001, dropout=0.1, batch_size=32)
SOLID = trial(0.98, lr=0.002, dropout=0.2, batch_size=64)


def test_phases_and_strata_are_told_by_the_names_of_the_studies(tmp_path: Path) -> None:
    names = ["/cnn", "/lenet5", "@confirm/cnn", "@final/cnn", "-other/cnn", "x@final/cnn"]
    sweep = read(plant(tmp_path / "s", {name: [LUCKY] for name in names}))
    strata = {phase: [s.value for s in queue.strata] for phase, queue in sweep.phases.items()}
    assert strata == {"search": ["cnn", "lenet5"], "confirm": ["cnn"], "final": ["cnn"]}
    assert (sweep.objectives, sweep.stratify) == (["val/accuracy"], "model")


def test_sweep_is_read_where_it_lies_now(tmp_path: Path) -> None:
    shutil.move(plant(tmp_path / "s", {"": searched()}), tmp_path / "moved")
    sweep = read(tmp_path / "moved")
    assert (sweep.name, len(sweep.strata[0].trials())) == ("s", 8)


def test_without_any_file_the_folder_and_its_database_have_the_names(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name=tmp_path.name, storage=storage)
    study.add_trials(searched())
    sweep = read(tmp_path)
    assert (sweep.name, sweep.objectives, dict(sweep.versions)) == (tmp_path.name, ["value"], {})
    assert sweep.strata[0].trials()[3].value == study.trials[3].value


def test_folder_without_a_study_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"study={tmp_path.name}: no study of this name"):
        read(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_storage_that_is_not_set_here_is_named(tmp_path: Path) -> None:
    folder = plant(tmp_path / "s", {"": searched()})
    text = "hydra: {sweeper: {storage: '${oc.env:NOT_SET_HERE}'}}"
    (folder / "multirun.yaml").write_text(text)
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage in .*NOT_SET_HERE"):
        read(folder)


def test_winner_has_the_best_mean_on_fresh_seeds(tmp_path: Path) -> None:
    lucky, solid, test = [0.95, 0.97, 0.96], [0.975, 0.985, 0.983], [0.97, 0.98]
    confirm = [*with_seeds(LUCKY, lucky, 3), *with_seeds(SOLID, solid, 6)]
    search = {"/cnn": [LUCKY, SOLID, *searched()]}
    assert not read(plant(tmp_path / "search", search)).winners

    winner = read(plant(tmp_path / "b", {**search, "@confirm/cnn": confirm})).winners["cnn"]
    assert np.mean(solid) > np.mean(lucky)
    assert winner.params == SOLID.params
    assert (winner.believed, winner.confirmed.values, winner.tested) == (0.98, solid, None)

    final = {"@confirm/cnn": confirm, "@final/cnn": with_seeds(SOLID, test, 9)}
    winner = read(plant(tmp_path / "c", {**search, **final})).winners["cnn"]
    assert winner.tested is not None
    assert winner.tested.values == test


def test_each_of_several_objectives_is_a_search_of_its_own(tmp_path: Path) -> None:
    trials = [trial(0.9, 30.0, lr=0.1), trial(0.8, 10.0, lr=0.02)]
    sweep = read(plant(tmp_path / "s", {"": trials}, ["maximize", "minimize"]))
    assert sweep.objectives == ["value 0", "value 1"]
    first, second = sweep.by_objective()
    assert (first.objectives, second.objectives) == (["value 0"], ["value 1"])
    assert [s.study.best_params for s in first.strata] == [trials[0].params]
    assert [s.study.best_params for s in second.strata] == [trials[1].params]


def test_range_leaves_outliers_out(tmp_path: Path) -> None:
    values = [0.90, 0.91, 0.92, 0.93, 0.94, 0.10]
    trials = [trial(value, lr=0.1) for value in [*values, float("-inf")]]
    found = read(plant(tmp_path / "s", {"": trials})).range
    assert found is not None
    assert 0.10 < found[0] < 0.90
    assert 0.94 < found[1] < 0.95
