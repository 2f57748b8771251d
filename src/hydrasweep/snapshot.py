"""A sweep as its report reads it: a copy of the studies of its phases, taken at one moment.

A folder may come from anywhere: nothing that its files name is imported or called.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from sqlalchemy import URL
from yaml import YAMLError

from hydrasweep import settings, storage
from hydrasweep.errors import UserError
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import PHASES, SEARCH
from hydrasweep.winners import Winner, winners

FILES = ("study.db", "study.journal")  # what hydra/sweeper/storage=sqlite and =journal make


@dataclass(frozen=True)
class Sweep:
    """What is known of a sweep; ``config`` and ``environment`` are empty where none was kept."""

    name: str
    folder: Path
    config: DictConfig
    environment: Mapping[str, Any]
    phases: Mapping[str, Studies]  # those that have begun
    stratify: str | None
    seed: str  # the setting that confirming trials vary
    objectives: Sequence[str]

    @property
    def search(self) -> Studies:
        return self.phases[SEARCH]

    @property
    def directions(self) -> Sequence[StudyDirection]:
        return self.search.head.directions

    @cached_property
    def winners(self) -> Mapping[str, Winner]:
        """Who has won each stratum that was confirmed."""
        return {winner.stratum: winner for winner in winners(self.phases, self.seed)}


def read(folder: Path) -> Sweep:
    """The sweep in a folder, as it is now.

    Raises:
        UserError: there is none, or its storage fails or is of another kind.
    """
    config = _load(folder / "multirun.yaml")
    OmegaConf.update(config, "hydra.sweep.dir", str(folder.resolve()), force_add=True)
    kept = {key: _select(config, f"hydra.sweeper.{key}") for key in ("objective", "stratify")}
    seed = str(_select(config, "hydra.sweeper.confirm.seed") or "")
    name = str(_select(config, "hydra.sweeper.study_name") or folder.resolve().name)
    phases: dict[str, Studies] = {}
    with storage.in_words(), _opened(_place(folder, config)) as opened:
        names = optuna.get_all_study_names(opened)
        values: Sequence[str] = ()
        for phase in PHASES if seed else (SEARCH,):
            base = name if phase == SEARCH else f"{name}@{phase}"
            held = [full for full in names if full.partition("/")[0] == base]
            copies = {full.partition("/")[2]: _copy(full, opened) for full in held}
            values = values or list(copies)  # later phases have the strata of the search
            studies = [(value, copies.get(value) or optuna.create_study()) for value in values]
            if held:
                strata = [Stratum(value, study, phase) for value, study in studies]
                phases[phase] = Studies(name, strata, nullcontext())
    if SEARCH not in phases:
        raise UserError(f"{folder}: there is no study {name} in its storage")
    directions = phases[SEARCH].head.directions
    given = {"direction": [d.name.lower() for d in directions], "objective": kept["objective"]}
    objectives = settings.objectives(OmegaConf.create(given))
    environment: Any = OmegaConf.to_container(_load(folder / "environment.yaml"))
    return Sweep(name, folder, config, environment, phases, kept["stratify"], seed, objectives)


def _load(path: Path) -> DictConfig:
    try:
        return DictConfig(OmegaConf.load(path) if path.exists() else {})
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path}: can't be read as YAML settings") from error


def _select(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException as error:  # such as a variable that is not set here
        raise UserError(f"{key} in multirun.yaml: {error}".splitlines()[0]) from error


def _place(folder: Path, config: DictConfig) -> URL | Path:
    """The file or database with the studies; a file in the folder comes first, since the config
    knows where that was when the sweep ran."""
    for path in (folder / name for name in FILES):
        if path.exists():
            return path
    node = _select(config, "hydra.sweeper.storage")
    if node is None:
        raise UserError(f"{folder}: there is no sweep: no {' and no '.join(FILES)}")
    node = OmegaConf.create({"url": node}) if isinstance(node, str) else node
    url, file = storage.url_of(node), storage.sqlite_file(node)
    if node.get("_target_") == "optuna.storages.JournalStorage":
        file = _select(node, "log_storage.file_path")
    if file is None and url is None:
        raise UserError(
            f"{folder}: a report opens SQLite files, journal files and the URLs of databases, not "
            f"hydra.sweeper.storage={node}"
        )
    if file is None:
        assert url is not None
        return url
    path = Path(_select(config, "hydra.runtime.cwd") or "") / file
    if not path.exists():
        raise UserError(f"{folder}: its studies were kept in {path}, which isn't there")
    return path


@contextmanager
def _opened(place: URL | Path) -> Iterator[BaseStorage]:
    if isinstance(place, Path) and not place.read_bytes().startswith(b"SQLite"):
        yield JournalStorage(JournalFileBackend(str(place)))
        return
    if isinstance(place, Path):
        place = URL.create("sqlite", database=str(place.resolve()), query={"timeout": "60"})
    opened = storage.database(place.render_as_string(hide_password=False))
    try:
        yield opened
    finally:
        opened.remove_session()
        opened.engine.dispose()


def _copy(name: str, opened: BaseStorage) -> Study:
    """A study as it is now, in memory."""
    study = optuna.load_study(study_name=name, storage=opened)
    copy = optuna.create_study(directions=study.directions)
    for key, value in study.user_attrs.items():
        copy.set_user_attr(key, value)
    copy.add_trials(study.get_trials(deepcopy=False))
    return copy
