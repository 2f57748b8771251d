"""What ``hydrasweep.load`` gives: trials as a table, studies of Optuna's, figures."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from apps import App
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from planted import plant, searched, trial, with_seeds

import hydrasweep
from hydrasweep import UserError

pd = pytest.importorskip("pandas")


def test_trials_are_those_of_optuna_in_all_phases_and_strata(
    app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
        for epoch in range(1, 3):
            if hydrasweep.report(cfg.x, epoch):
                break
        hydrasweep.record(size=7, value=1)
        if hydrasweep.trial().name == "b-001":
            raise ValueError
        return cfg.x
    """
    done = app(body)(
        "kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.max_failures=1",
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.top=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    monkeypatch.chdir(tmp_path)
    level = optuna.logging.get_verbosity()
    sweep = hydrasweep.load("s")
    assert optuna.logging.get_verbosity() == level
    assert (sweep.name, sweep.folder, sweep.state) == ("s", tmp_path / "sweep", "finished")
    table = sweep.trials
    assert list(table)[:7] == ["phase", "folder", "number", "state", "value", "steps", "duration_s"]
    assert set(list(table)[7:]) == {"kind", "x", "size", "recorded.value", "seed"}
    assert table.phase.value_counts().to_dict() == {"search": 4, "confirm": 4, "final": 4}
    for name in done.names():
        base, _, kind = name.partition("/")
        phase = base.partition("@")[2] or "search"
        rows = table[(table.phase == phase) & (table.kind == kind)].set_index("number")
        trials = done.study(name).trials
        assert len(rows) == len(trials)
        for each in trials:
            row = rows.loc[each.number]
            assert (tmp_path / "sweep" / row.folder).is_dir()
            assert row.state == each.state.name
            assert row.x == each.params["x"]
            assert row.value == each.value if each.values else pd.isna(row.value)
            assert row.duration_s >= 0
    assert (table.steps == 2).all()
    assert (table["size"] == 7).all()
    won = sweep.winners.set_index("kind")
    again = table[table.phase == "confirm"].groupby("kind").value
    assert won.confirmed.to_dict() == pytest.approx(again.mean().to_dict())
    assert won.sd.to_dict() == pytest.approx(again.std().to_dict())
    assert won.n_seeds.to_dict() == {"a": 2, "b": 2}
    assert won["size"].to_dict() == {"a": 7, "b": 7}
    best = table[table.phase == "search"].groupby("kind").value.min()
    assert won.search.to_dict() == best.to_dict()


def test_studies_are_such_as_optunas_own_plots_take(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = hydrasweep.load(plant(tmp_path / "s", {"/cnn": searched(24), "/mlp": searched(6)}))
    assert {name: len(study.trials) for name, study in sweep.studies.items()} == {
        "cnn": 24, "mlp": 6,
    }  # fmt: skip
    assert sweep.study.best_value == max(s.best_value for s in sweep.studies.values())
    assert sweep.study.best_params["model"] in sweep.studies
    figure = optuna.visualization.plot_slice(sweep.study, params=["model", "optimizer.lr"])
    assert len(figure.data) == 2
    assert sweep.plot_history().data
    assert capfd.readouterr().err == ""


def test_figures_of_the_report_are_drawn(tmp_path: Path) -> None:
    sweep = hydrasweep.load(plant(tmp_path / "s", {"/cnn": searched(24), "/mlp": searched(24)}))
    drawn = {name: getattr(sweep, f"plot_{name}")()
             for name in ("history", "curves", "importances", "parallel", "timeline")}  # fmt: skip
    complete = [len(s.get_trials(states=(TrialState.COMPLETE,))) for s in sweep.studies.values()]
    shown = [len(trace.x) for trace in drawn["history"].data if trace.name.startswith("val/")]
    assert shown == complete
    assert len(drawn["curves"].data) == 48
    assert "model" in drawn["importances"].data[0].y
    assert drawn["parallel"].layout.xaxis.ticktext[0] == "val/accuracy after step 1"
    assert {*drawn["timeline"].data[0].y} == {"here 0", "here 1"}


def test_figure_for_which_there_is_too_little_is_refused(tmp_path: Path) -> None:
    sweep = hydrasweep.load(plant(tmp_path / "s", {"": [trial(0.5, lr=0.1)]}))
    assert sweep.plot_history().data
    for name in ("curves", "importances", "parallel"):
        with pytest.raises(UserError, match="too few trials"):
            getattr(sweep, f"plot_{name}")()


def test_second_objective_is_drawn_by_its_number(tmp_path: Path) -> None:
    trials = [trial(float(i), -float(i), lr=0.1) for i in range(3)]
    sweep = hydrasweep.load(
        plant(tmp_path / "s", {"": trials}, ["maximize", "minimize"], {"objective": ["a", "b"]})
    )
    assert [*sweep.plot_history(1).data[0].y] == [0.0, -1.0, -2.0]
    assert [*sweep.trials.value_1] == [0.0, -1.0, -2.0]


def test_parquet_keeps_numbers_as_numbers_and_columns_of_several_kinds_as_text(
    tmp_path: Path,
) -> None:
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


@pytest.mark.parametrize(("package", "told"), [("pandas", "pandas"), ("pyarrow", "pyarrow")])
def test_missing_package_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, told: str
) -> None:
    sweep = hydrasweep.load(plant(tmp_path / "s", {"": searched()}))
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"need.* {told}: python -m pip install {told}"):
        sweep.write_parquet(tmp_path / "all.parquet")
    assert len(sweep.csv().splitlines()) == 1 + 8


def test_summary_has_the_phases_and_what_ended_the_sweep(tmp_path: Path) -> None:
    best = max(searched(), key=lambda t: (t.state == TrialState.COMPLETE, t.values[0]))
    phases = {"/cnn": searched(), "@confirm/cnn": with_seeds(best, [0.9, 0.91], 20)}
    told = hydrasweep.load(plant(tmp_path / "s", phases)).summary()
    assert "Trials, confirm: 2 COMPLETE" in told
    assert "Trials: 6 COMPLETE, 2 PRUNED" in told
    assert "0.9050 ± 0.0071 (n=2)" in told
    begun = hydrasweep.load(plant(tmp_path / "t", {"": [trial(state=TrialState.RUNNING)]}))
    assert "Trials: 1 RUNNING" in begun.summary()
    assert "best trial" not in begun.summary()
    assert repr(begun) == f"<sweep t in {tmp_path / 't'}: unknown>"
