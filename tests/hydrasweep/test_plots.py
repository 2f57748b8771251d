"""The figures of a report that show trials."""

import math
from datetime import datetime, timedelta

from optuna.trial import TrialState
from planted import BEGAN, searched, sweep_of, trial

from hydrasweep import plots


def test_history_has_complete_values_and_the_best_so_far(tmp_path):
    trials = searched()
    (figure,) = plots.history(sweep_of(tmp_path, trials, []).views)
    shown = {trace.name: trace for trace in figure.data}
    complete = [t.values[0] for t in trials if t.state == TrialState.COMPLETE]
    assert [y for y in shown["val/accuracy of 0"].y if not math.isnan(y)] == complete
    best = shown["Best Value of 0"].y
    assert max(best) == best[-1] == max(complete)


def test_pruned_curves_are_pale_and_each_stratum_has_a_colour(tmp_path):
    running = trial(state=TrialState.RUNNING, reports=[0.5, 0.6], lr=0.1, minute=50)
    sweep = sweep_of(tmp_path, [*searched(), running], searched(3))
    (figure,) = sweep.views[0].figures["curves"]
    shown = {trace.name: trace for trace in figure.data}
    assert len(shown) == 12
    assert list(shown["0-008 RUNNING"].y) == [0.5, 0.6]
    for name, trace in shown.items():
        assert (trace.opacity < 1) == name.endswith("PRUNED")
        assert trace.line.color == plots.COLOURS[int(name[0])]


def test_timeline_has_a_row_for_each_worker_with_the_lost_trials(tmp_path):
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
