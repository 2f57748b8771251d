"""The report of a sweep, or of several side by side: one HTML file that needs nothing else.

Its words stand in ``page.html``. A sweep's folder may come from anywhere: nothing that a file in
it names is imported or called. All raise a ``UserError`` where a folder has no sweep that can be
read.
"""

import base64
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL

from hydrasweep import files, plots, results, settings, storage, tables
from hydrasweep.budgets import MIN_TRIALS, budgets
from hydrasweep.errors import UserError, without_password
from hydrasweep.plots import COLOURS, Sweep
from hydrasweep.space import as_text
from hydrasweep.stratum import N_TRIALS, Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import PHASES, SEARCH, n_steps, origin, recorded, seconds
from hydrasweep.winners import lead, rerun, winners

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = "Helvetica Neue, Arial, sans-serif"
BUTTONS = ["toImage", "zoom2d", "pan2d", "resetScale2d"]  # plotly's others can upload the data
SECRET = re.compile(r"((?:passw\w*|secret|token|api_?key)\W+)\S.*", re.IGNORECASE)
TOLD = ["overrides", "launcher", "sweeper"]  # of Hydra's own settings
MAX_PICTURES = 8  # of each winner
PNG = b"\x89PNG"


def write(folder: Path, reload: float = 0.0) -> Path:
    """Write ``report.html`` for the sweep in ``folder``, as it is now; give its path.

    The page loads itself again every ``reload`` seconds, if that is not 0.
    """
    path = folder / "report.html"
    files.write(path, _render([read(folder)], reload))
    return path


def compare(folders: Sequence[Path], reload: float = 0.0) -> Path:
    """Write a page that compares sweeps, beside the folder of the first; give its path."""
    names = "-".join(folder.resolve().name for folder in folders)
    path = folders[0].resolve().with_name(f"compare-{names}.html")
    files.write(path, _render([read(folder) for folder in folders], reload))
    return path


def read(folder: Path) -> Sweep:
    """The sweep in a folder, as it is now; ``storage.close_storages`` closes what this opens."""
    config, versions = _config(folder), _load(folder / "environment.yaml")
    chosen = config.hydra.sweeper
    name = chosen.get("study_name") or folder.resolve().name
    phases: dict[str, Studies] = {}
    with storage.in_words():
        opened, memory = _open(folder, config), InMemoryStorage()
        names = optuna.get_all_study_names(opened)
        for phase in PHASES:
            base = name if phase == SEARCH else f"{name}@{phase}"
            held = [full for full in names if full.partition("/")[0] == base]
            if not held or (phases and len(held) < len(phases[SEARCH].strata)):
                break  # the phase's studies are still to be made
            strata = []
            for full in held:
                optuna.copy_study(from_study_name=full, from_storage=opened, to_storage=memory)
                study = optuna.load_study(study_name=full, storage=memory)
                strata.append(Stratum(full.partition("/")[2], study, phase))
            phases[phase] = Studies(name, strata, nullcontext())
    if not phases:
        raise UserError(f"{folder}: there is no study {name} in its storage")
    directions = [direction.name.lower() for direction in phases[SEARCH].head.directions]
    named = OmegaConf.create({"direction": directions, "objective": chosen.get("objective")})
    seed = OmegaConf.select(chosen, "confirm.seed")
    config.hydra = OmegaConf.masked_copy(config.pop("hydra"), TOLD)
    return Sweep(
        name=name, folder=folder.resolve(), config=config, versions=versions, phases=phases,
        winners=winners(phases, seed) if seed else [], objectives=settings.objectives(named),
        stratify=chosen.get("stratify") or "",
    )  # fmt: skip


def storage_of(folder: Path) -> BaseStorage:
    """The storage with the studies of the sweep in a folder."""
    return _open(folder, _config(folder))


def _load(path: Path) -> DictConfig:
    return DictConfig(OmegaConf.load(path) if path.exists() else {})


def _config(folder: Path) -> DictConfig:
    """What the sweep was started with, its folder being where it is now."""
    config = _load(folder / "multirun.yaml")
    OmegaConf.update(config, "hydra.sweep.dir", str(folder.resolve()), force_add=True)
    OmegaConf.update(config, "hydra.sweeper", {}, merge=True, force_add=True)
    return config


