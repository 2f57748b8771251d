"""The report's figures: Optuna's own, of all strata in one study."""

import copy
import math
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import optuna
import plotly.colors
import plotly.graph_objects as go
from optuna import visualization as draw
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.liveness import OWNER
from hydrasweep.results import Row, settings
from hydrasweep.snapshot import Sweep
from hydrasweep.stratum import WHY
from hydrasweep.trials import recorded

COLOURS = plotly.colors.qualitative.D3
N_TOP = 5  # so many of the best PED-ANOVA wants at least, to compare them with the others
MIN_TRIALS = 4 * N_TOP  # what fewer show is chance
MAX_PARAMS = 4  # in a figure
MAX_CONTOUR_TRIALS = 100  # a browser takes a minute for a few hundred


class View:
    """One objective of a sweep's search.

    In ``study`` all trials with a value are complete: Optuna's plots leave out pruned ones, which
    may be nearly all. Values worse than ``worst`` have become that: one trial that diverged would
    flatten all others.
    """

    def __init__(self, sweep: Sweep, i: int = 0) -> None:
        self.sweep, self.name, self.part = sweep, sweep.objectives[i], slice(i, i + 1)
        self.sign = 1 if sweep.directions[i] == StudyDirection.MAXIMIZE else -1
        trials = merge(sweep.search.trials(), sweep, self.part).trials
        trials = [t for t in trials if t.values and math.isfinite(t.values[0])]
        self.worst = self.sign * _fence([self.sign * trial.values[0] for trial in trials])
        self.study = optuna.create_study(directions=sweep.directions[self.part])
        for trial in trials:
            trial.state = TrialState.COMPLETE
            trial.values = [self.sign * max(self.sign * trial.values[0], self.sign * self.worst)]
            self.study.add_trial(trial)

    def zoom(self, figure: go.Figure) -> go.Figure:
        """Let the objective's axis end at the worst value shown."""
        ends = [self.worst, None] if math.isfinite(self.worst) else [None, None]
        return figure.update_yaxes(title=self.name, range=ends[:: self.sign])


def _fence(values: Sequence[float]) -> float:
    """Tukey's fence below the values: -inf where none lies beyond it."""
    low, _, high = quantiles(values, n=4) if len(values) > 3 else (-math.inf,) * 3
    fence = low - 1.5 * (high - low) if high > low else -math.inf
    return fence if fence > min(values, default=0.0) else -math.inf


def merge(
    rows: Sequence[Row], sweep: Sweep, part: slice = slice(None), name: str | None = None
) -> Study:
    """The trials that have begun as one study, in that order, with some of their objectives; what
    the sweep is stratified by is a parameter."""
    study = optuna.create_study(study_name=name, directions=sweep.directions[part])
    values = CategoricalDistribution([stratum.value for stratum in sweep.search.strata])
    clones = []
    for stratum, trial in sorted(rows, key=lambda row: str(row[1].datetime_start)):
        clone, owner = copy.copy(trial), trial.user_attrs.get(OWNER, {})
        clone.values = trial.values[part] if trial.values else None
        clone.params = settings((stratum, trial), sweep.stratify)
        clone.distributions = {sweep.stratify: values} if sweep.stratify else {}
        clone.distributions |= trial.distributions
        clone.user_attrs = {"trial": stratum.label(trial.number), **recorded(trial)}
        clone.user_attrs |= {
            "worker": " ".join([owner.get("host", "unknown"), owner.get("pid", "")])
        }
        clones += [clone] if trial.datetime_start else []
    for key in {key for clone in clones for key in clone.params}:
        _join(key, [clone for clone in clones if key in clone.params])
    study.add_trials(clones)
    return study


def _join(name: str, trials: Sequence[FrozenTrial]) -> None:
    """Give a parameter one distribution where strata have several."""
    found: list[Any] = [trial.distributions[name] for trial in trials]
    if all(each == found[0] for each in found):
        return
    if any(isinstance(each, CategoricalDistribution) for each in found):
        for trial in trials:
            trial.params[name] = str(trial.params[name])
        joined: Any = CategoricalDistribution(list({trial.params[name]: 0 for trial in trials}))
    else:
        low, high = min(each.low for each in found), max(each.high for each in found)
        joined = FloatDistribution(low, high, log=all(each.log for each in found))
    for trial in trials:
        trial.distributions[name] = joined


