"""What the figures show."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from planted import BEGAN, SPACE, plant, searched, trial

from hydrasweep.report import plots
from hydrasweep.report.source import Sweep, read

RATES = [0.001, 0.003, 0.01, 0.003, 0.001]


def sweep_of(folder: Path, *strata: Sequence[FrozenTrial]) -> Sweep:
    return read(plant(folder / "s", {f"/{i}": trials for i, trials in enumerate(strata)}))


def axes(figure: Any, title: str) -> list[Any]:
    """The axes with a title."""
    layout = figure.to_dict()["layout"]
    named = [layout[key] for key in layout if key[1:].startswith("axis")]
    return [axis for axis in named if axis.get("title", {}).get("text") == title]


@pytest.mark.parametrize(
    "searched_as",
    [
        FloatDistribution(1e-3, 5e-3, log=True),
        FloatDistribution(1e-4, 1e-1),
        CategoricalDistribution([0.001, 0.003, 0.01]),
    ],
    ids=["log", "decades", "choices"],
)
def test_learning_rate_is_logarithmic_however_it_was_searched(
    tmp_path: Path, searched_as: BaseDistribution
) -> None:
    rates = [0.001, 0.003, 0.005] if getattr(searched_as, "high", 1) == 5e-3 else RATES
    space = SPACE | {"optimizer.lr": searched_as}
    trials = [
        trial(0.9 + i / 100, lr=lr, dropout=i / 10, space=space) for i, lr in enumerate(rates)
    ]
    sweep = sweep_of(tmp_path, trials, trials)
    for figure in (plots.slices(sweep), plots.contours(sweep)):
        found = axes(figure, "optimizer.lr")
        assert found
        assert {axis["type"] for axis in found} == {"log"}
        assert {text for axis in found for text in axis["ticktext"]} >= {"0.001", "0.003", "0.01"}
    texts = [note.text for note in plots.parallel(sweep).layout.annotations]
    assert "0.001" in texts
    assert "-3" not in texts
    middle = next(n.y for n in plots.parallel(sweep).layout.annotations if n.text == "0.001")
    assert middle == 0


def test_other_parameters_are_drawn_as_they_are(tmp_path: Path) -> None:
    space = {
        "depth": IntDistribution(1, 6),
        "width": CategoricalDistribution([16, 64, 256]),
        "kind": CategoricalDistribution(["sgd", "adam"]),
    }
    trials = [
        trial(0.5 + d / 100, depth=d, width=[16, 64, 256][d % 3], kind=["sgd", "adam"][d % 2],
              space=space)
        for d in range(1, 7)
    ]  # fmt: skip
    figure = plots.slices(sweep_of(tmp_path, trials))
    assert [axes(figure, name)[0].get("type") for name in space] == [None, "log", "category"]
    assert axes(figure, "width")[0]["ticktext"] == ["16", "64", "256"]


def test_history_has_all_values_and_the_best_so_far(tmp_path: Path) -> None:
    trials = searched()
    figure = plots.history(sweep_of(tmp_path, trials))
    pruned, complete, best = figure.data
    states = [t.state for t in trials]
    assert list(pruned.x) == [i for i, s in enumerate(states) if s == TrialState.PRUNED]
    assert list(complete.y) == [t.value for t in trials if t.state == TrialState.COMPLETE]
    assert best.y[-1] == max(complete.y)
    assert sorted(best.y) == list(best.y)


def test_pruned_curves_are_grey_and_running_ones_dotted(tmp_path: Path) -> None:
    running = trial(state=TrialState.RUNNING, reports=[0.5, 0.6], lr=0.1)
    trials = [*searched(), running]
    figure = plots.curves(sweep_of(tmp_path, trials))
    shown = {trace.name: trace for trace in figure.data}
    assert len(shown) == len(trials)
    assert list(shown["0-008 RUNNING"].y) == [0.5, 0.6]
    assert shown["0-008 RUNNING"].line.dash == "dot"
    for name, trace in shown.items():
        assert (trace.line.color == plots.GREY) == name.endswith("PRUNED")


def test_strata_stand_side_by_side_on_the_same_axis(tmp_path: Path) -> None:
    figure = plots.slices(sweep_of(tmp_path, searched(), searched(5), searched(6)))
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["0", "1", "2"]
    assert figure.layout.yaxis2.matches == figure.layout.yaxis3.matches == "y"
    assert figure.layout.xaxis2.matches == "x"


def test_timeline_has_a_row_for_each_worker_with_the_lost_trials(tmp_path: Path) -> None:
    lost = trial(state=TrialState.FAIL, attrs={"dropped": "its process died"}, minute=9, pid=7)
    trials = [*searched(), lost, trial(state=TrialState.WAITING)]
    figure = plots.timeline(sweep_of(tmp_path, trials))
    bars = {bar.name: bar for bar in figure.data}
    assert set(bars) == {"COMPLETE", "PRUNED", "FAIL"}
    assert set(bars["COMPLETE"].y) == {"here 0 search", "here 1 search"}
    assert bars["FAIL"].y == ("here 7 search",)
    assert "its process died" in bars["FAIL"].text[0]
    assert bars["FAIL"].x == (60_000,)
    assert datetime.fromisoformat(bars["FAIL"].base[0]) == BEGAN + timedelta(minutes=9)


def test_sweeps_are_compared_by_the_best_so_far(tmp_path: Path) -> None:
    late = [trial(0.7, minute=0), trial(0.9, minute=20), trial(0.8, minute=10)]
    sweeps = [
        read(plant(tmp_path / "first", {"/cnn": late})),
        read(plant(tmp_path / "second", {"/cnn": searched(), "/lenet5": searched()})),
    ]
    figure = plots.compared(sweeps)
    in_time, *_ = [t for t in figure.data if t.name == "first" and t.x]
    assert (list(in_time.x), list(in_time.y)) == ([1, 11, 21], [0.7, 0.8, 0.9])
    by_number = [t for t in figure.data if t.name == "first" and t.x][1]
    assert (list(by_number.x), list(by_number.y)) == ([0, 1, 2], [0.7, 0.9, 0.9])
    assert sum(bool(t.showlegend) or t.showlegend is None for t in figure.data) == 2
