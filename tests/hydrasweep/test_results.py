"""The results of a sweep: the best trials, what pruning saved, notes and files."""

import csv
import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from planted import studies, trial

from hydrasweep import files, results
from hydrasweep.errors import Outage
from hydrasweep.stratum import LOST, RETRY_OF
from hydrasweep.trials import MARK, NOTE, SEARCH, SPENT, STEP, n_steps

PRUNED, FAIL, WAITING = TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING


def reported(n, *values, **kwargs):
    """A trial that reported ``n`` steps."""
    return trial(*values, reports=[0.5] * n, lr=0.01, batch_size=64, **kwargs)


# The best trials


@pytest.mark.parametrize(("direction", "extremum"), [("maximize", max), ("minimize", min)])
def test_best_trial_is_the_extremum_of_the_complete_ones(direction, extremum):
    values = [0.3, -0.9, 0.9, 0.1]
    others = [trial(5.0, state=PRUNED), trial(-5.0, state=PRUNED), trial(state=FAIL)]
    search = studies([direction], a=[*map(trial, values), *others], none=others)
    (best,) = results.best(search.strata[0])
    assert best.value == extremum(values)
    assert results.best(search.strata[1]) == []


points = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2), min_size=1, max_size=12)
directions = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=2, max_size=2)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(points, directions)
def test_pareto_front_has_the_trials_that_no_other_dominates(values, names):
    search = studies(names, a=[trial(*point) for point in values])
    front = [tuple(best.values) for best in results.best(search.strata[0])]

    def dominates(a, b):
        better = [x > y if n == "maximize" else x < y for x, y, n in zip(a, b, names, strict=True)]
        return any(better) and all(up or x == y for up, x, y in zip(better, a, b, strict=True))

    assert front == [p for p in values if not any(dominates(other, p) for other in values)]


# Steps and notes


def test_steps_are_those_that_were_reported():
    assert n_steps(reported(0, 0.5)) == 0
    assert n_steps(reported(3, 0.5)) == 3
    assert n_steps(reported(0, 0.5, 0.6, attrs={STEP: 4})) == 4  # several objectives


def test_pruning_saves_the_steps_that_were_left():
    ended = [
        reported(5, 0.9),
        reported(1, 0.1, state=PRUNED),
        reported(3, 0.2, state=PRUNED),
        reported(2, state=FAIL),
        reported(0, state=PRUNED),
    ]
    steps, _ = results.saved(studies(all=ended).strata)
    assert steps == 4 + 2
    assert results.saved([]) == results.saved(studies(all=[]).strata) == (0, 0.0)


def test_time_that_pruning_saves_excludes_the_start_of_trials():
    def lasting(steps, start, pace, **kwargs):
        ended = reported(steps, 0.5, attrs={SPENT: start + pace * steps}, **kwargs)
        ended.datetime_complete = ended.datetime_start
        return ended

    slow = [
        lasting(9, start=4, pace=2),
        lasting(1, start=4, pace=2, state=PRUNED),
        lasting(3, start=4, pace=2, state=PRUNED),
    ]
    fast = [lasting(1, start=0, pace=0.5, state=PRUNED)]
    steps, seconds = results.saved(studies(slow=slow, fast=fast).strata)
    assert steps == 8 + 6 + 8
    assert seconds == pytest.approx((8 + 6) * 2 + 8 * 0.5)


def notes(trials, **chosen):
    conf = {"pruner": {"_target_": "optuna.pruners.MedianPruner"}, "timeout": None} | chosen
    return results.notes(studies(all=trials), OmegaConf.create(conf))


def test_note_says_that_trials_reported_nothing_to_the_pruner():
    silent = [trial(0.5), trial(0.5)]
    (note,) = notes(silent)
    assert "hydrasweep.report" in note
    assert notes(silent, pruner=None) == []
    assert notes(silent, pruner={"_target_": "optuna.pruners.NopPruner"}) == []
    assert notes(silent[:1]) == []
    assert notes([*silent, reported(1, 0.5)]) == []


def test_notes_of_trials_are_counted():
    first, second = notes([reported(1, 0.5, attrs={f"{NOTE}a": text}) for text in ("x", "x", "y")])
    assert ("2" in first, first[-1], "1" in second, second[-1]) == (True, "x", True, "y")


def test_note_names_the_timeout_that_ended_the_search():
    assert notes([trial(state=WAITING)], timeout=None) == []
    (note,) = notes([trial(state=WAITING)], timeout=90.0)
    assert "hydra.sweeper.timeout=90" in note
    assert notes([reported(1, 0.5)], timeout=90.0) == []


# Files


