"""In what two sweeps are said to differ."""

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from planted import SPACE, plant, searched, trial, with_seeds

from hydrasweep import page
from hydrasweep.differences import compare
from hydrasweep.errors import UserError


def rows(told: str) -> dict[str, list[str]]:
    """The cells of each row, by its first."""
    cells = [[c.strip() for c in line.split("  ") if c.strip()] for line in told.splitlines()]
    return {line[0]: line[1:] for line in cells if len(line) == 3}


def test_settings_that_differ_are_told_and_no_others(tmp_path: Path) -> None:
    wider = {**SPACE, "optimizer.lr": FloatDistribution(1e-5, 1e-1, log=True)}
    one = plant(
        tmp_path / "one", {"": searched()}, sweeper={"n_trials": 8, "sampler": {"seed": 1}},
        app={"study": "one", "data": {"size": 1, "path": "x"}, "db": {"password": "secret1"}},
    )  # fmt: skip
    two = plant(
        tmp_path / "two", {"": [trial(0.9, lr=0.1, space=wider)]},
        sweeper={"n_trials": 9, "sampler": {"seed": 1}},
        app={"study": "two", "data": {"size": 2, "path": "x"}, "db": {"password": "secret2"},
             "new": True},
    )  # fmt: skip
    OmegaConf.save({"optuna": "5.0", "command": "a"}, one / "environment.yaml")
    OmegaConf.save({"optuna": "5.1", "command": "b"}, two / "environment.yaml")
    told = compare(page.read(one), page.read(two))
    found = rows(told.partition("result")[0])
    assert found == {
        "setting": ["one", "two"],
        "data.size": ["1", "2"],
        "new": ["—", "True"],
        "hydra.sweeper.n_trials": ["8", "9"],
        "searched: optimizer.lr": ["0.0001 to 0.1, logarithmic", "1e-05 to 0.1, logarithmic"],
        "searched: model.dropout": ["0 to 0.5", "—"],
        "searched: data.batch_size": ["one of 32, 64, 128", "—"],
        "optuna": ["5.0", "5.1"],
    }
    assert "secret" not in told


def test_results_are_compared_by_stratum_and_winners_by_their_errors(tmp_path: Path) -> None:
    best = max(searched(), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    for name, scores in (("one", [0.90, 0.91, 0.92]), ("two", [0.93, 0.94, 0.95])):
        plant(tmp_path / name, {"/cnn": searched(), "@confirm/cnn": with_seeds(best, scores, 20)})
    told = compare(page.read(tmp_path / "one"), page.read(tmp_path / "two"))
    assert rows(told) == {
        "result": ["one", "two"],
        "cnn: confirmed": ["0.9100 ± 0.0100 (n=3)", "0.9400 ± 0.0100 (n=3)"],
    }
    assert "No setting differs." in told
    assert "two wins: it leads one by 0.0300, more than two standard errors" in told


def test_unconfirmed_sweeps_are_compared_by_what_they_found(tmp_path: Path) -> None:
    one = plant(tmp_path / "a" / "s", {"": [trial(0.5, lr=0.1)]})
    two = plant(
        tmp_path / "b" / "s",
        {"": [trial(0.75, lr=0.01, attrs={"size": 7.0}), trial(state=TrialState.FAIL)]},
    )
    found = rows(compare(page.read(one), page.read(two)))
    first, second = found.pop("result")
    assert (first[-3:], second[-3:]) == ("a/s", "b/s")
    assert found == {
        "trials, search": ["1 COMPLETE", "1 COMPLETE, 1 FAIL"],
        "time worked": ["1 min", "2 min"],
        "in the search": ["0.5000", "0.7500"],
        "size": ["—", "7"],
        "optimizer.lr": ["0.1", "0.01"],
    }


def test_sweeps_that_search_for_different_things_are_said_to(tmp_path: Path) -> None:
    one = plant(tmp_path / "one", {"": searched()})
    for name, directions in (("less", ["minimize"]), ("many", ["maximize", "minimize"])):
        values = [1.0] * len(directions)
        other = plant(tmp_path / name, {"": [trial(*values, lr=0.1)]}, directions)
        told = compare(page.read(one), page.read(other))
        assert "their values can't be compared" in told
    assert "trials on the front" in told


def test_sweep_differs_from_its_copy_in_nothing_and_is_not_compared_with_itself(
    tmp_path: Path,
) -> None:
    sweep = page.read(plant(tmp_path / "s", {"": searched()}))
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    copy = page.read(tmp_path / "copy")
    assert compare(sweep, copy) == "No setting differs.\nNo result differs."
    with pytest.raises(UserError, match="s: is compared with itself"):
        compare(sweep, sweep)