def history(views: Sequence[View]) -> go.Figure:
    """The values of complete trials by number, and the best so far, for each stratum."""
    studies = []
    for view in views:
        for stratum in view.sweep.search.strata:
            name = " ".join([view.sweep.name] * (len(views) > 1) + [stratum.value])
            rows = [(stratum, trial) for trial in stratum.trials()]
            studies.append(merge(rows, view.sweep, view.part, name))
    if not any(study.get_trials(states=(TrialState.COMPLETE,)) for study in studies):
        return go.Figure()
    figure = draw.plot_optimization_history(studies, target_name=views[0].name)
    colours = [colour for colour in COLOURS for _ in range(3)]  # Optuna's traces of each study
    return views[0].zoom(figure.update_layout(colorway=colours))


def curves(view: View) -> go.Figure:
    """What the trials reported, by step."""
    study = merge(view.sweep.search.trials(), view.sweep)
    trials = {f"Trial{t.number}": t for t in study.trials if t.intermediate_values}
    if not trials:
        return go.Figure()
    figure = draw.plot_intermediate_values(study)
    strata = [stratum.value for stratum in view.sweep.search.strata]
    for trace in figure.data:
        trial = trials[trace.name]
        i = strata.index(trial.params.get(view.sweep.stratify, ""))
        trace.name = f"{trial.user_attrs['trial']} {trial.state.name}"
        trace.line.color = COLOURS[i % len(COLOURS)]
        trace.opacity = 0.3 if trial.state == TrialState.PRUNED else 1.0
    return view.zoom(figure)


def tried(study: Study) -> list[str]:
    """The parameters that had several values."""
    values: dict[str, set[str]] = {}
    for trial in study.trials:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(str(value))
    return [name for name, several in values.items() if len(several) > 1]


def evaluator(study: Study) -> PedAnovaImportanceEvaluator | None:
    """What tells the best trials from the others; None: there are too few, or all are alike."""
    values = [trial.values[0] for trial in study.trials]
    n_top = max(N_TOP, len(values) // 10)
    if len(values) < MIN_TRIALS or len(set(values)) <= n_top or not tried(study):
        return None
    return PedAnovaImportanceEvaluator(target_quantile=n_top / len(values))


def importances(view: View) -> list[go.Figure]:
    """How much each parameter has to do with being among the best."""
    chosen = evaluator(view.study)
    return [draw.plot_param_importances(view.study, chosen)] if chosen else []


def parallel(view: View) -> list[go.Figure]:
    """The objective and all parameters, a line for each trial."""
    drawn = bool(tried(view.study))
    return [draw.plot_parallel_coordinate(view.study, target_name=view.name)] if drawn else []


def slices(view: View) -> list[go.Figure]:
    """The objective by each parameter."""
    names = tried(view.study)
    parts = [names[i : i + MAX_PARAMS] for i in range(0, len(names), MAX_PARAMS)]
    return [
        draw.plot_slice(view.study, part, target_name=view.name).update_layout(width=None)
        for part in parts
    ]


def contours(view: View) -> list[go.Figure]:
    """The objective over pairs of the most important parameters that all trials have."""
    study, chosen = view.study, evaluator(view.study)
    shared = [name for name in tried(study) if all(name in t.params for t in study.trials)]
    if chosen is None or len(shared) < 2:
        return []
    names = list(get_param_importances(study, evaluator=chosen, params=shared))[:MAX_PARAMS]
    some = optuna.create_study(directions=study.directions)
    some.add_trials(study.trials[:: len(study.trials) // MAX_CONTOUR_TRIALS + 1])
    height = 230 * len(names) + 80
    return [draw.plot_contour(some, names, target_name=view.name).update_layout(height=height)]


def timeline(sweep: Sweep) -> go.Figure:
    """What each worker did when, lost trials included."""
    strata = [stratum for studies in sweep.phases.values() for stratum in studies.strata]
    study = merge([(s, trial) for s in strata for trial in s.study.trials], sweep)
    if not study.trials:
        return go.Figure()
    figure = draw.plot_timeline(study)
    workers = [trial.user_attrs["worker"] for trial in study.trials]
    for bars in figure.data:
        bars.y = [workers[number] for number in bars.y]
    height = 150 + 36 * len(set(workers))
    return figure.update_layout(barmode="overlay", yaxis_title=None, height=height)