def written(search, folder, stratify=None):
    """Write the files of a search; return the rows of trials.csv."""
    results.write_all({SEARCH: search}, folder, stratify)
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_table_has_a_row_for_each_trial_that_has_begun(tmp_path):
    again = trial(state=WAITING, attrs={RETRY_OF: 1, LOST: "its process died"})
    search = studies(
        cnn=[reported(2, 0.75), reported(0, state=FAIL), again],
        lenet5=[reported(1, 0.5, state=PRUNED, minute=1)],
    )
    cnn, lenet5 = written(search, tmp_path, "model")
    assert cnn == {
        "number": "0",
        "state": "COMPLETE",
        "value": "0.75",
        "steps": "2",
        "duration_s": "60.0",
        "model": "cnn",
        "optimizer.lr": "0.01",
        "data.batch_size": "64",
    }
    assert (lenet5["model"], lenet5["state"], lenet5["steps"]) == ("lenet5", "PRUNED", "1")


def test_recorded_numbers_have_a_column_each_and_internal_attributes_none(tmp_path):
    attrs = [{"test/accuracy": 0.25, f"{MARK}beat": 3.0}, {"size": 7.0, "note": "text"}]
    trials = [trial(0.5, attrs=attrs[0]), trial(0.75, attrs=attrs[1])]
    first, second = written(studies(a=trials), tmp_path)
    assert (first["test/accuracy"], first["size"]) == ("0.25", "")
    assert (second["test/accuracy"], second["size"]) == ("", "7.0")
    assert not {"note", f"{MARK}beat"} & set(first)
    summary: Any = OmegaConf.load(tmp_path / "results.yaml")
    assert summary.best.a[0].recorded == {"size": 7.0}


def test_names_of_the_app_hide_no_column(tmp_path):
    """An app may search for a ``number`` and record a ``state``."""
    params = {"value": 2.0, "number": 3.0, "phase": 4.0}
    space = dict.fromkeys(params, FloatDistribution(0.0, 9.0))
    ended = trial(1.0, space=space, attrs={"state": 5.0, "duration_s": 6.0}, **params)
    (row,) = written(studies(a=[ended]), tmp_path, "steps")
    assert (row["number"], row["state"], row["value"]) == ("0", "COMPLETE", "1.0")
    assert {"2.0", "3.0", "4.0", "5.0", "6.0", "a"} <= set(row.values())


def test_several_objectives_have_a_column_each(tmp_path):
    search = studies(["maximize", "minimize"], **{"": [reported(0, 0.75, 3.0)]})
    (row,) = written(search, tmp_path)
    assert (row["value_0"], row["value_1"]) == ("0.75", "3.0")
    assert "value" not in row
    params = {"optimizer.lr": 0.01, "data.batch_size": 64}
    assert OmegaConf.load(tmp_path / "optimization_results.yaml") == {
        "name": "optuna",
        "solutions": [{"params": params, "values": [0.75, 3.0]}],
    }


def test_summary_has_counts_and_the_best_trial_of_each_stratum(finished, tmp_path):
    summary: Any = OmegaConf.load(finished.folder / "sweep" / "results.yaml")
    assert summary.trials == {"COMPLETE": 4, "FAIL": 1, "PRUNED": 1}
    assert summary.directions == ["minimize"]
    stock: Any = OmegaConf.load(finished.folder / "sweep" / "optimization_results.yaml")
    for kind in "ab":
        complete = [t for t in finished.trials(f"s/{kind}") if t.state == TrialState.COMPLETE]
        expected = min(complete, key=lambda t: t.values[0])
        (best,) = summary.best[kind]
        assert (best.number, best["values"]) == (expected.number, expected.values)
        assert (best.folder, best.steps) == (f"{kind}-{expected.number:03d}", 3)
        assert best.params == {"kind": kind, **expected.params}
        if kind == "a":
            assert (stock.best_value, stock.best_params) == (expected.value, best.params)
    written(studies(none=[trial(state=FAIL)]), tmp_path)
    failed: Any = OmegaConf.load(tmp_path / "results.yaml")
    assert failed.best.none == []


# Files are written completely or not at all


def test_file_is_replaced_in_one_step(tmp_path):
    path, other = tmp_path / "results.yaml", tmp_path / "other"
    other.touch()
    files.write(path, "old" * 1000)
    with path.open() as reader:  # an open file keeps its old content
        files.write(path, "new")
        assert reader.read() == "old" * 1000
    assert path.read_text() == "new"
    assert path.stat().st_mode == other.stat().st_mode
    assert set(tmp_path.iterdir()) == {path, other}


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    files.write(path, "old")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, failing, Mock(side_effect=full))
    with pytest.raises(Outage, match=rf"{path}.*No space left on device"):
        files.write(path, "new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"
