"""A sweep as its report reads it: a copy of its studies, taken at one moment.

Its folder may come from anywhere, so nothing that a file in it names is imported or called.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from sqlalchemy import URL

from hydrasweep import settings, storage
from hydrasweep.errors import UserError
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import PHASES, SEARCH
from hydrasweep.winners import Winner, winners


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep; ``config`` is empty where none was kept."""

    name: str
    folder: Path
    config: DictConfig
    phases: Mapping[str, Studies]  # those that have begun
    objectives: Sequence[str]
    stratify: str | None
    seed: str  # the setting that confirming trials vary

    @property
    def search(self) -> Studies:
        return self.phases[SEARCH]

    @cached_property
    def winners(self) -> Mapping[str, Winner]:
        """Who has won each stratum that was confirmed."""
        return {winner.stratum: winner for winner in winners(self.phases, self.seed)}

    @property
    def directions(self) -> Sequence[StudyDirection]:
        return self.search.head.directions


def read(folder: Path) -> Sweep:
    """The sweep in a folder, as it is now.

    Raises:
        UserError: there is none, or its storage fails or is of a kind that is not opened.
    """
    path = folder / "multirun.yaml"
    config = DictConfig(OmegaConf.load(path) if path.exists() else {})
    OmegaConf.update(config, "hydra.sweep.dir", str(folder.resolve()), force_add=True)
    OmegaConf.update(config, "hydra.sweeper", {}, merge=True, force_add=True)
    sweeper = config.hydra.sweeper
    seed = OmegaConf.select(sweeper, "confirm.seed") or ""
    name = sweeper.get("study_name") or folder.resolve().name
    phases: dict[str, Studies] = {}
    values: list[str] = []  # of the search: later phases have the same strata
    with storage.in_words(), _opened(_place(folder, config)) as opened:
        names = optuna.get_all_study_names(opened)
        for phase in PHASES if seed else (SEARCH,):
            base = name if phase == SEARCH else f"{name}@{phase}"
            held = {full.partition("/")[2]: full for full in names if full.split("/")[0] == base}
            values = values or list(held)
            strata = [Stratum(v, _copy(held.get(v), opened), phase) for v in values]
            phases |= {phase: Studies(name, strata, nullcontext())} if held else {}
    if SEARCH not in phases:
        raise UserError(f"{folder}: there is no study {name} in its storage")
    directions = [direction.name.lower() for direction in phases[SEARCH].head.directions]
    named = OmegaConf.create({"direction": directions, "objective": sweeper.get("objective")})
    objectives = settings.objectives(named)
    return Sweep(name, folder, config, phases, objectives, sweeper.get("stratify"), seed)


def _copy(name: str | None, opened: BaseStorage) -> Study:
    """A study as it is now, in memory; an empty one where there is none."""
    if name is None:
        return optuna.create_study()
    study = optuna.load_study(study_name=name, storage=opened)
    copied = optuna.create_study(directions=study.directions)
    for key, value in study.user_attrs.items():
        copied.set_user_attr(key, value)
    copied.add_trials(study.get_trials(deepcopy=False))
    return copied


def _place(folder: Path, config: DictConfig) -> URL | Path:
    """The database or file with the studies. A file in the folder comes first: the config says
    where the folder was when the sweep ran."""
    for file in (folder / "study.db", folder / "study.journal"):
        if file.exists():
            return file
    node = config.hydra.sweeper.get("storage") or {}
    node = DictConfig({"url": node}) if isinstance(node, str) else node
    url, named = storage.url_of(node), storage.sqlite_file(node)
    if url and not named:
        return url
    if node.get("_target_") == "optuna.storages.JournalStorage":
        named = OmegaConf.select(node, "log_storage.file_path")
    file = Path(OmegaConf.select(config, "hydra.runtime.cwd") or "") / (named or "")
    if not file.is_file():
        raise UserError(
            f"{folder}: no sweep to read: it has no study.db or study.journal, and "
            f"hydra.sweeper.storage={named or node} is no file or URL that can be opened"
        )
    return file


@contextmanager
def _opened(place: URL | Path) -> Iterator[BaseStorage]:
    if isinstance(place, Path):
        with place.open("rb") as file:
            is_sqlite = file.read(6) == b"SQLite"
        if not is_sqlite:
            yield JournalStorage(JournalFileBackend(str(place)))
            return
        place = URL.create("sqlite", database=str(place.resolve()))
    opened = storage.database(place.render_as_string(hide_password=False))
    try:
        yield opened
    finally:
        opened.remove_session()
        opened.engine.dispose()
