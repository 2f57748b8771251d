"""The report's sections: tables, figures, pictures, and a sentence where something is missing."""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs

from hydrasweep import files
from hydrasweep.report import plots
from hydrasweep.report.source import Sweep, read
from hydrasweep.search import results
from hydrasweep.search.trial import CONFIRM, FINAL

FINAL_METRIC = "test/accuracy"
PICTURES = ("confusion.png", "worst_mistakes.png")
BUTTONS = ["toImage", "zoom2d", "pan2d", "resetScale2d"]  # plotly's others can upload the data
NONE = "—"
COUNTED = "A pruned trial counts with the last value that it reported"


@dataclass(frozen=True)
class Section:
    """A part of the page; ``note`` says how to read it, or what is missing."""

    title: str
    note: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    figures: Sequence[go.Figure] = ()
    pictures: Sequence[tuple[str, str]] = ()  # captions, and PNGs in base64
    text: str = ""


def write(folder: Path) -> Path:
    """Write ``report.html`` for the sweep in ``folder``, as it is now; give its path.

    Raises:
        UserError: there is no sweep.
    """
    sweep, path = read(folder), folder / "report.html"
    files.write(path, render([sweep], sections(sweep)))
    return path


def compare(folders: Sequence[Path]) -> Path:
    """Write a page that compares the sweeps in ``folders`` beside the first; give its path.

    Raises:
        UserError: one of them is no sweep.
    """
    sweeps = [read(folder) for folder in folders]
    path = folders[0].with_name(f"compare-{'-'.join(folder.name for folder in folders)}.html")
    files.write(path, render(sweeps, comparison(sweeps)))
    return path


def render(sweeps: Sequence[Sweep], parts: Iterable[Section]) -> str:
    """A whole HTML page, with plotly's own script in it."""
    lead = []
    for sweep in sweeps:
        counts = []
        for phase, queue in sweep.phases.items():
            if n_trials := queue.states().total():
                counts.append(f"{phase} {queue.n_finished()} of {n_trials}")
        lead.append(f"{sweep.name}: {', '.join(counts)} trials have ended.")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    settings = {"responsive": True, "displaylogo": False, "modeBarButtons": [BUTTONS]}
    environment.filters["plot"] = lambda figure: Markup(
        figure.to_html(full_html=False, include_plotlyjs=False, config=settings)
    )
    return environment.get_template("page.html").render(
        title=" and ".join(f"Sweep {sweep.name}" for sweep in sweeps), lead=" ".join(lead),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"), sections=list(parts),
        plotly=Markup(get_plotlyjs()), font=plots.FONT,
    )  # fmt: skip


def sections(sweep: Sweep) -> Iterator[Section]:
    """All that there is to say of one sweep."""
    views, apart = sweep.by_objective(), f"side by side for each {sweep.stratify}"
    yield result(sweep) if len(views) == 1 else front(sweep)
    yield drawn(
        "Optimisation history", map(plots.history, views), "No trial has a value yet.",
        "Filled: complete; open: pruned, at its last value; line: the best complete so far.",
    )  # fmt: skip
    yield drawn(
        "Learning curves", [plots.curves(sweep)],
        "No trial has reported values by epoch; of several objectives Optuna takes none.",
        "A line for each trial; pruned ones are grey, running ones dotted.",
    )  # fmt: skip
    yield drawn(
        "Hyperparameter importance", map(plots.importances, views),
        "It takes two trials with different values; there are fewer yet.",
        f"Optuna's PED-ANOVA: what sets the best tenth apart; rough for few trials. {COUNTED}.",
    )  # fmt: skip
    yield drawn(
        "Parallel coordinates", [plots.parallel(sweep)], "No trial has a value yet.",
        f"A line for each trial through its settings. {COUNTED}.",
    )  # fmt: skip
    yield drawn(
        "Slices", map(plots.slices, views),
        "It takes two trials with different settings and a value; there are fewer yet.",
        f"The objective by each parameter, {apart}. {COUNTED}, in grey.",
    )  # fmt: skip
    yield drawn(
        "Contours", map(plots.contours, views),
        "It takes two numeric parameters, and two trials with a value that differ in both.",
        f"The objective over pairs of numeric parameters, {apart}; dark is good. {COUNTED}, and "
        "has a grey dot. Of many trials some are left out.",
    )  # fmt: skip
    yield drawn(
        "Timeline of workers", [plots.timeline(sweep)], "No trial has begun yet.",
        "What each worker process did when, in each phase.",
    )  # fmt: skip
    yield pruning(sweep)
    yield pictures(sweep)
    yield configuration(sweep)
    missing = "" if sweep.versions else "The sweep's folder has no environment.yaml."
    yield Section("Versions", missing, rows=list(sweep.versions.items()))


def drawn(title: str, figures: Iterable[go.Figure], missing: str, note: str) -> Section:
    """A section of figures, or what is missing where none has anything in it."""
    some = [figure for figure in figures if figure.data]
    return Section(title, note if some else missing, figures=some)


