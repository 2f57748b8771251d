"""The report's figures: Optuna's own where it has them, one colour for each stratum."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import plotly.colors
import plotly.graph_objects as go
from optuna import visualization as optuna_plots
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from hydrasweep.report.sweep import PRUNED, Sweep, complete, counted, snapshot
from hydrasweep.search.heartbeat import OWNER
from hydrasweep.search.queue import DROPPED, Stratum

COLOURS, GREY = plotly.colors.qualitative.D3, "#b8bdc6"
STATES = {"COMPLETE": COLOURS[0], "PRUNED": GREY, "FAIL": COLOURS[3], "RUNNING": COLOURS[2]}
FONT = "Helvetica Neue, Arial, sans-serif"
LOG_FACTOR = 8.0  # a parameter whose values span so much gets a logarithmic axis
MAX_CONTOUR_PARAMS = 4


def coloured(sweep: Sweep) -> Iterator[tuple[Stratum, str]]:
    """Each stratum and its colour, the same in all figures."""
    return zip(sweep.strata, itertools.cycle(COLOURS), strict=False)


def finish(figure: go.Figure, height: int) -> go.Figure:
    """Give a figure the look that all share."""
    figure.update_xaxes(zeroline=False).update_yaxes(zeroline=False)
    return figure.update_layout(
        template="plotly_white", title=None, height=height, font={"family": FONT, "size": 12},
        margin={"l": 70, "r": 20, "t": 60, "b": 50}, hoverlabel_align="left",
    )  # fmt: skip


def grid(rows: Sequence[Sequence[go.Figure]], titles: Sequence[str], height: int) -> go.Figure:
    """Figures in rows that share their axes, with a column for each title."""
    if not any(cell.data for row in rows for cell in row):
        return go.Figure()
    figure = make_subplots(
        len(rows), len(titles), column_titles=list(titles), shared_xaxes="rows", shared_yaxes=True,
        horizontal_spacing=0.03, vertical_spacing=0.25 / len(rows),
    )  # fmt: skip
    for (r, row), (c, _) in itertools.product(enumerate(rows), enumerate(titles)):
        place = {"row": r + 1, "col": c + 1}
        figure.add_traces(row[c].data, rows=place["row"], cols=place["col"])
        figure.update_xaxes(row[c].layout.xaxis, showticklabels=True, **place)
        figure.update_yaxes(row[c].layout.yaxis, **place)
        if c:
            figure.update_yaxes(title=None, **place)
    return finish(figure, height * len(rows) + 60)


def history(sweep: Sweep) -> go.Figure:
    """Values by trial number, with the best so far."""
    figure = go.Figure()
    for stratum, colour in coloured(sweep):
        pruned = [trial for trial in counted(stratum.study) if PRUNED in trial.user_attrs]
        x, y = [trial.number for trial in pruned], [trial.value for trial in pruned]
        traces = [go.Scatter(x=x, y=y, mode="markers", marker_symbol="circle-open")] * bool(x)
        if complete(stratum.trials()):
            traces += optuna_plots.plot_optimization_history(stratum.study).data[:2]
        for trace in traces:
            trace.update(
                name=stratum.value or "all", legendgroup=stratum.value, marker_color=colour,
                line={"color": colour, "shape": "hv"}, showlegend=trace is traces[-1],
            )  # fmt: skip
        figure.add_traces(traces)
    figure.update_xaxes(title="trial number")
    figure.update_yaxes(title=sweep.objectives[0], range=sweep.range)
    return finish(figure, 420)


def curves(sweep: Sweep) -> go.Figure:
    """The objective by epoch."""
    cells = []
    for stratum, colour in coloured(sweep):
        trials = [trial for trial in stratum.trials() if trial.intermediate_values]
        study = snapshot(stratum.study, trials)
        cell = optuna_plots.plot_intermediate_values(study) if trials else go.Figure()
        for trace, trial in zip(cell.data, trials, strict=True):
            shade = GREY if trial.state == TrialState.PRUNED else colour
            dash = "dot" if trial.state == TrialState.RUNNING else "solid"
            trace.update(
                name=f"{stratum.label(trial.number)} {trial.state.name}", showlegend=False,
                marker={"color": shade, "size": 5}, zorder=int(shade != GREY),
                line={"color": shade, "width": 1.5, "dash": dash},
            )  # fmt: skip
        cells.append(cell.update_layout(xaxis_title="epoch", yaxis_title=sweep.objectives[0]))
    return grid([cells], [s.value for s in sweep.strata], 360)


def pareto(sweep: Sweep) -> go.Figure:
    """Two objectives against each other; grey is what another trial beats."""
    cells = []
    for stratum, colour in coloured(sweep):
        study = snapshot(stratum.study, counted(stratum.study))
        names = list(sweep.objectives)
        cell = optuna_plots.plot_pareto_front(study, target_names=names)
        for trace, shade in zip(cell.data, (GREY, colour), strict=True):
            trace.marker = {"color": shade, "size": 9}
        cells.append(cell if study.trials else go.Figure())
    return grid([cells], [s.value for s in sweep.strata], 360)


def importances(sweep: Sweep) -> go.Figure:
    """How much each parameter matters, in each stratum that can tell."""
    figure = go.Figure()
    for stratum, colour in coloured(sweep):
        if len(trials := counted(stratum.study)) > 1:
            drawn = optuna_plots.plot_param_importances(snapshot(stratum.study, trials))
            drawn.update_traces(name=stratum.value or "all", marker_color=colour)
            figure.add_traces(drawn.data)
    figure.update_xaxes(title=f"importance for {sweep.objectives[0]}")
    figure.update_yaxes(automargin=True)
    return finish(figure.update_layout(legend_traceorder="reversed"), 380)


def parallel(sweep: Sweep) -> go.Figure:
    """All parameters and the objectives, a line for each trial, all strata together."""
    choices = CategoricalDistribution([stratum.value for stratum in sweep.strata])
    trials = []
    for stratum in sweep.strata:
        for trial in counted(stratum.study):
            if len(sweep.strata) > 1:
                trial.params = {sweep.stratify: stratum.value, **trial.params}
                trial.distributions = {sweep.stratify: choices, **trial.distributions}
            trials.append(trial)
    if not trials:
        return go.Figure()
    study = snapshot(sweep.strata[0].study, trials)
    figure = optuna_plots.plot_parallel_coordinate(study, target_name=sweep.objectives[0])
    # The ends' labels would lie over those of powers of ten beside them.
    notes = figure.layout.annotations
    figure.layout.annotations = [a for a in notes if a.y in (0, 1) or 0.04 < a.y < 0.96]
    return finish(figure.update_annotations(bgcolor="rgba(255,255,255,0.8)"), 480)


def by_parameters(
    sweep: Sweep,
    chosen: Sequence[Sequence[str]],
    draw: Callable[[Study, list[str], str], go.Figure],
) -> go.Figure:
    """A row of ``draw(study, names, colour)`` for each choice of parameters, a column for each
    stratum; empty where no two values were tried."""
    rows = []
    for names in map(list, chosen):
        row = []
        for stratum, colour in coloured(sweep):
            trials = [t for t in counted(stratum.study) if set(names) <= set(t.params)]
            for trial in trials:
                trial.distributions = {k: as_range(d) for k, d in trial.distributions.items()}
            tried = min(len({trial.params[name] for trial in trials}) for name in names)
            study = snapshot(stratum.study, trials)
            row.append(draw(study, names, colour) if tried > 1 else go.Figure())
        rows.append(row)
    return grid(rows, [s.value for s in sweep.strata], 260)


def slices(sweep: Sweep) -> go.Figure:
    """The objective by each parameter, in each stratum."""

    def draw(study: Study, names: list[str], colour: str) -> go.Figure:
        cell = optuna_plots.plot_slice(study, names, target_name=sweep.objectives[0])
        trace, shades = cell.data[0], shades_of(study, colour)
        trace.marker = {"color": [shades[number] for number in trace.marker.color], "size": 8}
        return cell.update_xaxes(ticks(searched[names[0]])).update_yaxes(range=sweep.range)

    searched = parameters(sweep)
    return by_parameters(sweep, [[name] for name in searched], draw)


def contours(sweep: Sweep) -> go.Figure:
    """The objective over each pair of numeric parameters, in each stratum."""

    def draw(study: Study, names: list[str], _: str) -> go.Figure:
        cell = optuna_plots.plot_contour(study, names, target_name=sweep.objectives[0])
        area, points, _ = cell.data
        area.update(coloraxis="coloraxis", line_width=0.5)
        edge = {"width": 1, "color": "white"}
        points.marker = {"color": shades_of(study, "black"), "size": 7, "line": edge}
        cell.update_xaxes(ticks(searched[names[0]]), range=None)
        return cell.update_yaxes(ticks(searched[names[1]]), range=None)

    searched = parameters(sweep)
    numeric = [name for name, d in searched.items() if not is_words(d)]
    pairs = list(itertools.combinations(sorted(numeric[:MAX_CONTOUR_PARAMS]), 2))
    axis = dict(zip(("cmin", "cmax"), sweep.range or (None, None), strict=True))
    return by_parameters(sweep, pairs, draw).update_layout(
        coloraxis={"colorscale": "Blues", "reversescale": sweep.sign < 0, **axis},
        coloraxis_colorbar_title=sweep.objectives[0],
    )


def timeline(sweep: Sweep) -> go.Figure:
    """What each worker did when, lost trials included."""
    begun = [
        (phase, stratum, trial)
        for phase, strata in sweep.phases.items()
        for stratum in strata
        for trial in stratum.study.trials
        if trial.datetime_start
    ]
    if not begun:
        return go.Figure()
    study = snapshot(sweep.strata[0].study, [trial for _, _, trial in begun])
    figure = optuna_plots.plot_timeline(study)
    for bars in figure.data:
        rows = [begun[number] for number in bars.y]
        bars.y = [worker(phase, trial) for phase, _, trial in rows]
        bars.text = [
            f"{phase} {s.label(t.number)} {t.user_attrs.get(DROPPED, '')}" for phase, s, t in rows
        ]
        bars.marker.color = STATES[bars.name]
    figure.update_layout(barmode="overlay", xaxis_title=None, yaxis_title=None)
    figure.update_yaxes(type="category", categoryorder="category descending", automargin=True)
    return finish(figure, 130 + 36 * len({worker(phase, trial) for phase, _, trial in begun}))


def worker(phase: str, trial: FrozenTrial) -> str:
    """The process that a trial was trained by."""
    owner = trial.user_attrs.get(OWNER, {"host": "unknown", "pid": ""})
    return f"{owner['host']} {owner['pid']}" + ("" if phase == "search" else f" ({phase})")


def compared(sweeps: Sequence[Sweep]) -> go.Figure:
    """The best so far of several sweeps, against wall time and trial number, by stratum."""
    strata = list(dict.fromkeys(s.value for sweep in sweeps for s in sweep.strata))
    rows: list[list[go.Figure]] = []
    for by in ("minutes since the sweep began", "trial number"):
        row: list[go.Figure] = []
        for value in strata:
            cell = go.Figure()
            for sweep, colour in zip(sweeps, itertools.cycle(COLOURS), strict=False):
                x, y = so_far(sweep, value, by)
                cell.add_scatter(
                    x=x, y=y, line={"color": colour, "shape": "hv"}, mode="lines",
                    name=sweep.name, legendgroup=sweep.name, showlegend=not row and not rows,
                )  # fmt: skip
            title = f"best {sweeps[0].objectives[0]} so far"
            row.append(cell.update_layout(xaxis_title=by, yaxis_title=title))
        rows.append(row)
    return grid(rows, strata, 320)


def so_far(sweep: Sweep, stratum: str, by: str) -> tuple[list[float], list[float]]:
    """When each trial ended, or its number, and the best complete value until then."""
    begun = [t.datetime_start for s in sweep.strata for t in s.trials() if t.datetime_start]

    def place(trial: FrozenTrial) -> float:
        if by == "trial number":
            return trial.number
        return (trial.datetime_complete - min(begun)).total_seconds() / 60  # type: ignore

    ended = [t for t in sweep.trials("search", stratum) if t.state.is_finished()]
    ended.sort(key=place)
    worst = -sweep.sign * float("inf")  # plotly leaves it out
    values = [t.values[0] if t.state == TrialState.COMPLETE else worst for t in ended]
    best = itertools.accumulate(values, max if sweep.sign > 0 else min)
    return list(map(place, ended)), list(best)


def shades_of(study: Study, colour: str) -> list[str]:
    return [GREY if PRUNED in trial.user_attrs else colour for trial in study.trials]


def parameters(sweep: Sweep) -> dict[str, Any]:
    """The distributions that were searched, in the order of the space."""
    trials = [trial for stratum in sweep.strata for trial in stratum.trials()]
    return {name: d for trial in trials for name, d in trial.distributions.items()}


def is_words(distribution: BaseDistribution) -> bool:
    """Whether there is a choice that is no number."""
    choices = getattr(distribution, "choices", ())
    return any(type(choice) not in (int, float) for choice in choices)


def as_range(distribution: Any) -> Any:
    """What the axis of a parameter spans, logarithmic or not; choices of words stay such."""
    if is_words(distribution):
        return distribution
    ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
    low, high = min(ends), max(ends)
    log = getattr(distribution, "log", False) or (low > 0 and high / low >= LOG_FACTOR)
    return FloatDistribution(low, high, log=log)


def ticks(distribution: Any) -> dict[str, Any]:
    """The ticks of a parameter's axis; plotly's own are hard to read on short logarithmic axes."""
    points = getattr(distribution, "choices", None)
    if is_words(distribution) or not (points or as_range(distribution).log):
        return {}
    points = points or [step * 10.0**decade for decade in range(-12, 12) for step in (1, 3)]
    return {"tickvals": points, "ticktext": [f"{point:g}" for point in points]}
