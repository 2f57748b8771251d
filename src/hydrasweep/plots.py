"""The figures of a report: Optuna's own, of all strata in one study."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import optuna
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from hydrasweep.liveness import OWNER
from hydrasweep.results import Row, settings
from hydrasweep.stratum import WHY
from hydrasweep.studies import Studies
from hydrasweep.trials import SEARCH, recorded
from hydrasweep.winners import Winner

if TYPE_CHECKING:  # it takes a second; optuna.visualization imports it when it is used
    import plotly.graph_objects as go

# plotly.colors.qualitative.D3
COLOURS = ["#1F77B4", "#FF7F0E", "#2CA02C", "#D62728", "#9467BD", "#8C564B", "#E377C2", "#7F7F7F",
           "#BCBD22", "#17BECF"]  # fmt: skip
N_TOP = 5  # so many of the best PED-ANOVA wants at least, to compare them with the others
MIN_TRIALS = 4 * N_TOP  # what fewer show is chance
MAX_PARAMS = 4  # in a figure
MAX_CONTOUR_TRIALS = 100  # a browser takes a minute for a few hundred


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was when it was read; ``config`` and ``versions`` may be empty."""

    name: str
    folder: Path
    config: DictConfig
    versions: DictConfig
    phases: Mapping[str, Studies]  # those that have begun
    winners: Sequence[Winner]  # of the strata that were confirmed
    objectives: Sequence[str]
    stratify: str  # or ""

    @property
    def search(self) -> Studies:
        return self.phases[SEARCH]

    @cached_property
    def views(self) -> "list[View]":
        return [View(self, i) for i in range(len(self.objectives))]


class View:
    """One objective of a sweep's search.

    Optuna's plots leave out pruned trials, which may be nearly all: in ``study`` every trial with
    a value is complete. A trial that diverged would flatten all others: its value is limited to
    Tukey's fence, where ``range``, the axis, ends.
    """

    def __init__(self, sweep: Sweep, i: int) -> None:
        self.sweep, self.part, self.name = sweep, slice(i, i + 1), sweep.objectives[i]
        merged = merge(sweep.search.trials(), sweep, self.part)
        sign = 1 if merged.direction == StudyDirection.MAXIMIZE else -1
        trials = [t for t in merged.trials if t.values and math.isfinite(t.values[0])]
        values = [sign * trial.values[0] for trial in trials]
        worst, best = min(values, default=0.0), max(values, default=0.0)
        low, _, high = quantiles(values if len(values) > 1 else (0, 0), n=4, method="inclusive")
        if high > low:
            worst = max(worst, low - 1.5 * (high - low))
        margin = 0.05 * (best - worst)
        self.range = sorted([sign * (worst - margin), sign * (best + margin)]) if margin else None
        self.study = optuna.create_study(direction=merged.direction)
        for trial, value in zip(trials, values, strict=True):
            trial.state, trial.value = TrialState.COMPLETE, sign * max(value, worst)
            self.study.add_trial(trial)

    @cached_property
    def figures(self) -> dict[str, list["go.Figure"]]:
        """All that there are trials enough for."""
        return {"history": history([self]), "curves": _curves(self), **_by_parameter(self)}


def merge(
    rows: Sequence[Row], sweep: Sweep, part: slice = slice(None), name: str | None = None
) -> Study:
    """The trials that have begun as one study, in that order, with some of their objectives; the
    setting that the sweep is stratified by is a parameter."""
    strata = CategoricalDistribution([stratum.value for stratum in sweep.search.strata])
    clones = []
    for stratum, trial in sorted(rows, key=lambda row: row[1].datetime_start or datetime.min):
        clone, owner = copy.copy(trial), trial.user_attrs.get(OWNER, {})
        clone.values = trial.values[part] if trial.values else None
        clone.params = settings((stratum, trial), sweep.stratify)
        clone.distributions = {sweep.stratify: strata} if sweep.stratify else {}
        clone.distributions |= trial.distributions
        clone.user_attrs = {"trial": stratum.label(trial), **recorded(trial)}
        clone.user_attrs["worker"] = f"{owner.get('host', '')} {owner.get('pid', '')}"
        clone.user_attrs |= {"why": trial.user_attrs[WHY]} if WHY in trial.user_attrs else {}
        clones += [clone] if trial.datetime_start else []
    for key in {key for clone in clones for key in clone.params}:
        having = [clone for clone in clones if key in clone.params]
        axes: list[Any] = [clone.distributions[key] for clone in having]
        kinds = [getattr(axis, "choices", None) or axis.log for axis in axes]
        if any(kind != kinds[0] for kind in kinds):  # strata search it differently
            words = CategoricalDistribution(list({str(clone.params[key]): 0 for clone in having}))
            for clone in having:
                clone.params[key], clone.distributions[key] = str(clone.params[key]), words
    directions = sweep.search.head.directions[part]
    study = optuna.create_study(study_name=name, directions=directions)
    study.add_trials(clones)
    return study


