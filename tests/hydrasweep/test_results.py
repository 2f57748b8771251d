"""What is kept of a sweep: the best, what pruning saved, the files."""

import csv
import errno
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep import files, results
from hydrasweep.errors import Outage
from hydrasweep.stratum import LOST, RETRY_OF, Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import MARK, NOTE, SEARCH, SPENT, STEP, n_steps

SPACE = {
    "optimizer.lr": FloatDistribution(0.0, 1.0),
    "data.batch_size": CategoricalDistribution([32, 64]),
}


def trial(state: TrialState, *values: float, steps: int = 0, **attrs: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        values=list(values) or None,
        params={} if state == TrialState.WAITING else {"optimizer.lr": 0.5, "data.batch_size": 64},
        distributions={} if state == TrialState.WAITING else SPACE,
        intermediate_values=dict.fromkeys(range(1, steps + 1), 0.5),
        user_attrs=attrs,
    )


def studies_of(directions: list[str], **trials: list[FrozenTrial]) -> Studies:
    storage = optuna.storages.InMemoryStorage()
    strata = []
    for value, some in trials.items():
        study = optuna.create_study(study_name=f"s/{value}", storage=storage, directions=directions)
        study.add_trials(some)
        strata.append(Stratum(value, study))
    return Studies("s", strata, nullcontext())


# The best


@pytest.mark.parametrize(("direction", "extremum"), [("maximize", max), ("minimize", min)])
def test_best_is_the_extremum_of_the_complete(direction: str, extremum: Any) -> None:
    values = [0.3, -0.9, 0.9, 0.1]
    ended = [
        trial(TrialState.PRUNED, 5.0),
        *(trial(TrialState.COMPLETE, value) for value in values),
        trial(TrialState.PRUNED, -5.0),
        trial(TrialState.FAIL),
    ]
    (best,) = results.best(studies_of([direction], a=ended).strata[0])
    assert best.value == extremum(values)


def test_nothing_complete_has_no_best() -> None:
    studies = studies_of(["maximize"], a=[trial(TrialState.FAIL), trial(TrialState.WAITING)])
    assert results.best(studies.strata[0]) == []


points = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2), min_size=1, max_size=12)
directions = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=2, max_size=2)


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(points, directions)
def test_pareto_front_is_what_no_other_beats(
    values: list[tuple[float, ...]], names: list[str]
) -> None:
    studies = studies_of(names, a=[trial(TrialState.COMPLETE, *point) for point in values])
    front = [tuple(best.values) for best in results.best(studies.strata[0])]

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        better = [x > y if n == "maximize" else x < y for x, y, n in zip(a, b, names, strict=True)]
        return any(better) and all(up or x == y for up, x, y in zip(better, a, b, strict=True))

    assert front == [p for p in values if not any(beats(other, p) for other in values)]


# Steps


def test_steps_are_those_that_were_reported() -> None:
    assert n_steps(trial(TrialState.COMPLETE, 0.5)) == 0
    assert n_steps(trial(TrialState.COMPLETE, 0.5, steps=3)) == 3
    assert n_steps(trial(TrialState.COMPLETE, 0.5, 0.6, **{STEP: 4})) == 4  # several objectives


def test_pruning_saves_the_steps_that_were_left() -> None:
    ended = [
        trial(TrialState.COMPLETE, 0.9, steps=5),
        trial(TrialState.PRUNED, 0.1, steps=1),
        trial(TrialState.PRUNED, 0.2, steps=3),
        trial(TrialState.FAIL, steps=2),
        trial(TrialState.PRUNED, steps=0),
    ]
    steps, _ = results.saved(studies_of(["maximize"], all=ended).strata)
    assert steps == 4 + 2
    assert results.saved([]) == results.saved(studies_of(["maximize"], all=[]).strata) == (0, 0.0)


def test_time_that_pruning_saves_is_that_of_steps_without_what_a_trial_takes_at_its_start() -> None:
    def lasting(state: TrialState, steps: int, start: float, pace: float) -> FrozenTrial:
        ended = trial(state, 0.5, steps=steps, **{SPENT: start + pace * steps})
        ended.datetime_complete = ended.datetime_start
        return ended

    slow = [
        lasting(TrialState.COMPLETE, 9, start=4, pace=2),
        lasting(TrialState.PRUNED, 1, start=4, pace=2),
        lasting(TrialState.PRUNED, 3, start=4, pace=2),
    ]
    fast = [lasting(TrialState.PRUNED, 1, start=0, pace=0.5)]  # nothing tells the start apart
    steps, seconds = results.saved(studies_of(["maximize"], slow=slow, fast=fast).strata)
    assert steps == 8 + 6 + 8
    assert seconds == pytest.approx((8 + 6) * 2 + 8 * 0.5)


def noted(trials: list[FrozenTrial], **chosen: Any) -> list[str]:
    conf = {"pruner": {"_target_": "optuna.pruners.MedianPruner"}, "timeout": None} | chosen
    return results.notes(studies_of(["maximize"], all=trials), OmegaConf.create(conf))


def test_pruner_without_reports_is_told() -> None:
    silent = [trial(TrialState.COMPLETE, 0.5), trial(TrialState.COMPLETE, 0.5)]
    (note,) = noted(silent)
    assert "no trial reported a step, so that none could be pruned" in note
    assert noted(silent, pruner=None) == []
    assert noted(silent, pruner={"_target_": "optuna.pruners.NopPruner"}) == []
    assert noted(silent[:1]) == []
    assert noted([*silent, trial(TrialState.COMPLETE, 0.5, steps=1)]) == []


def test_notes_of_trials_are_counted() -> None:
    trials = [trial(TrialState.COMPLETE, 0.5, steps=1, **{f"{NOTE}a": w}) for w in ("x", "x", "y")]
    assert noted(trials) == ["Note of 2 trials: x", "Note of 1 trial: y"]