def _open(folder: Path, config: DictConfig) -> BaseStorage:
    """The storage with the studies. A file in the folder comes first: the config says where the
    folder was when the sweep ran."""
    file = next((f for f in (folder / "study.db", folder / "study.journal") if f.exists()), None)
    url, node = None, DictConfig({})
    if file is None:
        kept = config.hydra.sweeper.get("storage") or node
        node = DictConfig({"url": kept}) if isinstance(kept, str) else kept
        url, named = storage.url_of(node), storage.sqlite_file(node)
        if node.get("_target_") == "optuna.storages.JournalStorage":
            named = OmegaConf.select(node, "log_storage.file_path")
        file = Path(OmegaConf.select(config, "hydra.runtime.cwd") or "") / named if named else None
    if file and file.is_file():
        with file.open("rb") as opened:
            is_sqlite = opened.read(6) == b"SQLite"
        if not is_sqlite:
            return JournalStorage(JournalFileBackend(str(file)))
        url = URL.create("sqlite", database=str(file.resolve()))
    elif file or not url:
        raise UserError(
            f"{folder}: there is no sweep to read: no study.db and no study.journal, and "
            f"hydra.sweeper.storage={file or node} is no file or URL that can be opened"
        )
    text = url.render_as_string(hide_password=False)
    return storage.open_storage(
        DictConfig({"_target_": "hydrasweep.storage.database", "url": text})
    )


def _render(sweeps: Sequence[Sweep], reload: float) -> str:
    from plotly.offline import get_plotlyjs  # plotly takes a second to import

    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {
        "plot": _plot, "pictures": _pictures, "lead": _lead, "space": space,
        "yaml": OmegaConf.to_yaml,
        "masked": masked, "steps": n_steps,
        "short": tables.short, "duration": tables.as_duration, "seconds": seconds,
        "planned": _planned, "reached": _reached,
    }  # fmt: skip
    return templates.get_template("page.html").render(
        sweeps=sweeps, optuna=optuna, plots=plots, results=results, recorded=recorded, font=FONT,
        origin=origin, rerun=rerun, budgets_of=budgets, min_trials=MIN_TRIALS,
        made=datetime.now().strftime("%Y-%m-%d %H:%M"), plotly=Markup(get_plotlyjs()),
        reload=reload,
    )  # fmt: skip


def masked(text: str) -> str:
    """Settings without what looks like a secret."""
    return SECRET.sub(r"\1***", without_password(text))


def _plot(figure: "go.Figure") -> Markup:
    margin = {"l": 70, "r": 20, "t": 40, "b": 50}
    figure.update_layout(template="plotly_white", title=None, font_family=FONT, margin=margin)
    figure.layout.colorway = figure.layout.colorway or COLOURS
    shown = {"responsive": True, "displaylogo": False, "modeBarButtons": [BUTTONS]}
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=shown))


def _lead(sweep: Sweep) -> str:
    return lead(sweep.winners, sweep.search.head.direction)


def space(sweep: Sweep) -> dict[str, str]:
    """What was searched, by name, in words."""
    found = [trial.distributions for _, trial in sweep.search.trials()]
    return {name: as_text(each) for every in found for name, each in every.items()}


def _planned(stratum: Stratum) -> int:
    """How many trials a stratum is to have."""
    return max(stratum.study.user_attrs.get(N_TRIALS, 0), len(stratum.trials()))


def _reached(stratum: Stratum) -> str:
    """How many of its trials ended after how many steps."""
    ended = (trial for trial in stratum.trials() if trial.state.is_finished())
    steps = sorted(Counter(map(n_steps, ended)).items())
    return ", ".join(f"{n} at {step}" for step, n in steps) if any(s for s, _ in steps) else "—"


def _pictures(sweep: Sweep) -> dict[str, str]:
    """The PNG files that each winner's first final trial left, in base64, by their paths."""
    found = {}
    for folder in (sweep.folder / winner.folder() for winner in sweep.winners if winner.final):
        for path in sorted(folder.rglob("*.png"))[:MAX_PICTURES]:
            if (content := path.read_bytes()).startswith(PNG):
                found[str(path.relative_to(sweep.folder))] = base64.b64encode(content).decode()
    return found
