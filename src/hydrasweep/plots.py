"""The figures of a report: Optuna's own, of all strata in one study.

Those that show the parameters are in ``budgets``.
"""

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
    """One objective of a sweep's search, its values on an axis of ``range``."""

    def __init__(self, sweep: Sweep, i: int) -> None:
        self.sweep, self.part, self.name = sweep, slice(i, i + 1), sweep.objectives[i]
        trials = [trial for _, trial in sweep.search.trials() if trial.values]
        values = [t.values[i] for t in trials if math.isfinite(t.values[i])]
        low, high = limits(values, sweep.search.head.directions[i])
        margin = 0.05 * (high - low)
        self.range = [low - margin, high + margin] if margin else None

    @cached_property
    def figures(self) -> dict[str, list["go.Figure"]]:
        """All that there are trials enough for."""
        return {"history": history([self]), "curves": _curves(self)}


def limits(values: Sequence[float], direction: StudyDirection) -> tuple[float, float]:
    """The ends of an axis. A trial that diverged would flatten all others: the worse end is no
    further away than Tukey's fence."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    first, _, third = quantiles(values if len(values) > 1 else (0, 0), n=4, method="inclusive")
    if (reach := 1.5 * (third - first)) and direction == StudyDirection.MAXIMIZE:
        return max(low, first - reach), high
    return low, min(high, third + reach) if reach else high


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
