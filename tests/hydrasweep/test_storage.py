"""The storage of a sweep: its address, its password, and several processes that open it."""

import multiprocessing
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cloudpickle
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from opened import open_studies
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from hydrasweep import storage
from hydrasweep.agreement import agree
from hydrasweep.errors import Outage, UserError
from hydrasweep.given import Given

PASSWORD = "hunter2"
VARIABLE = "HYDRASWEEP_STORAGE"
POSTGRESQL = "hydra/sweeper/storage=postgresql"
fork = multiprocessing.get_context("fork")

Place = Callable[..., DictConfig]


@pytest.fixture
def place(tmp_path):
    """``place("hydra/sweeper/storage=journal")`` returns the node of that storage."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [override hydra/sweeper: hydrasweep]")

    def node(*overrides):
        with initialize_config_dir(str(tmp_path / "conf")):
            words = [*overrides, f"hydra.sweep.dir={tmp_path}"]
            return storage.shareable(compose("config", words, return_hydra_config=True))

    yield node
    storage.close_storages()


# What is refused


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@localhost/db",
        f"mysql://me:{PASSWORD}@localhost/db",
        f"postgresql:///db?user=me&password={PASSWORD}",
    ],
)
@pytest.mark.parametrize("setting", ["'{}'", "{{_target_: x, url: '{}'}}"])
def test_password_in_the_config_is_refused(place, url, setting):
    with pytest.raises(UserError, match=VARIABLE) as refused:
        place(f"hydra.sweeper.storage={setting.format(url)}")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", f"{VARIABLE}=postgresql://"),
        (f"{PASSWORD} is no URL", "postgresql://"),
        (f"postgresql://me:pass@{PASSWORD}@localhost/db", "postgresql://"),
        (f"postgresql://me:{PASSWORD}@localhost:port/db", "postgresql://"),
        (f"nosuchkind://me:{PASSWORD}@localhost/db", "nosuchkind"),
        (f"postgresql://me:{PASSWORD}@127.0.0.1:9/db", "//me:***@127.0.0.1:9/db"),  # no answer
    ],
)
def test_address_that_cannot_be_used_is_refused_without_its_password(place, monkeypatch, url, text):
    if "127.0.0.1" in url:
        pytest.importorskip("psycopg")
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(UserError) as refused:
        place(POSTGRESQL)
    assert str(refused.value).startswith("hydra.sweeper.storage: ")
    assert text in str(refused.value)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
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
def test_storage_that_processes_cannot_share_is_refused(place, overrides):
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.storage: .*PostgreSQL"):
        place(*overrides)


def test_failure_of_a_storage_is_an_outage_with_the_error_of_its_driver():
    locked = sqlite3.OperationalError("database is locked\nsomewhere")
    wrapped = StorageInternalError("An exception is raised")
    wrapped.__cause__ = OperationalError("SELECT 1", {}, locked)
    for error in (locked, wrapped.__cause__, wrapped):
        with pytest.raises(Outage) as outage, storage.in_words():
            raise error
        message = str(outage.value)
        assert message.startswith("hydra.sweeper.storage ")
        assert "OperationalError: database is locked" in message
        assert "\n" not in message


# Where it is


@pytest.mark.parametrize("override", [POSTGRESQL, f"hydra.sweeper.storage=${{oc.env:{VARIABLE}}}"])
def test_each_process_reads_the_address_from_its_own_environment(
    place, monkeypatch, tmp_path, override
):
    monkeypatch.setattr(storage, "sqlite_file", lambda _: None)  # treat it as a server
    monkeypatch.setattr(storage, "make_lock", lambda _: None)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/{PASSWORD}.db")
    pickled = cloudpickle.dumps(place(override))
    assert PASSWORD.encode() not in pickled
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/other.db")
    storage.open_storage(cloudpickle.loads(pickled))
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    ("override", "file"),
    [
        (None, "study.db?timeout=60"),
        ("hydra/sweeper/storage=sqlite", "study.db?timeout=60"),
        ("hydra.sweeper.storage=null", "study.db?timeout=60"),
        ("hydra.sweeper.storage='sqlite:///mine.db?timeout=7'", "mine.db?timeout=7"),
    ],
)
def test_file_is_in_the_sweeps_folder_or_relative_to_the_working_directory(
    place, tmp_path, monkeypatch, override, file
):
    monkeypatch.chdir(tmp_path if "mine" in file else "/")
    node = place(*[override] if override else [])
    assert node.url == f"sqlite:///{tmp_path}/{file}"
    assert not list(tmp_path.glob("*.db"))


def test_process_opens_each_storage_once_and_can_close_it(place, tmp_path):
    node = place()
    assert storage.open_storage(node) is storage.open_storage(node.copy())

    def is_open():
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return str(tmp_path / "study.db") in map(os.readlink, links)

    storage.open_storage(node).get_all_studies()
    assert is_open()
    storage.close_storages()
    assert not is_open()
    assert storage.open_storage(node).get_all_studies() == []


@pytest.mark.parametrize("name", ["sqlite", "journal"])
def test_starts_at_the_same_time_create_the_studies_once(place, tmp_path, name):
    node = place(f"hydra/sweeper/storage={name}")
    together = fork.Barrier(4)

    def start(i):
        together.wait()
        storage.prepare(node)
        studies = open_studies(node, "a", "b")
        agree(studies, {"x": "0..1"}, {"a": {}, "b": {}})
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
    assert sorted(path.read_text() for path in tmp_path.glob("joined.*")) == list("0123")
    studies = open_studies(node, "a", "b")
    assert (studies.n_to_do(), studies.trials()) == (10, [])
    if name == "sqlite":
        with closing(sqlite3.connect(tmp_path / "study.db")) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