def result(sweep: Sweep) -> Section:
    """Who won in each stratum, and how well it really does."""
    note = (
        "The search believes the best of many noisy values, which is too good by luck. Confirmed "
        "is the winner on fresh seeds; the test images are scored by the final models alone."
    )
    for phase in (CONFIRM, FINAL):
        if phase not in sweep.phases or not sweep.phases[phase].states()["COMPLETE"]:
            note += f" There is no complete trial of the {phase} phase."
    rows = []
    for stratum in sweep.strata:
        states = [trial.state.name for trial in stratum.trials()]
        counts = [states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")]
        *values, best = scores(sweep, stratum.value)
        rows.append([stratum.value or "all", *values, *counts, best])
    *names, last = score_names(sweep)
    head = [sweep.stratify, *names, "complete", "pruned", "failed", last]
    return Section("Result", note, head, rows)


def score_names(sweep: Sweep) -> list[str]:
    name = sweep.objectives[0]
    believed = (f"{name} in the search", "search minus confirmed")
    return [FINAL_METRIC, f"{name} confirmed", *believed, "best settings"]


def scores(sweep: Sweep, stratum: str) -> list[str]:
    """A winner's test, confirmation and search values, how far the search was off, settings."""
    if winner := sweep.winners.get(stratum):
        tested, confirmed = str(winner.tested or NONE), winner.confirmed
        believed = f"{winner.believed:#.4g}" + (" (pruned)" if winner.was_pruned else "")
        off = f"{winner.believed - confirmed.mean:+#.2g}"
        return [tested, str(confirmed), believed, off, settings(winner.params)]
    rows = [(s, trial) for s in sweep.strata if s.value == stratum for trial in s.trials()]
    for _, trial in results.best(rows):
        return [NONE, NONE, f"{trial.values[0]:#.4g}", NONE, settings(trial.params)]
    return [NONE] * 5


def settings(params: Mapping[str, Any]) -> Markup:
    pairs = [(key, f"{v:.4g}" if isinstance(v, float) else v) for key, v in params.items()]
    return Markup(" ").join(Markup("<span>{}={}</span>").format(*pair) for pair in pairs)


def front(sweep: Sweep) -> Section:
    """What no other trial beats in all objectives."""
    rows = [
        [s.value or "all", t.number, *(f"{v:#.4g}" for v in t.values), settings(t.params)]
        for s in sweep.strata
        for _, t in results.best([(s, trial) for trial in s.trials()])
    ]
    note = "The Pareto front: the trials that no other beats in all objectives."
    head = [sweep.stratify, "trial", *sweep.objectives, "settings"]
    figures = [plots.pareto(sweep)] if rows and len(sweep.objectives) == 2 else []
    return Section("Result", note if rows else "No trial is complete yet.", head, rows, figures)


def pruning(sweep: Sweep) -> Section:
    """The work that pruning saved."""
    groups = {stratum.value: stratum.trials() for stratum in sweep.strata}
    groups["all"] = [trial for trials in groups.values() for trial in trials]
    rows = []
    for name, trials in groups.items():
        n_saved, seconds = results.saved(trials)
        n_epochs, worked = sum(map(results.epochs, trials)), sum(map(results.seconds, trials))
        share = f"{n_saved / max(1, n_saved + n_epochs):.0%}"
        minutes = (f"{worked / 60:.1f}", f"{seconds / 60:.1f}")
        rows += [[name, n_epochs, n_saved, share, *minutes]] if name else []
    note = "Epochs that pruned trials fell short of the longest, and their time at each one's pace."
    names = ("epochs trained", "epochs saved", "share saved", "minutes worked", "minutes saved")
    return Section("Saved by pruning", note, [sweep.stratify, *names], rows)


def pictures(sweep: Sweep) -> Section:
    """Confusions and mistakes of each winner's first final model."""
    found, notes = [], ["Of each winner's final models, those of the first seed."]
    for stratum in sweep.strata:
        winner = sweep.winners.get(stratum.value)
        if not winner or not winner.final:
            notes.append(f"{stratum.value or 'The sweep'} has no complete final trial.")
            continue
        for name in PICTURES:
            path = sweep.folder / winner.folder() / "pictures" / name
            if path.exists():
                caption = f"{stratum.value} {path.stem.replace('_', ' ')}"
                found.append((caption, base64.b64encode(path.read_bytes()).decode()))
            else:
                notes.append(f"{winner.folder()} has no {name}.")
    return Section("Confusions and worst mistakes", " ".join(notes), pictures=found)


def configuration(sweep: Sweep) -> Section:
    """What the sweep was told, without Hydra's own settings."""
    if not sweep.config:
        return Section("Configuration", "The sweep's folder has no multirun.yaml.")
    plain: Any = OmegaConf.to_container(sweep.config)
    of_hydra = plain.pop("hydra", {})
    plain["hydra"] = {key: of_hydra.get(key) for key in ("overrides", "launcher", "sweeper")}
    text = re.sub(r"(://[^:/@\s]*:)[^@\s]+@", r"\1***@", OmegaConf.to_yaml(plain))
    return Section("Configuration", "As composed, before interpolation.", text=text)


def comparison(sweeps: Sequence[Sweep]) -> Iterator[Section]:
    """Sweeps on the same axes, and their tables side by side."""
    single = [sweep for sweep in sweeps if len(sweep.objectives) == 1]
    notes = [f"{s.name} has several objectives, so no best." for s in sweeps if s not in single]
    if len({(sweep.objectives[0], sweep.sign) for sweep in single}) > 1:
        notes.append("They search for different things: their values can't be compared.")
    strata = list(dict.fromkeys(stratum.value for sweep in single for stratum in sweep.strata))
    found = {value: [scores(sweep, value) for sweep in single] for value in strata}
    head = [f"{sweep.name}: {name}" for sweep in single for name in score_names(sweep)[:-1]]
    rows = [[v or "all", *(c for cells in f for c in cells[:-1])] for v, f in found.items()]
    yield Section("Results", " ".join(notes), ["", *head], rows)
    rows = [[v or "all", *(cells[-1] for cells in f)] for v, f in found.items()]
    yield Section("Best settings", "", ["", *(sweep.name for sweep in single)], rows)
    figures = [plots.compared(single)] if single else []
    yield drawn("Best so far", figures, "No trial of one objective is complete yet.", "")
