"""Where a sweep's studies are kept, and what keeps its processes apart there.

A plan names the storage as the config does, and each process resolves that for itself: a
password in a URL stays in the environment, and comes into no file and no pickle.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from threading import local
from typing import Any

import optuna
from filelock import FileLock
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError

from hydrasweep.errors import Outage, UserError, root_cause, without_password
from hydrasweep.trial_runs import URI

EXAMPLE = "postgresql://USER:PASSWORD@HOST/DATABASE"
LOCK_KEY = 0x68796472  # PostgreSQL knows advisory locks by number; this one says "hydr"
PASSWORD = re.compile(r"://[^/@\s]*:[^@\s]+@|[?&]password=\w")

_opened: dict[str, BaseStorage] = {}  # one for each storage that this process uses


def shareable(config: DictConfig) -> DictConfig:
    """The node from which each process builds the sweep's storage.

    Raises:
        UserError: there is a password in the config, or no such database.
    """
    sweeper = config.hydra.sweeper
    written = OmegaConf.to_container(sweeper, resolve=False)["storage"]  # type: ignore[index,call-overload]
    if PASSWORD.search(re.sub(r"\$\{[^}]*\}", "", str(written))):
        raise UserError(
            "hydra.sweeper.storage: has a password in it, which would be written to files; take "
            "hydra/sweeper/storage=postgresql, which reads the URL from the variable "
            "HYDRASWEEP_STORAGE"
        )
    if not written:  # upstream's default is memory, which processes can't share
        written = "sqlite:///${hydra.sweep.dir}/study.db?timeout=60"
    if isinstance(written, str):
        written = {"_target_": f"{__name__}.database", "url": written}
    node = DictConfig(OmegaConf.create(written), parent=sweeper)
    if path := sqlite_file(node):  # workers may have another working directory
        there = make_url(node.url).set(database=str(path.resolve()))
        return DictConfig({**written, "url": there.render_as_string(hide_password=False)})
    url = url_of(node)
    is_postgresql = url is not None and url.get_backend_name() == "postgresql"
    if _lock_file(node) is None and not is_postgresql:
        make_lock(node)  # which refuses it
    if url:
        with _reached(url):
            create_engine(url, poolclass=NullPool).connect().close()
    return node


def refuse_mlflows(node: DictConfig) -> None:
    """Refuse the database that MLflow has: each takes the other's tables for its own of another
    version.

    Raises:
        UserError: it is the same one.
    """
    own, other = url_of(node), None
    with suppress(ArgumentError, ValueError):  # a server's address or a folder
        other = make_url(os.environ.get(URI) or "sqlite:///mlflow.db")
    if (
        own
        and other
        and own.get_backend_name() == other.get_backend_name()
        and _place(own) == _place(other)
    ):
        raise UserError(
            f"hydra.sweeper.storage={without_password(str(own))}: is the database of MLflow, "
            "which can't be shared: give Optuna's studies another"
        )


def _place(url: URL) -> tuple[Any, ...]:
    if url.get_backend_name() == "sqlite":
        return (Path(url.database or "").resolve(),)
    return url.host, url.port or 5432, url.database


def open_storage(node: DictConfig) -> BaseStorage:
    """The storage that a node describes; a process has one of each.

    Raises:
        UserError: the database doesn't answer.
    """
    key = OmegaConf.to_yaml(node, resolve=True)
    if key not in _opened:
        built = instantiate(node, _execution_whitelist_=UNSAFE_DISABLE_EXECUTION_CHECKS)
        _opened[key] = optuna.storages.get_storage(built)
    return _opened[key]


def close_storages() -> None:
    """Close this process's connections: a database that nobody has open is one whole file."""
    while _opened:
        _, storage = _opened.popitem()
        backend = getattr(storage, "_backend", storage)
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def database(url: str | None, is_known: bool = False) -> RDBStorage:
    """An Optuna storage in a database, where each process keeps one connection. If another process
    has checked it (``is_known``), this one trusts in that, which saves each trial a tenth of a
    second.

    Raises:
        UserError: there is no URL, or the database doesn't answer.
    """
    known = read_url(url)
    with _reached(known):
        pool = {} if known.get_backend_name() == "sqlite" else _one_connection(known)
        return RDBStorage(
            known.render_as_string(hide_password=False),
            engine_kwargs=pool,
            skip_compatibility_check=is_known,
            skip_table_creation=is_known,
        )


def for_trials(node: DictConfig) -> DictConfig:
    """The node of a storage that this process has opened, as trials get it: without references to
    other settings."""
    resolved: Any = OmegaConf.to_container(node, resolve=True)
    if resolved["_target_"] == f"{__name__}.database":
        resolved["is_known"] = True
    return DictConfig(resolved)


def _one_connection(url: URL) -> dict[str, Any]:
    """The options of an engine that keeps one connection, and notices when that was closed."""
    if url.get_driver_name() in ("psycopg", "psycopg2"):
        return {"pool_size": 1, "pool_events": [(_refuse_closed, "checkout")]}
    return {"pool_size": 1, "pool_pre_ping": True}


