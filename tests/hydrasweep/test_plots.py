"""What the figures show."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from planted import BEGAN, SPACE, plant, searched, trial

from hydrasweep import page, plots, storage
from hydrasweep.plots import Sweep, View


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    storage.close_storages()


def sweep_of(folder: Path, *strata: Sequence[FrozenTrial], direction: str = "maximize") -> Sweep:
    studies = {f"/{i}": trials for i, trials in enumerate(strata)}
    return page.read(plant(folder / "s", studies, [direction]))


def test_pruned_trials_count_with_their_last_value(tmp_path: Path) -> None:
    trials = [*searched(), trial(math.inf, lr=0.1), trial(state=TrialState.FAIL, lr=0.1)]
    study = View(sweep_of(tmp_path, trials, searched(3)), 0).study
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert sorted(t.value for t in study.trials) == sorted(
        t.values[0] for t in (*searched(), *searched(3))
    )
    assert [t.params["model"] for t in study.trials].count("1") == 3


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_trial_that_diverged_leaves_room_for_the_others(
    tmp_path: Path, direction: str, sign: int
) -> None:
    values = [sign * value for value in (0.90, 0.91, 0.92, 0.93, 0.94, -1e6)]
    trials = [trial(value, lr=10 ** -(i + 1)) for i, value in enumerate(values[:4])]
    trials += [trial(value, lr=0.05) for value in values[4:]]
    view = View(sweep_of(tmp_path, trials, direction=direction), 0)
    worst = min(sign * t.value for t in view.study.trials)
    assert 0.5 < worst < 0.9
    assert view.range is not None
    low, high = sorted(sign * end for end in view.range)
    assert 0.5 < low < worst
    assert 0.94 < high < 1.1


def test_history_has_complete_values_and_the_best_so_far(tmp_path: Path) -> None:
    trials = searched()
    (figure,) = plots.history(sweep_of(tmp_path, trials, []).views)
    shown = {trace.name: trace for trace in figure.data}
    complete = [t.values[0] for t in trials if t.state == TrialState.COMPLETE]
    assert [y for y in shown["val/accuracy of 0"].y if not math.isnan(y)] == complete
    best = shown["Best Value of 0"].y
    assert max(best) == best[-1] == max(complete)


def test_pruned_curves_are_pale_and_strata_have_colours(tmp_path: Path) -> None:
    running = trial(state=TrialState.RUNNING, reports=[0.5, 0.6], lr=0.1, minute=50)
    sweep = sweep_of(tmp_path, [*searched(), running], searched(3))
    (figure,) = sweep.views[0].figures["curves"]
    shown = {trace.name: trace for trace in figure.data}
    assert len(shown) == 12
    assert list(shown["0-008 RUNNING"].y) == [0.5, 0.6]
    for name, trace in shown.items():
        assert (trace.opacity < 1) == name.endswith("PRUNED")
        assert trace.line.color == plots.COLOURS[int(name[0])]


def test_strata_may_search_different_things(tmp_path: Path) -> None:
    spaces: list[dict[str, Any]] = [
        {
            "lr": FloatDistribution(1e-4, 1e-1, log=True),
            "width": CategoricalDistribution([16, 64]),
            "depth": IntDistribution(1, 8),
            "only_here": FloatDistribution(0, 1),
        },
        {
            "lr": FloatDistribution(-1.0, 1.0),
            "width": IntDistribution(8, 64),
            "depth": CategoricalDistribution([1, 2, "deep"]),
            "elsewhere": CategoricalDistribution([None, True, "x"]),
        },
    ]
    strata = []
    for space in spaces:
        ends = [getattr(d, "choices", None) or (d.low, d.high) for d in space.values()]
        strata.append(
            [
                trial(i / 100 + i % 7, space=space, minute=i, **{
                    name: end[i % len(end)] for name, end in zip(space, ends, strict=True)
                })
                for i in range(15)
            ]
        )  # fmt: skip
    view = sweep_of(tmp_path, *strata).views[0]
    assert set(view.figures) == {
        "history", "curves", "parallel", "slices", "importances", "contours",
    }  # fmt: skip
    names = {name for t in view.study.trials for name in t.params}
    assert names == {"model", "lr", "width", "depth", "only_here", "elsewhere"}
    assert all(isinstance(t.params["width"], str) for t in view.study.trials)


def test_contours_are_of_what_all_trials_have_and_of_few_trials(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, searched(9), searched(8))
    assert not {"contours", "importances"} & set(sweep.views[0].figures)
    space = {f"p{i}": FloatDistribution(0, 1) for i in range(7)}
    trials = [
        trial(
            i / 300,
            space=space,
            minute=i,
            **{name: (i * (7 + k) % 300) / 300 for k, name in enumerate(space)},
        )
        for i in range(300)
    ]
    figures = page.read(plant(tmp_path / "many", {"": trials})).views[0].figures
    (contours,) = figures["contours"]
    points = [trace for trace in contours.data if trace.type == "scatter" and trace.x]
    assert len(points) == plots.MAX_PARAMS * (plots.MAX_PARAMS - 1)
    assert all(len(trace.x) <= plots.MAX_CONTOUR_TRIALS for trace in points)
    assert len(figures["slices"]) == 2


def test_timeline_has_a_row_for_each_worker_with_the_lost_trials(tmp_path: Path) -> None:
    lost = trial(state=TrialState.FAIL, minute=9, pid=7)
    trials = [*searched(), lost, trial(state=TrialState.WAITING)]
    (figure,) = plots.timeline(sweep_of(tmp_path, trials))
    bars = {bar.name: bar for bar in figure.data}
    assert set(bars) == {"COMPLETE", "PRUNED", "FAIL"}
    assert set(bars["COMPLETE"].y) == {"here 0", "here 1"}
    assert bars["FAIL"].y == ("here 7",)
    assert bars["FAIL"].x == (60_000,)
    assert "0-008" in bars["FAIL"].text[0]
    assert datetime.fromisoformat(bars["FAIL"].base[0]) == BEGAN + timedelta(minutes=9)


def test_space_of_planted_sweeps_is_drawn_whole(tmp_path: Path) -> None:
    (parallel,) = sweep_of(tmp_path, searched(), searched(4)).views[0].figures["parallel"]
    names = parallel.layout.xaxis.ticktext
    assert names[0] == "val/accuracy"
    assert set(names[1:]) == {"model", *SPACE} - {"seed"}
