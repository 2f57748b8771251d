"""Where studies are kept: no password leaves the environment, and no step is taken twice."""

import multiprocessing
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from hydrasweep import storage
from hydrasweep.agreement import agree
from hydrasweep.errors import Outage, UserError
from hydrasweep.given import Given
from hydrasweep.studies import Studies

PASSWORD = "hunter2"
VARIABLE = "HYDRASWEEP_STORAGE"
fork = multiprocessing.get_context("fork")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Any]:
    """``config("hydra/sweeper/storage=journal")`` gives the config of a sweep with that storage."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [override hydra/sweeper: hydrasweep]")

    def composed(*overrides: str) -> DictConfig:
        words = [*overrides, f"hydra.sweep.dir={tmp_path}"]
        with initialize_config_dir(str(tmp_path / "conf")):
            return compose("config", words, return_hydra_config=True)

    yield composed
    storage.close_storages()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@localhost/db",
        f"mysql://me:{PASSWORD}@localhost/db",
        f"postgresql:///db?user=me&password={PASSWORD}",
    ],
)
def test_password_in_the_config_is_refused(config: Any, url: str) -> None:
    for override in (f"storage='{url}'", f"storage={{_target_: x, url: '{url}'}}"):
        with pytest.raises(UserError, match=VARIABLE) as refused:
            storage.shareable(config(f"hydra.sweeper.{override}"))
        assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", f"{VARIABLE}=postgresql://"),
        (f"{PASSWORD} is no URL", "must be like postgresql://"),
        (f"postgresql://me:pass@{PASSWORD}@localhost/db", "must be like postgresql://"),
        (f"postgresql://me:{PASSWORD}@localhost:port/db", "must be like postgresql://"),
        (f"nosuchkind://me:{PASSWORD}@localhost/db", "nosuchkind"),
    ],
)
def test_url_that_cannot_work_is_refused_without_its_password(
    config: Any, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(UserError) as refused:
        storage.shareable(config("hydra/sweeper/storage=postgresql"))
    assert str(refused.value).startswith("hydra.sweeper.storage: ")
    assert words in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        (
            "hydra.sweeper.storage._target_=optuna.storages.InMemoryStorage",
            "~hydra.sweeper.storage.url",
        ),
        ("hydra.sweeper.storage='sqlite://'",),
        ("hydra.sweeper.storage='sqlite:///:memory:'",),
        ("hydra.sweeper.storage='mysql+pymysql://localhost/db'",),
    ],
)
def test_storage_that_processes_cannot_share_is_refused(config: Any, words: tuple[str]) -> None:
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage: .*(must be|needs a package)"):
        storage.shareable(config(*words))


def test_database_that_does_not_answer_is_told_without_the_password(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv(VARIABLE, f"postgresql://me:{PASSWORD}@127.0.0.1:9/db")
    with pytest.raises(UserError, match=r"//me:\*\*\*@127\.0\.0\.1:9/db can't be used") as told:
        storage.shareable(config("hydra/sweeper/storage=postgresql"))
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    "override",
    ["hydra/sweeper/storage=postgresql", "hydra.sweeper.storage=${oc.env:HYDRASWEEP_STORAGE}"],
)
def test_each_process_reads_the_url_from_its_own_environment(
    config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, override: str
) -> None:
    monkeypatch.setattr(storage, "sqlite_file", lambda _: None)  # as of any other database
    monkeypatch.setattr(storage, "make_lock", lambda _: None)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/{PASSWORD}.db")
    pickled = cloudpickle.dumps(storage.shareable(config(override)))
    assert PASSWORD.encode() not in pickled
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/other.db")
    storage.open_storage(cloudpickle.loads(pickled))
    assert (tmp_path / "other.db").exists()


def test_default_is_a_file_in_the_sweeps_folder(config: Any, tmp_path: Path) -> None:
    for override in ("hydra/sweeper/storage=sqlite", "hydra.sweeper.storage=null"):
        for words in ((), (override,)):
            node = storage.shareable(config(*words))
            assert node.url == f"sqlite:///{tmp_path}/study.db?timeout=60"


def test_relative_file_is_one_for_all_working_directories(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    override = "hydra.sweeper.storage='sqlite:///mine.db?timeout=7'"
    assert storage.shareable(config(override)).url == f"sqlite:///{tmp_path}/mine.db?timeout=7"
    assert not (tmp_path / "mine.db").exists()


def test_process_has_one_of_each_storage_and_can_close_them(config: Any, tmp_path: Path) -> None:
    node = storage.shareable(config())
    assert storage.open_storage(node) is storage.open_storage(node.copy())

    def is_open() -> bool:
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return str(tmp_path / "study.db") in map(os.readlink, links)

    storage.open_storage(node).get_all_studies()
    assert is_open()
    storage.close_storages()
    assert not is_open()
    assert storage.open_storage(node).get_all_studies() == []


@pytest.mark.parametrize("name", ["sqlite", "journal"])
def test_of_four_who_start_at_once_one_makes_the_studies_and_fills_them(
    config: Any, tmp_path: Path, name: str
) -> None:
    place = storage.shareable(config(f"hydra/sweeper/storage={name}"))
    together = fork.Barrier(4)

    def open_studies() -> Studies:
        node = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler"})
        return Studies.open("s", place, ["a", "b"], ["maximize"], node, None)

    def start(i: int) -> None:
        together.wait()
        storage.prepare(place)
        studies = open_studies()
        agree(studies, {"x": "0..1"}, {stratum.value: {} for stratum in studies.strata})
        studies.join()
        studies.give({"a": [Given({"x": 0.5})]})
        studies.fill(10)
        (tmp_path / f"joined.{i}").write_text(f"{studies.start}")

    starts = [fork.Process(target=start, args=(i,)) for i in range(4)]
    for process in starts:
        process.start()
    for process in starts:
        process.join()
    assert [process.exitcode for process in starts] == [0] * 4
    joined = [path.read_text() for path in tmp_path.glob("joined.*")]
    assert sorted(joined) == list("0123")
    assert open_studies().n_to_do() == 10
    assert open_studies().trials() == []
    if name == "sqlite":
        with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_failure_of_a_storage_is_told_in_a_line_with_what_its_driver_says() -> None:
    locked = sqlite3.OperationalError("database is locked\nsomewhere")
    wrapped = StorageInternalError("An exception is raised")
    wrapped.__cause__ = OperationalError("SELECT 1", {}, locked)
    for error in (locked, wrapped.__cause__, wrapped):
        with pytest.raises(Outage) as told, storage.in_words():
            raise error
        words = "hydra.sweeper.storage failed (OperationalError: database is locked)"
        assert str(told.value) == words
