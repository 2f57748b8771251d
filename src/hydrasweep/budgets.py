"""The figures of a report that show the parameters, each of trials after the same step.

Trials that a pruner stopped have seen fewer steps than the others, and mostly look worse for that
alone: with all at their last values, the figures would show whom the pruner let go on.
"""

import math
import random
from functools import cached_property
from statistics import stdev
from typing import TYPE_CHECKING

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.plots import Sweep, limits, merge

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_STEPS = 4  # to choose from
MAX_PARAMS = 4  # in a figure
MAX_CONTOUR_TRIALS = 100  # a browser takes a minute for a few hundred
N_TOP = 5  # so many of the best PED-ANOVA wants at least, to compare them with the others
# A half of them has as many others beside the best. In simulated searches of four parameters, the
# one that mattered came first in 85 of 100 with 20 trials, in 65 with 10 and in 95 with 30.
MIN_TRIALS = 4 * N_TOP
N_HALVES = 20  # takes 0.1 s


class Budget:
    """One objective of the trials that came to a step, with the value that each had after it.

    ``step`` None: of complete trials, with their final values. In ``study`` all are complete; a
    trial that diverged would flatten all others, so its value is the worst of ``plots.limits``.
    """

    def __init__(self, sweep: Sweep, i: int, step: int | None) -> None:
        self.step, name = step, sweep.objectives[i]
        self.target = name if step is None else f"{name} after step {step}"
        merged = merge(sweep.search.trials(), sweep, slice(i, i + 1))
        seen = [(trial, _value(trial, step)) for trial in merged.trials]
        finite = [(trial, v) for trial, v in seen if v is not None and math.isfinite(v)]
        low, high = limits([value for _, value in finite], merged.direction)
        self.study = optuna.create_study(direction=merged.direction)
        self.study.add_trials(
            create_trial(
                value=min(max(value, low), high),
                params=trial.params,
                distributions=trial.distributions,
            )
            for trial, value in finite
        )

    @property
    def label(self) -> str:
        """What is compared, in words."""
        n = len(self.study.trials)
        if self.step is not None:
            return f"After step {self.step}, which {n} trials reached"
        return f"Final values of {n} complete trials, as there is no step that all trials reported"

    @cached_property
    def figures(self) -> dict[str, list["go.Figure"]]:
        """All that there are trials enough for."""
        trials = self.study.trials
        tried = sorted({(key, str(value)) for t in trials for key, value in t.params.items()})
        keys = [key for key, _ in tried]
        names = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
        if not names:
            return {}
        draw, figures = optuna.visualization, {}
        drawn = draw.plot_parallel_coordinate(self.study, target_name=self.target)
        figures["parallel"] = [drawn.update_annotations(bgcolor="white")]
        parts = [names[i : i + MAX_PARAMS] for i in range(0, len(names), MAX_PARAMS)]
        slices = [draw.plot_slice(self.study, part, target_name=self.target) for part in parts]
        figures["slices"] = [drawn.update_layout(width=None, height=340) for drawn in slices]
        if len(trials) < MIN_TRIALS or len({trial.value for trial in trials}) <= _n_top(trials):
            return figures
        figures["importances"] = [_importances(self.study, names, self.target)]
        shared = [name for name in names if all(name in trial.params for trial in trials)]
        if len(shared) > 1:
            figures["contours"] = [_contours(self.study, shared, self.target)]
        return figures


def steps(sweep: Sweep) -> list[int | None]:
    """The steps after which trials are compared: the last that all of them reported, which is a
    pruner's first rung, then some of those at which others ended. [None]: there is none."""
    trials = [trial for _, trial in sweep.search.trials() if trial.intermediate_values]
    ended = [t for t in trials if t.state not in (TrialState.FAIL, TrialState.RUNNING)]
    reported = [set(trial.intermediate_values) for trial in ended]
    if not (shared := set.intersection(*reported) if reported else None):
        return [None]
    later = sorted({max(each) for each in reported} - shared, reverse=True)
    return [max(shared), *later[:: len(later) // MAX_STEPS + 1][: MAX_STEPS - 1][::-1]]


def budgets(sweep: Sweep) -> list[list[Budget]]:
    """For each step its budgets, one for each objective."""
    n = len(sweep.objectives)
    return [[Budget(sweep, i, step) for i in range(n)] for step in steps(sweep)]


def _value(trial: FrozenTrial, step: int | None) -> float | None:
    if step is None:
        return trial.values[0] if trial.state == TrialState.COMPLETE else None
    return None if trial.state == TrialState.FAIL else trial.intermediate_values.get(step)


def _n_top(trials: list[FrozenTrial]) -> int:
    """How many of the best are compared with the others."""
    return max(N_TOP, len(trials) // 10)


def _by_importance(trials: list[FrozenTrial], names: list[str], like: Study) -> dict[str, float]:
    """The importance of those parameters that the trials have, the most important first."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction=like.direction)
    study.add_trials(trials)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_n_top(trials) / len(trials))
    had = [name for name in names if any(name in trial.params for trial in trials)]
    return get_param_importances(study, evaluator=evaluator, params=had)


def _importances(study: Study, names: list[str], target: str) -> "go.Figure":
    """Importances with their standard errors: what those of random halves of the trials vary by,
    which in simulated searches is what the whole's vary by from search to search."""
    from optuna.importance import PedAnovaImportanceEvaluator

    trials, rng = study.trials, random.Random(0)
    halves = [rng.sample(trials, len(trials) // 2) for _ in range(N_HALVES)]
    found = [_by_importance(half, names, study) for half in halves]
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_n_top(trials) / len(trials))
    drawn = optuna.visualization.plot_param_importances(study, evaluator, names)
    (bars,) = drawn.data
    errors = [stdev(each.get(name, 0.0) for each in found) for name in bars.y]
    bars.error_x = {"array": errors, "arrayminus": [*map(min, errors, bars.x)]}
    bars.text = None  # the lines of the errors would go through it
    rows = zip(bars.y, bars.x, errors, strict=True)
    words = [f"{name}  {share:.2f} ± {error:.2f}" for name, share, error in rows]
    drawn.update_yaxes(title=None, tickvals=bars.y, ticktext=words)
    return drawn.update_xaxes(title=f"Importance for {target}")


def _contours(study: Study, names: list[str], target: str) -> "go.Figure":
    trials = study.trials
    ranked = list(_by_importance(trials, names, study))[:MAX_PARAMS]
    some = optuna.create_study(direction=study.direction)
    some.add_trials(trials[:: len(trials) // MAX_CONTOUR_TRIALS + 1])
    drawn = optuna.visualization.plot_contour(some, ranked, target_name=target)
    return drawn.update_layout(height=80 + 230 * len(ranked))
