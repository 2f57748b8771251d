"""Where studies are kept: no password leaves the environment, and no step is taken twice."""

import multiprocessing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from conftest import Compose
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from hydrasweep.errors import UserError
from hydrasweep.search import storage
from hydrasweep.search.queue import Queue

PASSWORD = "hunter2"
VARIABLE = "HYDRASWEEP_STORAGE"
fork = multiprocessing.get_context("fork")


@pytest.fixture
def config(tmp_path: Path, compose: Compose) -> Any:
    """``config("storage=journal")`` gives the config of a sweep with that storage."""

    def composed(override: str) -> DictConfig:
        cfg = compose("hparams_search=optuna", override, "study=s", return_hydra_config=True)
        cfg.hydra.sweep.dir = str(tmp_path)
        return cfg

    return composed


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PASSWORD}@localhost/db",
        f"mysql://me:{PASSWORD}@localhost/db",
        f"postgresql:///db?user=me&password={PASSWORD}",
    ],
)
def test_password_in_the_config_is_refused(config: Any, url: str) -> None:
    with pytest.raises(UserError, match=VARIABLE) as refused:
        storage.shareable(config(f"hydra.sweeper.storage='{url}'"))
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
        storage.shareable(config("storage=postgresql"))
    assert str(refused.value).startswith("hydra.sweeper.storage: ")
    assert words in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_database_that_does_not_answer_is_told_without_the_password(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv(VARIABLE, f"postgresql://me:{PASSWORD}@127.0.0.1:9/db")
    with pytest.raises(UserError, match=r"//me:\*\*\*@127\.0\.0\.1:9/db can't be used") as told:
        storage.shareable(config("storage=postgresql"))
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize(
    "override", ["storage=postgresql", "hydra.sweeper.storage=${oc.env:HYDRASWEEP_STORAGE}"]
)
def test_each_process_reads_the_url_from_its_own_environment(
    config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, override: str
) -> None:
    monkeypatch.setattr(storage, "sqlite_file", lambda _: None)  # as of any other database
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/{PASSWORD}.db")
    pickled = cloudpickle.dumps(storage.shareable(config(override)))
    assert PASSWORD.encode() not in pickled
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/other.db")
    storage.open_storage(cloudpickle.loads(pickled))
    assert (tmp_path / "other.db").exists()


def test_default_is_a_file_in_the_sweeps_folder(config: Any, tmp_path: Path) -> None:
    for override in ("storage=sqlite", "hydra.sweeper.storage=null"):
        assert storage.shareable(config(override)) == f"sqlite:///{tmp_path}/study.db?timeout=60"


def test_relative_file_is_one_for_all_working_directories(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    override = "hydra.sweeper.storage='sqlite:///mine.db?timeout=7'"
    assert storage.shareable(config(override)) == f"sqlite:///{tmp_path}/mine.db?timeout=7"


@pytest.mark.parametrize("name", ["sqlite", "journal"])
def test_of_four_who_start_at_once_one_makes_the_studies_and_fills_them(
    config: Any, tmp_path: Path, name: str
) -> None:
    place = storage.shareable(config(f"storage={name}"))
    together = fork.Barrier(4)

    def open_queue() -> Queue:
        node = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler"})
        return Queue.open("s", place, ["a", "b"], ["maximize"], node, None)

    def start(i: int) -> None:
        together.wait()
        storage.prepare(place)
        queue = open_queue()
        queue.agree({"x": "0..1"})
        sweep_id = queue.join()
        queue.suggest([{"x": 0.5}], None)
        queue.fill(10)
        (tmp_path / f"joined.{i}").write_text(f"{queue.start} {sweep_id}")

    starts = [fork.Process(target=start, args=(i,)) for i in range(4)]
    for process in starts:
        process.start()
    for process in starts:
        process.join()
    assert [process.exitcode for process in starts] == [0] * 4
    joined = [path.read_text().split() for path in tmp_path.glob("joined.*")]
    assert sorted(number for number, _ in joined) == list("0123")
    assert len({sweep_id for _, sweep_id in joined}) == 1
    assert open_queue().n_to_do() == 10
    assert [trial.state for _, trial in open_queue().trials()] == [TrialState.WAITING] * 2