def _refuse_closed(connection: Any, record: object, proxy: object) -> None:
    """Let the pool open another connection in place of one that the server has closed.

    The server tells of that, so there is something to read where an idle connection has nothing.
    To ask it each time, as ``pool_pre_ping`` does, would be half of all that a worker asks.
    """
    del record, proxy
    if connection.closed or wait([connection], timeout=0):
        raise DisconnectionError


def read_url(url: str | None) -> URL:
    """A database's URL, for psycopg 3 where it says PostgreSQL and nothing else.

    Raises:
        UserError: it is none.
    """
    if not url:
        raise UserError(f"hydra.sweeper.storage: wants HYDRASWEEP_STORAGE={EXAMPLE} to be set")
    try:
        known = make_url(url)
    except (ArgumentError, ValueError):
        known = None
    if known is None or "@" in (known.host or ""):  # part of the password: not to be shown
        raise UserError(
            f"hydra.sweeper.storage: its URL must be like {EXAMPLE}, with %40 for an @ in the "
            "password, and so on"
        )
    if known.drivername in ("postgres", "postgresql"):
        return known.set(drivername="postgresql+psycopg")
    return known


@contextmanager
def _reached(url: URL) -> Iterator[None]:
    """Turn what keeps a database from being opened into a sentence.

    Raises:
        UserError: in place of SQLAlchemy's errors, and of those for a driver that isn't there.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"hydra.sweeper.storage: {url.drivername} needs a package ({root_cause(error)}); for "
            'PostgreSQL: python -m pip install "hydrasweep[postgres]"'
        ) from error
    except SQLAlchemyError as error:
        raise UserError(
            f"hydra.sweeper.storage: {url.render_as_string()} can't be used ({reason(error)})"
        ) from error


@contextmanager
def in_words() -> Iterator[None]:
    """Turn a failure of a storage that was opened into a sentence.

    Raises:
        Outage: in place of Optuna's, SQLAlchemy's and SQLite's own errors.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        raise Outage(f"hydra.sweeper.storage failed ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """Why a storage failed, in a line: what the database's driver says, where it does."""
    said = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None)
    return f"{type(said).__name__}: {said}".splitlines()[0] if said else root_cause(error)


def check_file(node: DictConfig) -> None:
    """Look whether the file of an SQLite storage is still there.

    Raises:
        Outage: it was deleted.
    """
    if (path := sqlite_file(node)) and not path.exists():
        raise Outage(f"{path} was deleted while the sweep ran, and its trials with it")


def url_of(node: DictConfig) -> URL | None:
    """The URL of a storage in a database."""
    return read_url(node.url) if "url" in node else None


def sqlite_file(node: DictConfig) -> Path | None:
    """The file of a storage in an SQLite database."""
    url = url_of(node)
    if not url or url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database))


def prepare(node: DictConfig) -> None:
    """Make a storage ready for many, by one process where several come at once."""
    with make_lock(node):
        if path := sqlite_file(node):
            try:
                with closing(sqlite3.connect(path)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")  # the file remembers it
            except sqlite3.OperationalError:  # it is locked, or its disk is full
                raise
            except sqlite3.DatabaseError as error:
                raise UserError(
                    f"hydra.sweeper.storage: {path} can't be used ({error}): put back a copy of "
                    "it, or take another study name"
                ) from error
        open_storage(node)


def make_lock(node: DictConfig) -> AbstractContextManager[Any]:
    """Lets one process at a time, of all that share the storage, take a step.

    Raises:
        UserError: the storage has no such lock.
    """
    if path := _lock_file(node):
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
    if (url := url_of(node)) and url.get_backend_name() == "postgresql":
        return AdvisoryLock(url)
    given = without_password(str(url)) if url else node.get("_target_")
    raise UserError(
        "hydra.sweeper.storage: must be an SQLite or PostgreSQL database or a journal file, which "
        f"several processes can share, and not {given}"
    )


def shown(node: DictConfig, folder: Path) -> str:
    """What a storage is, for people: its file, where that is in the sweep's folder. Addresses of
    others may be nobody's business."""
    path, url = _file(node), url_of(node)
    if path and path.resolve().is_relative_to(folder.resolve()):
        return str(path)
    return f"{url.get_backend_name()} database" if url else str(node.get("_target_"))


def exists(node: DictConfig) -> bool:
    """Whether there is such a storage already, or a server that may have it."""
    path = _file(node)
    return path is None or path.exists()


def _file(node: DictConfig) -> Path | None:
    path = sqlite_file(node) or OmegaConf.select(node, "log_storage.file_path")  # a journal's
    return Path(path) if path else None


def _lock_file(node: DictConfig) -> Path | None:
    path = _file(node)
    return Path(f"{path}.queue.lock") if path else None  # a journal has a .lock of its own


class AdvisoryLock(AbstractContextManager[None]):
    """A lock in a PostgreSQL database, which is let go when its holder dies."""

    def __init__(self, url: URL) -> None:
        # One connection is kept: to log in takes both sides longer than all that is done in it.
        self._engine = create_engine(url, **_one_connection(url))
        self._thread = local()

    def __enter__(self) -> None:
        self._thread.connection = self._engine.connect()
        lock = text("SELECT pg_advisory_xact_lock(:key)")
        self._thread.connection.execute(lock, {"key": LOCK_KEY})

    def __exit__(self, *error: object) -> None:
        self._thread.connection.close()  # and with it the transaction that has the lock
