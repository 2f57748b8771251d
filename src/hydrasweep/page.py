"""The report of a sweep, or of several side by side: one HTML file that needs nothing else.

Its words stand in ``page.html``. A sweep's folder may come from anywhere: nothing that a file in
it names is imported or called.
"""

import base64
import math
import re
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import optuna
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from plotly.offline import get_plotlyjs
from sqlalchemy import URL

from hydrasweep import files, output, plots, results, settings, storage
from hydrasweep.errors import UserError, without_password
from hydrasweep.plots import Sweep
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import PHASES, SEARCH, n_steps, recorded
from hydrasweep.winners import overall, winners

FONT = "Helvetica Neue, Arial, sans-serif"
BUTTONS = ["toImage", "zoom2d", "pan2d", "resetScale2d"]  # plotly's others can upload the data
SECRET = re.compile(r"((?:passw\w*|secret|token|api_?key)\W+)\S.*", re.IGNORECASE)
MAX_PICTURES = 8  # of each winner
PNG = b"\x89PNG"


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


def read(folder: Path) -> Sweep:
    """The sweep in a folder, as it is now; ``storage.close_storages`` closes what this opens.

    Raises:
        UserError: there is none, or its storage fails or is of a kind that is not opened.
    """
    config = _load(folder / "multirun.yaml")
    is_kept = bool(config)
    OmegaConf.update(config, "hydra.sweep.dir", str(folder.resolve()), force_add=True)
    OmegaConf.update(config, "hydra.sweeper", {}, merge=True, force_add=True)
    chosen = config.hydra.sweeper
    name = chosen.get("study_name") or folder.resolve().name
    phases: dict[str, Studies] = {}
    with storage.in_words():
        opened, memory = _open(folder, config), InMemoryStorage()
        names = optuna.get_all_study_names(opened)
        for phase in PHASES:
            base = name if phase == SEARCH else f"{name}@{phase}"
            held = {full.partition("/")[2]: full for full in names if full.split("/")[0] == base}
            search = phases.get(SEARCH)
            strata = [stratum.value for stratum in search.strata] if search else list(held)
            if not held or held.keys() != set(strata):  # they are just being made
                continue
            phases[phase] = Studies(name, [], nullcontext())
            for full in map(held.__getitem__, strata):
                optuna.copy_study(from_study_name=full, from_storage=opened, to_storage=memory)
                study = optuna.load_study(study_name=full, storage=memory)
                phases[phase].strata.append(Stratum(full.partition("/")[2], study, phase))
    if SEARCH not in phases:
        raise UserError(f"{folder}: there is no study {name} in its storage")
    directions = [direction.name.lower() for direction in phases[SEARCH].head.directions]
    named = OmegaConf.create({"direction": directions, "objective": chosen.get("objective")})
    seed = OmegaConf.select(chosen, "confirm.seed")
    config.hydra = OmegaConf.masked_copy(config.hydra, ["overrides", "launcher", "sweeper"])
    return Sweep(
        name=name, folder=folder, config=config if is_kept else DictConfig({}), versions=_load(folder / "environment.yaml"),
        phases=phases, objectives=settings.objectives(named), stratify=chosen.get("stratify"),
        winners=winners(phases, seed) if seed else [],
    )  # fmt: skip


def _load(path: Path) -> DictConfig:
    return DictConfig(OmegaConf.load(path) if path.exists() else {})


def _open(folder: Path, config: DictConfig) -> BaseStorage:
    """The storage with the studies. A file in the folder comes first: the config says where the
    folder was when the sweep ran."""
    held, node = [folder / "study.db", folder / "study.journal"], DictConfig({})
    if not any(file.exists() for file in held):
        kept = config.hydra.sweeper.get("storage") or {}
        node = DictConfig({"url": kept}) if isinstance(kept, str) else kept
        file = storage.sqlite_file(node)
        if node.get("_target_") == "optuna.storages.JournalStorage":
            file = OmegaConf.select(node, "log_storage.file_path")
        if file:
            held = [Path(OmegaConf.select(config, "hydra.runtime.cwd") or "") / file]
        elif url := storage.url_of(node):
            return _database(url)
    for path in filter(Path.is_file, held):
        with path.open("rb") as file:
            is_sqlite = file.read(6) == b"SQLite"
        if is_sqlite:
            return _database(URL.create("sqlite", database=str(path.resolve())))
        return JournalStorage(JournalFileBackend(str(path)))
    raise UserError(
        f"{folder}: there is no sweep to read: no {' and no '.join(map(str, held))}; "
        f"hydra.sweeper.storage={node} is no file or URL that is opened"
    )


def _database(url: URL) -> BaseStorage:
    text = url.render_as_string(hide_password=False)
    return storage.open_storage(
        DictConfig({"_target_": "hydrasweep.storage.database", "url": text})
    )


def _render(sweeps: Sequence[Sweep]) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {
        "plot": _plot,
        "masked": _masked,
        "yaml": OmegaConf.to_yaml,
        "pictures": _pictures,
    }
    templates.filters |= {"verdict": _verdict, "steps": n_steps, "seconds": results.seconds}
    templates.filters |= {"short": output.short, "duration": output.as_duration}
    is_one = len(sweeps) == 1
    single = [sweep for sweep in sweeps if len(sweep.objectives) == 1]
    views = [
        plots.View(s, i) for s in (sweeps if is_one else single) for i in range(len(s.objectives))
    ]
    return templates.get_template("page.html").render(
        sweeps=sweeps, is_one=is_one, single=single, views=views, plots=plots, results=results, recorded=recorded, font=FONT,
        made=datetime.now().strftime("%Y-%m-%d %H:%M"), plotly=Markup(get_plotlyjs()),
    )  # fmt: skip


def _plot(figure: go.Figure) -> Markup:
    margin = {"l": 70, "r": 20, "t": 40, "b": 50}
    figure.update_layout(template="plotly_white", title=None, font_family=FONT, margin=margin)
    shown = {"responsive": True, "displaylogo": False, "modeBarButtons": [BUTTONS]}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=shown))


def _masked(text: str) -> str:
    return SECRET.sub(r"\1***", without_password(text))


def _verdict(sweep: Sweep) -> str:
    """Whether the winner's lead over the second is more than chance."""
    if len(found := list(sweep.winners)) < 2:
        return ""
    first = overall(found, sweep.search.head.direction)
    second = overall([w for w in found if w is not first], sweep.search.head.direction)
    lead = abs(first.confirmed.mean - second.confirmed.mean)
    told = f"{first.stratum} leads {second.stratum} by {lead:.4f} on fresh seeds"
    if not (first.confirmed.sd and second.confirmed.sd):
        return f"{told}; single seeds can't tell whether by chance."
    error = math.hypot(*(w.confirmed.sd / len(w.confirmed.values) ** 0.5 for w in (first, second)))
    kind = "less" if lead < 2 * error else "more"
    return f"{told}, {kind} than two standard errors of the difference ({error:.4f})."


def _pictures(sweep: Sweep) -> dict[str, str]:
    """The PNG files that each winner's first final trial left, in base64."""
    found = {}
    for winner in (winner for winner in sweep.winners if winner.final):
        paths = sorted((sweep.folder / winner.folder()).rglob("*.png"))
        for path in paths[:MAX_PICTURES]:
            if (content := path.read_bytes()).startswith(PNG):
                found[str(path.relative_to(sweep.folder))] = base64.b64encode(content).decode()
    return found