def test_search_that_its_time_ended_is_told() -> None:
    waiting = trial(TrialState.WAITING)
    assert noted([waiting], timeout=None) == []
    (note,) = noted([waiting], timeout=90.0)
    assert note.startswith("Note: hydra.sweeper.timeout=90 ended the search; ")
    assert noted([trial(TrialState.COMPLETE, 0.5, steps=1)], timeout=90.0) == []


# Files


def rows(folder: Path, name: str = "trials") -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_table_has_a_row_for_each_trial_begun_and_the_searched_settings_by_name(
    tmp_path: Path,
) -> None:
    again = trial(TrialState.WAITING, **{RETRY_OF: 1, LOST: "its process died"})
    studies = studies_of(
        ["maximize"],
        cnn=[trial(TrialState.COMPLETE, 0.75, steps=2), trial(TrialState.FAIL), again],
        lenet5=[trial(TrialState.PRUNED, 0.5, steps=1)],
    )
    results.write_all({SEARCH: studies}, tmp_path, "model")
    header = (tmp_path / "trials.csv").read_text().splitlines()[0]
    names = "number,state,value,steps,duration_s,model,optimizer.lr,data.batch_size"
    assert header == names
    found = {row["model"]: row for row in rows(tmp_path)}
    assert len(rows(tmp_path)) == 2
    assert found["cnn"] | {"duration_s": ""} == {
        "number": "0",
        "state": "COMPLETE",
        "value": "0.75",
        "steps": "2",
        "duration_s": "",
        "model": "cnn",
        "optimizer.lr": "0.5",
        "data.batch_size": "64",
    }
    assert (found["lenet5"]["state"], found["lenet5"]["steps"]) == ("PRUNED", "1")


def test_recorded_numbers_have_a_column_each_and_what_the_sweeper_notes_has_none(
    tmp_path: Path,
) -> None:
    studies = studies_of(
        ["maximize"],
        a=[
            trial(TrialState.COMPLETE, 0.5, **{"test/accuracy": 0.25, f"{MARK}beat": 3.0}),
            trial(TrialState.COMPLETE, 0.75, **{"size": 7.0, "note": "a word"}),
        ],
    )
    results.write_all({SEARCH: studies}, tmp_path, None)
    assert [(row["test/accuracy"], row["size"]) for row in rows(tmp_path)] == [
        ("0.25", ""),
        ("", "7.0"),
    ]
    assert not {"note", f"{MARK}beat"} & set(rows(tmp_path)[0])
    summary: Any = OmegaConf.load(tmp_path / "results.yaml")
    assert summary.best.a[0].recorded == {"size": 7.0}


def test_names_of_the_app_hide_no_column(tmp_path: Path) -> None:
    """An app may search for a ``value``, and record a ``number``."""
    space = {name: FloatDistribution(0.0, 9.0) for name in ("value", "state", "phase")}
    ended = create_trial(
        value=1.0,
        params={"value": 2.0, "state": 3.0, "phase": 4.0},
        distributions=space,
        user_attrs={"number": 5.0, "duration_s": 6.0},
    )
    results.write_all({SEARCH: studies_of(["maximize"], a=[ended])}, tmp_path, "steps")
    (row,) = rows(tmp_path)
    assert (row["number"], row["state"], row["value"]) == ("0", "COMPLETE", "1.0")
    assert {"2.0", "3.0", "4.0", "5.0", "6.0", "a"} <= set(row.values())


def test_several_objectives_have_a_column_each(tmp_path: Path) -> None:
    studies = studies_of(["maximize", "minimize"], **{"": [trial(TrialState.COMPLETE, 0.75, 3.0)]})
    results.write_all({SEARCH: studies}, tmp_path, None)
    (row,) = rows(tmp_path)
    assert (row["value_0"], row["value_1"]) == ("0.75", "3.0")
    assert "value" not in row
    stock = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert stock == {
        "name": "optuna",
        "solutions": [
            {"params": {"optimizer.lr": 0.5, "data.batch_size": 64}, "values": [0.75, 3.0]}
        ],
    }


def test_summary_has_counts_and_the_best_of_each_stratum(tmp_path: Path) -> None:
    studies = studies_of(
        ["maximize"],
        cnn=[trial(TrialState.COMPLETE, 0.5), trial(TrialState.COMPLETE, 0.75, steps=3)],
        lenet5=[trial(TrialState.FAIL)],
    )
    results.write_all({SEARCH: studies}, tmp_path, "model")
    summary = OmegaConf.to_container(OmegaConf.load(tmp_path / "results.yaml"))
    assert isinstance(summary, dict)
    assert summary["trials"] == {"COMPLETE": 2, "FAIL": 1}
    assert summary["best"]["lenet5"] == []
    (best,) = summary["best"]["cnn"]
    assert (best["number"], best["values"], best["folder"]) == (1, [0.75], "cnn-001")
    assert best["steps"] == 3
    assert best["params"]["model"] == "cnn"
    stock = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert (stock.best_value, stock.best_params.model) == (0.75, "cnn")


# Files are written in full or not at all


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path, other = tmp_path / "results.yaml", tmp_path / "other"
    other.touch()
    files.write(path, "old" * 1000)
    with path.open() as reader:  # who has it open goes on seeing all of the old one
        files.write(path, "new")
        assert reader.read() == "old" * 1000
    assert path.read_text() == "new"
    assert path.stat().st_mode == other.stat().st_mode
    assert set(tmp_path.iterdir()) == {path, other}


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_failure_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, failing, Mock(side_effect=full))
    with pytest.raises(Outage, match=r"file can't be written \(No space left on device\)"):
        files.write(path, "new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
