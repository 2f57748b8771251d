"""How two sweeps are compared."""

import re
import shutil

import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from planted import SPACE, plant, searched, trial, with_seeds

from hydrasweep import page
from hydrasweep.differences import compare
from hydrasweep.errors import UserError


def rows(text):
    """The cells of each row, by the first."""
    cells = [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]
    return {line[0]: line[1:] for line in cells if len(line) == 3}


def test_only_settings_that_differ_are_shown(tmp_path):
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
    text = compare(page.read(one), page.read(two))
    found = rows(text.partition("result")[0])
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
    assert "secret" not in text


@pytest.mark.parametrize(
    ("scores", "confirmed", "lead"),
    [
        ([0.93, 0.94, 0.95], "0.9400 ± 0.0100 (n=3)", r"0\.0300\b.* more than .*0\.0082"),
        ([0.88, 0.95, 0.96], "0.9300 ± 0.0436 (n=3)", r"0\.0200\b.* less than .*0\.0258"),
        ([0.95], "0.9500 (n=1)", r"0\.0400\b.* single "),
    ],
)
def test_winners_are_compared_by_their_standard_errors(tmp_path, scores, confirmed, lead):
    best = max(searched(), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    for name, values in (("one", [0.90, 0.91, 0.92]), ("two", scores)):
        plant(tmp_path / name, {"/cnn": searched(), "@confirm/cnn": with_seeds(best, values, 20)})
    text = compare(page.read(tmp_path / "one"), page.read(tmp_path / "two"))
    found = rows(text)
    assert found["result"] == ["one", "two"]
    assert found["cnn: confirmed"] == ["0.9100 ± 0.0100 (n=3)", confirmed]
    assert "cnn: in the search" not in found
    assert re.search(rf"^two .* one .*{lead}", text, re.MULTILINE)


def test_unconfirmed_sweeps_are_compared_by_their_best_trials(tmp_path):
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


def test_sweeps_with_different_objectives_have_no_leader(tmp_path):
    best = max(searched(), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    confirmed = {"/cnn": searched(), "@confirm/cnn": with_seeds(best, [0.9, 0.91], 20)}
    one = page.read(plant(tmp_path / "one", confirmed))
    less = compare(one, page.read(plant(tmp_path / "less", confirmed, ["minimize"])))
    assert "standard error" not in less
    two = {"": [trial(1.0, 1.0, lr=0.1)]}
    many = compare(one, page.read(plant(tmp_path / "many", two, ["maximize", "minimize"])))
    assert rows(many)["trials on the front"] == ["—", "1"]


def test_sweep_equals_its_copy_and_is_not_compared_with_itself(
    tmp_path,
):
    sweep = page.read(plant(tmp_path / "s", {"": searched()}))
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    copy = page.read(tmp_path / "copy")
    assert rows(compare(sweep, copy)) == {}
    with pytest.raises(UserError, match=f"{tmp_path / 's'}:"):
        compare(sweep, sweep)
