"""The report's figures: Optuna's own, of all strata in one study."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import quantiles
from typing import Any

import optuna
import plotly.colors
import plotly.graph_objects as go
from optuna import visualization as draw
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.liveness import OWNER
from hydrasweep.results import Row, settings
from hydrasweep.snapshot import Sweep
from hydrasweep.stratum import WHY
from hydrasweep.trials import recorded

COMPLETE, PRUNED = TrialState.COMPLETE, TrialState.PRUNED
COLOURS = plotly.colors.qualitative.D3
SCALARS = (str, int, float, bool, type(None))
N_TOP = 5  # trials: what Optuna's PED-ANOVA wants at least to compare with the others
MIN_TRIALS = 4 * N_TOP  # for an importance or a contour that is more than chance
N_SLICES, N_CONTOURS = 4, 4  # parameters in one figure
MAX_CONTOUR_TRIALS = 100  # a browser takes a minute for a few hundred


def merge(
    rows: Sequence[Row],
    stratify: str | None,
    directions: Sequence[StudyDirection],
    counted: Sequence[TrialState] | None = None,
) -> Study:
    """Trials that have begun as one study, in that order, with ``stratify`` as a parameter.

    ``counted`` are the states of those that Optuna's plots are to take for complete, and no
    others: of themselves they leave out pruned ones, which may be nearly all.
    """
    study = optuna.create_study(directions=directions)
    rows = in_order(rows)
    axes = _axes(rows, stratify)
    for stratum, trial in rows:
        clone = copy.copy(trial)
        clone.params = {name: axes[name][1][v] for name, v in settings((stratum, trial), stratify)}
        study.add_trial(clone)
    return study