def history(views: Sequence[View]) -> list["go.Figure"]:
    """The values of complete trials by number, and the best so far, for each stratum."""
    studies = []
    for view in views:
        for stratum in view.sweep.search.strata:
            name = f"{view.sweep.folder.name} {stratum.value}" if len(views) > 1 else stratum.value
            rows = [(stratum, trial) for trial in stratum.trials()]
            studies.append(merge(rows, view.sweep, view.part, name))
    if not any(study.get_trials(states=(TrialState.COMPLETE,)) for study in studies):
        return []
    figure = optuna.visualization.plot_optimization_history(studies, target_name=views[0].name)
    colours = [colour for colour in COLOURS for _ in range(3)]  # each study has three traces
    shown = views[0].range if len(views) == 1 else None
    return [figure.update_layout(colorway=colours).update_yaxes(range=shown)]


def _curves(view: View) -> list["go.Figure"]:
    """What the trials reported, by step."""
    study = merge(view.sweep.search.trials(), view.sweep)
    trials = {f"Trial{t.number}": t for t in study.trials if t.intermediate_values}
    if not trials:
        return []
    figure = optuna.visualization.plot_intermediate_values(study)
    strata = [stratum.value for stratum in view.sweep.search.strata]
    for trace in figure.data:
        trial = trials[trace.name]
        i = strata.index(trial.params.get(view.sweep.stratify, ""))
        trace.name = f"{trial.user_attrs['trial']} {trial.state.name}"
        trace.line.color = COLOURS[i % len(COLOURS)]
        trace.opacity = 0.3 if trial.state == TrialState.PRUNED else 1.0
    return [figure.update_yaxes(title=view.name, range=view.range)]


def _by_parameter(view: View) -> dict[str, list["go.Figure"]]:
    """What shows the parameters that had several values."""
    # It imports scikit-learn, which takes seconds.
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    draw = optuna.visualization
    study, trials, figures = view.study, view.study.trials, {}
    tried = sorted({(key, str(value)) for trial in trials for key, value in trial.params.items()})
    keys = [key for key, _ in tried]
    names = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if names:
        drawn = draw.plot_parallel_coordinate(study, target_name=view.name)
        figures["parallel"] = [drawn.update_annotations(bgcolor="white")]
        parts = [names[i : i + MAX_PARAMS] for i in range(0, len(names), MAX_PARAMS)]
        slices = [draw.plot_slice(study, part, target_name=view.name) for part in parts]
        figures["slices"] = [drawn.update_layout(width=None, height=340) for drawn in slices]
    n_top = max(N_TOP, len(trials) // 10)
    if names and len(trials) >= MIN_TRIALS and len({trial.value for trial in trials}) > n_top:
        evaluator = PedAnovaImportanceEvaluator(target_quantile=n_top / len(trials))
        drawn = draw.plot_param_importances(study, evaluator, names)
        figures["importances"] = [drawn.update_xaxes(title=f"Importance for {view.name}")]
        shared = [name for name in names if all(name in trial.params for trial in trials)]
        ranked = list(get_param_importances(study, evaluator=evaluator, params=shared))
        if len(ranked) > 1:
            some = optuna.create_study(directions=study.directions)
            some.add_trials(trials[:: len(trials) // MAX_CONTOUR_TRIALS + 1])
            drawn = draw.plot_contour(some, ranked[:MAX_PARAMS], target_name=view.name)
            height = 80 + 230 * min(len(ranked), MAX_PARAMS)
            figures["contours"] = [drawn.update_layout(height=height)]
    return figures


def timeline(sweep: Sweep) -> list["go.Figure"]:
    """What each worker did when, lost trials included."""
    strata = [stratum for studies in sweep.phases.values() for stratum in studies.strata]
    study = merge([(s, trial) for s in strata for trial in s.study.trials], sweep)
    workers = [trial.user_attrs["worker"] for trial in study.trials]
    if not workers:
        return []
    figure = optuna.visualization.plot_timeline(study)
    for bars in figure.data:
        bars.y = [workers[number] for number in bars.y]
    height = 130 + 36 * len(set(workers))
    return [figure.update_layout(barmode="overlay", yaxis_title=None, height=height)]
