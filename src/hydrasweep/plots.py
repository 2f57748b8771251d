"""The report's figures: Optuna's own where it has them, one colour for each stratum."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import plotly.colors
import plotly.graph_objects as go
from optuna import visualization as optuna_plots
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import TrialState
from plotly.subplots import make_subplots

from hydrasweep.report.source import PRUNED, Sweep, complete, counted, snapshot
from hydrasweep.search.heartbeat import OWNER
from hydrasweep.search.queue import DROPPED, Stratum

COLOURS, GREY = plotly.colors.qualitative.D3, "#b8bdc6"
STATES = {"COMPLETE": COLOURS[0], "PRUNED": GREY, "FAIL": COLOURS[3], "RUNNING": COLOURS[2]}
FONT = "Helvetica Neue, Arial, sans-serif"
LOG_FACTOR = 8.0  # a parameter whose values span so much gets a logarithmic axis
MAX_CONTOUR_PARAMS, MAX_CONTOUR_TRIALS = 4, 100  # a browser takes a minute for a few hundred
TIME, NUMBER = "minutes since the sweep began", "trial number"


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
    for (r, row), (c, _) in itertools.product(enumerate(rows, 1), enumerate(titles, 1)):
        cell = row[c - 1]
        figure.add_traces(cell.data, rows=r, cols=c)
        figure.update_xaxes(cell.layout.xaxis, row=r, col=c, showticklabels=True)
        figure.update_yaxes(cell.layout.yaxis, row=r, col=c)
        if c > 1:
            figure.update_yaxes(title=None, row=r, col=c)
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
    figure.update_xaxes(title=NUMBER)
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
        step = max(1, max((trial.last_step or 0 for trial in trials), default=0) // 6)
        cell.update_xaxes(title="epoch", dtick=step)
        cells.append(cell.update_yaxes(title=sweep.objectives[0]))
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
        trials = counted(stratum.study)
        if len({trial.value for trial in trials if trial.params}) > 1:
            drawn = optuna_plots.plot_param_importances(snapshot(stratum.study, trials))
            drawn.update_traces(name=stratum.value or "all", marker_color=colour)
            figure.add_traces(drawn.data)
    figure.update_xaxes(title=f"importance for {sweep.objectives[0]}")
    figure.update_yaxes(automargin=True)
    return finish(figure.update_layout(legend_traceorder="reversed"), 380)


def parallel(sweep: Sweep) -> go.Figure:
    """All parameters and the objectives, a line for each trial, all strata together."""
    strata = CategoricalDistribution([stratum.value for stratum in sweep.strata])
    trials = []
    for stratum in sweep.strata:
        for trial in counted(stratum.study):
            axes = {k: d if choices_of(d) else as_range(d) for k, d in trial.distributions.items()}
            if len(sweep.strata) > 1:
                trial.params = {sweep.stratify: stratum.value, **trial.params}
                axes[sweep.stratify] = strata
            trial.distributions = axes
            trials.append(trial)
    if not trials:
        return go.Figure()
    study = snapshot(sweep.strata[0].study, trials)
    figure = optuna_plots.plot_parallel_coordinate(study, target_name=sweep.objectives[0])
    names, n = figure.layout.xaxis.ticktext, len(sweep.objectives)
    figure.update_xaxes(ticktext=[*sweep.objectives, *names[n:]])
    # The ends' labels would lie over those of powers of ten beside them.
    notes = [a for a in figure.layout.annotations if a.y in (0, 1) or 0.04 < a.y < 0.96]
    figure.layout.annotations = notes
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
        return cell.update_xaxes(ticks(params[names[0]])).update_yaxes(range=sweep.range)

    params = parameters(sweep)
    return by_parameters(sweep, [[name] for name in params], draw)


def contours(sweep: Sweep) -> go.Figure:
    """The objective over each pair of numeric parameters, in each stratum."""

    def draw(study: Study, names: list[str], _: str) -> go.Figure:
        some = study.trials[:: len(study.trials) // MAX_CONTOUR_TRIALS + 1]
        study = snapshot(study, some)
        cell = optuna_plots.plot_contour(study, names, target_name=sweep.objectives[0])
        area, points, _ = cell.data
        area.update(coloraxis="coloraxis", line_width=0.5)
        edge = {"width": 1, "color": "white"}
        points.marker = {"color": shades_of(study, "black"), "size": 7, "line": edge}
        cell.update_xaxes(ticks(params[names[0]]), range=None)
        return cell.update_yaxes(ticks(params[names[1]]), range=None)

    params = parameters(sweep)
    numeric = [name for name, d in params.items() if not choices_of(as_range(d))]
    pairs = list(itertools.combinations(sorted(numeric[:MAX_CONTOUR_PARAMS]), 2))
    low, high = sweep.range or (None, None)
    colours = {"colorscale": "Blues", "reversescale": sweep.sign < 0, "cmin": low, "cmax": high}
    figure = by_parameters(sweep, pairs, draw).update_layout(coloraxis=colours)
    return figure.update_layout(coloraxis_colorbar_title=sweep.objectives[0])


def timeline(sweep: Sweep) -> go.Figure:
    """What each worker did when, lost trials included."""
    trials, workers, texts = [], [], []
    for phase, queue in sweep.phases.items():
        for stratum in queue.strata:
            for trial in (t for t in stratum.study.trials if t.datetime_start):
                owner = trial.user_attrs.get(OWNER, {"host": "unknown", "pid": ""})
                trials.append(trial)
                workers.append(f"{owner['host']} {owner['pid']} {phase}")
                lost = trial.user_attrs.get(DROPPED, "")
                texts.append(f"{stratum.label(trial.number)} {lost}")
    if not trials:
        return go.Figure()
    figure = optuna_plots.plot_timeline(snapshot(sweep.strata[0].study, trials))
    for bars in figure.data:
        bars.text = [texts[number] for number in bars.y]
        bars.y = [workers[number] for number in bars.y]
        bars.marker.color = STATES[bars.name]
    figure.update_layout(barmode="overlay", xaxis_title=None, yaxis_title=None)
    rows = list(dict.fromkeys(workers))[::-1]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=rows, automargin=True)
    return finish(figure, 130 + 36 * len(rows))


def compared(sweeps: Sequence[Sweep]) -> go.Figure:
    """The best so far of several sweeps, against wall time and trial number, by stratum."""
    strata = list(dict.fromkeys(s.value for sweep in sweeps for s in sweep.strata))
    rows = [[so_far(sweeps, value, by) for value in strata] for by in (TIME, NUMBER)]
    figure = grid(rows, strata, 320)
    for trace in figure.data[len(sweeps) :]:
        trace.showlegend = False
    return figure


def so_far(sweeps: Sequence[Sweep], stratum: str, by: str) -> go.Figure:
    """The best complete value, by when each trial ended or by its number."""
    figure = go.Figure()
    for sweep, colour in zip(sweeps, itertools.cycle(COLOURS), strict=False):
        began = [t.datetime_start for s in sweep.strata for t in s.trials() if t.datetime_start]
        points = []
        for trial in [t for s in sweep.strata if s.value == stratum for t in s.trials()]:
            if trial.datetime_complete:
                minutes = (trial.datetime_complete - min(began)).total_seconds() / 60
                # Plotly leaves out what is infinite.
                value = (
                    sweep.sign * trial.values[0]
                    if trial.state == TrialState.COMPLETE
                    else -math.inf
                )
                points.append((minutes if by == TIME else trial.number, value))
        points.sort()
        best = itertools.accumulate((value for _, value in points), max)
        figure.add_scatter(
            x=[x for x, _ in points], y=[sweep.sign * value for value in best], mode="lines",
            name=sweep.name, legendgroup=sweep.name, line={"color": colour, "shape": "hv"},
        )  # fmt: skip
    return figure.update_layout(xaxis_title=by, yaxis_title=f"best {sweeps[0].objectives[0]}")


def shades_of(study: Study, colour: str) -> list[str]:
    return [GREY if PRUNED in trial.user_attrs else colour for trial in study.trials]


def parameters(sweep: Sweep) -> dict[str, Any]:
    """The distributions that were searched, in the order of the space."""
    trials = [trial for stratum in sweep.strata for trial in stratum.trials()]
    return {name: d for trial in trials for name, d in trial.distributions.items()}


def choices_of(distribution: Any) -> Sequence[Any]:
    """The choices of a distribution that has them."""
    return getattr(distribution, "choices", ())


def as_range(distribution: Any) -> Any:
    """What the axis of a parameter spans, logarithmic or not; choices of words stay such."""
    choices = choices_of(distribution)
    if any(type(choice) not in (int, float) for choice in choices):
        return distribution
    ends = choices or (distribution.low, distribution.high)
    log = getattr(distribution, "log", False) or max(ends) >= LOG_FACTOR * min(ends) > 0
    return FloatDistribution(min(ends), max(ends), log=log)


def ticks(distribution: Any) -> dict[str, Any]:
    """The ticks of a parameter's axis; plotly's own are hard to read on short logarithmic axes."""
    axis, points = as_range(distribution), choices_of(distribution)
    if choices_of(axis) or not (points or axis.log):
        return {}
    points = points or [step * 10.0**decade for decade in range(-12, 12) for step in (1, 3)]
    return {"tickvals": points, "ticktext": [f"{point:g}" for point in points]}
