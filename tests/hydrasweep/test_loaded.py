"""``hydrasweep.load``: trials as a table, Optuna's studies, figures."""

import sys
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from planted import plant, searched, trial, with_seeds

import hydrasweep
from hydrasweep import UserError

pd = pytest.importorskip("pandas")


def test_table_has_the_trials_of_all_phases_and_strata(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    level = optuna.logging.get_verbosity()
    sweep = hydrasweep.load("s")
    assert optuna.logging.get_verbosity() == level
    assert (sweep.name, sweep.folder) == ("s", finished.folder / "sweep")
    assert sweep.state == "finished"
    table = sweep.trials
    assert list(table)[:7] == ["phase", "folder", "number", "state", "value", "steps", "duration_s"]
    assert set(list(table)[7:]) == {"kind", "x", "size", "seed"}
    assert table.phase.value_counts().to_dict() == {"search": 6, "confirm": 4, "final": 4}
    for name in finished.names():
        base, _, kind = name.partition("/")
        phase = base.partition("@")[2] or "search"
        rows = table[(table.phase == phase) & (table.kind == kind)].set_index("number")
        trials = finished.study(name).trials
        assert len(rows) == len(trials)
        for each in trials:
            row = rows.loc[each.number]
            assert (sweep.folder / row.folder).is_dir()
            assert row.state == each.state.name
            assert row.x == each.params["x"]
            assert row.value == each.value if each.values else pd.isna(row.value)
            assert row.steps == len(each.intermediate_values)
            assert row.duration_s >= 0
    assert (table["size"] == 7).all()


def test_winners_have_the_mean_of_their_seeds(finished):
    sweep = hydrasweep.load(finished.folder / "sweep")
    table, won = sweep.trials, sweep.winners.set_index("kind")
    again = table[table.phase == "confirm"].groupby("kind").value
    assert won.confirmed.to_dict() == pytest.approx(again.mean().to_dict())
    assert won.sd.to_dict() == pytest.approx(again.std().to_dict())
    assert won.n_seeds.to_dict() == {"a": 2, "b": 2}
    assert won["size"].to_dict() == {"a": 7, "b": 7}
    complete = table[(table.phase == "search") & (table.state == "COMPLETE")]
    assert won.search.to_dict() == complete.groupby("kind").value.min().to_dict()


def test_studies_can_be_drawn_by_optuna_and_as_in_the_report(tmp_path, capfd):
    sweep = hydrasweep.load(plant(tmp_path / "s", {"/cnn": searched(24), "/mlp": searched(6)}))
    assert {name: len(each.trials) for name, each in sweep.studies.items()} == {"cnn": 24, "mlp": 6}
    assert sweep.study.best_value == max(s.best_value for s in sweep.studies.values())
    assert sweep.study.best_params["model"] in sweep.studies
    figure = optuna.visualization.plot_slice(sweep.study, params=["model", "optimizer.lr"])
    assert len(figure.data) == 2
    names = ("history", "curves", "importances", "parallel", "timeline")
    drawn = {name: getattr(sweep, f"plot_{name}")() for name in names}
    complete = [len(s.get_trials(states=(TrialState.COMPLETE,))) for s in sweep.studies.values()]
    shown = [len(trace.x) for trace in drawn["history"].data if trace.name.startswith("val/")]
    assert shown == complete
    assert len(drawn["curves"].data) == 30
    assert "model" in drawn["importances"].data[0].y
    axes = drawn["parallel"].layout.xaxis.ticktext
    assert axes[0] == "val/accuracy after step 1"
    assert set(axes[1:]) == {"model", "optimizer.lr", "model.dropout", "data.batch_size"}
    assert {*drawn["timeline"].data[0].y} == {"here 0", "here 1"}
    assert capfd.readouterr().err == ""


def test_figure_of_too_few_trials_is_refused(tmp_path):
    sweep = hydrasweep.load(plant(tmp_path / "s", {"": [trial(0.5, lr=0.1)]}))
    assert sweep.plot_history().data
    for name in ("curves", "importances", "parallel"):
        with pytest.raises(UserError):
            getattr(sweep, f"plot_{name}")()


def test_second_objective_is_drawn_by_its_number(tmp_path):
    trials = [trial(float(i), -float(i), lr=0.1) for i in range(3)]
    sweep = hydrasweep.load(
        plant(tmp_path / "s", {"": trials}, ["maximize", "minimize"], {"objective": ["a", "b"]})
    )
    assert [*sweep.plot_history(1).data[0].y] == [0.0, -1.0, -2.0]
    assert [*sweep.trials.value_1] == [0.0, -1.0, -2.0]


def test_parquet_keeps_numbers_and_writes_columns_of_several_types_as_text(
    tmp_path,
):
    pytest.importorskip("pyarrow")
    space: dict[str, Any] = {"act": CategoricalDistribution([1, "relu", None])}
    trials = [trial(float(i), space=space, act=act) for i, act in enumerate([1, "relu", None])]
    sweep = hydrasweep.load(plant(tmp_path / "s", {"": trials}))
    sweep.write_parquet(tmp_path / "all.parquet")
    table = pd.read_parquet(tmp_path / "all.parquet")
    assert [*table.value] == [0.0, 1.0, 2.0]
    assert [*table.act[:2]] == ["1", "relu"]
    assert pd.isna(table.act[2])
    assert list(table) == sweep.csv().splitlines()[0].split(",")


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, package):
    sweep = hydrasweep.load(plant(tmp_path / "s", {"": searched()}))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"python -m pip install {package}"):
        sweep.write_parquet(tmp_path / "all.parquet")
    assert len(sweep.csv().splitlines()) == 1 + 8


def test_summary_has_the_trials_of_each_phase_and_the_state(tmp_path):
    best = max(searched(), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    phases = {"/cnn": searched(), "@confirm/cnn": with_seeds(best, [0.9, 0.91], 20)}
    lines = hydrasweep.load(plant(tmp_path / "s", phases)).summary().splitlines()
    assert any("confirm" in line and line.endswith("2 COMPLETE") for line in lines)
    assert any(line.endswith("6 COMPLETE, 2 PRUNED") for line in lines)
    assert any("0.9050 ± 0.0071 (n=2)" in line for line in lines)
    begun = hydrasweep.load(plant(tmp_path / "t", {"": [trial(state=TrialState.RUNNING)]}))
    assert "1 RUNNING" in begun.summary()
    assert "value" not in begun.summary()  # no table
    assert repr(begun) == f"<sweep t in {tmp_path / 't'}: unknown>"
