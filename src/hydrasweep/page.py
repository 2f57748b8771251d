"""The report of a sweep, or of several side by side: one HTML file that needs nothing else.

Its words stand in ``page.html``.
"""

import base64
import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs

from hydrasweep import files, plots, results
from hydrasweep.output import as_duration, short
from hydrasweep.snapshot import Sweep, read
from hydrasweep.trials import n_steps, recorded
from hydrasweep.winners import overall

FONT = "Helvetica Neue, Arial, sans-serif"
BUTTONS = ["toImage", "zoom2d", "pan2d", "resetScale2d"]  # plotly's others can upload the data
SECRET = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)|((?:passw\w*|secret|token|api_?key)\W+)\S.*", re.I)
MAX_PICTURES = 8  # of each winner
PNG = b"\x89PNG"

Table = list[dict[str, Any]]  # a row's cells by their heads


def write(folder: Path) -> Path:
    """Write ``report.html`` for the sweep in ``folder``, as it is now; give its path.

    Raises:
        UserError: there is no sweep, or it can't be read.
    """
    sweep, path = read(folder), folder / "report.html"
    files.write(path, _render([sweep]))
    return path


def compare(folders: Sequence[Path]) -> Path:
    """Write a page that compares sweeps, beside the folder of the first; give its path.

    Raises:
        UserError: one of them is no sweep, or can't be read.
    """
    names = "-".join(folder.resolve().name for folder in folders)
    path = folders[0].resolve().with_name(f"compare-{names}.html")
    files.write(path, _render([read(folder) for folder in folders]))
    return path


def _render(sweeps: Sequence[Sweep]) -> str:
    views = [plots.View(sweep, i) for sweep in sweeps for i in range(len(sweep.objectives))]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters |= {"plot": _plot, "masked": _masked, "short": short, "steps": n_steps}
    found = [{"sweep": sweep.name} | row for sweep in sweeps for row in _results(sweep)]
    first = sweeps[0]
    groups = {stratum.value: stratum.trials() for stratum in first.search.strata}
    groups["all"] = [trial for _, trial in first.search.trials()]
    kept = first.folder / "environment.yaml"
    return environment.get_template("page.html").render(
        sweeps=sweeps,
        views=views,
        plots=plots,
        saved=results.saved,
        duration=as_duration,
        seconds        results=found,
        verdict=_verdict(first),
        groups=groups,
        pictures=_pictures(first),
        config=_config(first),
        versions=OmegaConf.load(kept) if kept.exists() else {},
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        font=FONT,
        plotly=Markup(get_plotlyjs()),
    )


def _plot(figure: go.Figure) -> Markup:
    figure.update_layout(template="plotly_white", title=None, font_family=FONT)
    figure.update_layout(margin={"l": 70, "r": 20, "t": 40, "b": 50})
    settings = {"responsive": True, "displaylogo": False, "modeBarButtons": [BUTTONS]}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=settings))


def _masked(text: str) -> str:
    """The text without passwords, as far as they can be told."""
    return SECRET.sub(r"\1\2***", text)


def _results(sweep: Sweep) -> Table:
    """The winner of each stratum; with several objectives, what no other trial beats."""
    names, by = sweep.objectives, sweep.stratify or ""
    if len(names) > 1:
        best = plots.merge(sweep.search.trials(), sweep).best_trials
        return [
            {"trial": trial.user_attrs["trial"], **dict(zip(names, trial.values, strict=True))}
            | {"settings": trial.params}
            for trial in best
        ]
    rows: Table = []
    for stratum in sweep.search.strata:
        row: dict[str, Any] = {by: stratum.value or "all", f"{names[0]} confirmed": ""}
        winner = sweep.winners.get(stratum.value)
        for trial in [winner.found] if winner else results.best(stratum):
            state = " (pruned)" if winner and winner.was_pruned else ""
            row |= {f"{names[0]} in the search": trial.values[0], "in trial": f"{trial.number}{state}"}
            row |= winner.recorded if winner else recorded(trial)
            row["settings"] = trial.params
        if winner:
            failed = f", failed on {winner.n_failed} seeds" if winner.n_failed else ""
            row[f"{names[0]} confirmed"] = f"{winner.confirmed}{failed}"
        states = [trial.state.name for trial in stratum.trials()]
        row |= {state.lower(): states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
        rows.append(row)
    return rows


def _verdict(sweep: Sweep) -> str:
    """Whether the winner's lead over the second is more than chance."""
    if len(found := list(sweep.winners)) < 2:
        return ""
    best = overall(found, sweep.directions[0])
    second = overall([winner for winner in found if winner is not best], sweep.directions[0])
    a, b = best.confirmed, second.confirmed
    told = f"{best.stratum} leads {second.stratum} by {abs(a.mean - b.mean):.4f} on fresh seeds"
    if a.sd is None or b.sd is None:
        return f"{told}; single seeds can't tell whether by chance."
    error = math.hypot(a.sd / len(a.values) ** 0.5, b.sd / len(b.values) ** 0.5)
    if abs(a.mean - b.mean) < 2 * error:
        return f"{told}, less than two standard errors of the difference ({error:.4f}): it may be chance."
    return f"{told}, more than two standard errors of the difference ({error:.4f})."


def _pictures(sweep: Sweep) -> dict[str, str]:
    """The PNG files that each winner's first final trial left, in base64."""
    found = {}
    for winner in sweep.winners.values():
        folder = sweep.folder / winner.folder() if winner.final else None
        for path in sorted(folder.rglob("*.png"))[:MAX_PICTURES] if folder else ():
            if (content := path.read_bytes()).startswith(PNG):
                found[str(path.relative_to(sweep.folder))] = base64.b64encode(content).decode()
    return found


def _config(sweep: Sweep) -> str:
    """What the sweep was told, with what of Hydra's own settings concerns it."""
    plain: Any = OmegaConf.to_container(sweep.config)
    of_hydra = plain.pop("hydra")
    kept = {key: of_hydra[key] for key in ("overrides", "launcher", "sweeper") if key in of_hydra}
    return OmegaConf.to_yaml(plain | {"hydra": kept})
