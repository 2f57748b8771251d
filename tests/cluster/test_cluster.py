"""Sweeps over several machines, on a real PostgreSQL, MLflow server, Slurm and Ray.

A ``machine``, and the nodes of Slurm and Ray, have a host name and process numbers of their
own: what works there is known to all others by its heartbeats alone.
"""

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
import services
from conftest import command_line, environment, server
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from services import TELLTALE, PostgreSQL, machine
from test_sweep import Sweep, assert_whole

from hydrasweep.search.heartbeat import OWNER
from hydrasweep.search.queue import DROPPED, RETRIES
from hydrasweep.search.storage import AdvisoryLock, database, read_url

T = TypeVar("T")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SWEEP = ("-m", "hparams_search=random", "storage=postgresql", "confirm=none",
         "hydra.sweeper.n_workers=2", "hydra.sweeper.heartbeat=1", "hydra.sweeper.check=null",
         "hydra.sweeper.report=false")  # fmt: skip
N_TRIALS = 9
SLEEPING = Path(__file__).with_name("sleeping.py")


@dataclass
class Cluster:
    """What the machines share."""

    postgresql: PostgreSQL
    mlflow: str
    artifacts: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("mlflow")
    with services.postgresql() as postgresql:
        store = postgresql.create("mlflow").replace("postgresql:", "postgresql+psycopg:")
        with server(folder, store) as (port, _):
            yield Cluster(postgresql, f"http://127.0.0.1:{port}", folder / "artifacts")


@dataclass(kw_only=True)
class SharedSweep(Sweep):
    """A sweep with a database and an MLflow experiment to itself."""

    cluster: Cluster

    @functools.cached_property
    def storage(self) -> RDBStorage:  # type: ignore[override]
        return database(self.cluster.postgresql.url(self.name))

    @property
    def store(self) -> str:
        return self.cluster.mlflow

    def environment(self, root: Path) -> dict[str, str]:
        return environment(
            root,
            HYDRASWEEP_STORAGE=self.cluster.postgresql.url(self.name),
            MLFLOW_TRACKING_URI=self.cluster.mlflow,
        )

    def arguments(self, *arguments: str) -> tuple[str, ...]:
        own = (f"study={self.name}", f"tracking.experiment={self.name}")
        return (*SWEEP, f"hydra.sweeper.n_trials={N_TRIALS}", *own, *arguments)

    def ended(self) -> dict[str, FrozenTrial]:
        return {label: trial for label, trial in self.trials().items() if trial.state.is_finished()}

    def running(self) -> dict[str, dict[str, str]]:
        """The processes that are in the middle of a trial, and not at its end already."""
        return {
            label: trial.user_attrs[OWNER]
            for label, trial in self.trials().items()
            if trial.state == TrialState.RUNNING and trial.last_step in (1, 2, 3)
        }

    def has_begun(self) -> bool:
        """Opening a study while it is made would make it a second time."""
        return (self.folder / "trials.csv").exists()


@pytest.fixture
def shared(cluster: Cluster, tmp_path: Path) -> Iterator[SharedSweep]:
    name = tmp_path.name
    cluster.postgresql.create(name)
    yield (sweep := SharedSweep(tmp_path, name, experiment=name, cluster=cluster))
    sweep.storage.engine.dispose()


def process_of(owner: dict[str, str]) -> int:
    """The number by which this machine knows a process of another one's."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (folder / "status").read_text()
            numbers = re.findall(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)
            namespace = str((folder / "ns" / "pid").readlink())
            if numbers == [owner["pid"]] and namespace == owner["pid_namespace"]:
                return int(folder.name)
    raise ProcessLookupError(f"nobody is {owner}")


def kill(owner: dict[str, str]) -> None:
    os.kill(process_of(owner), signal.SIGKILL)


def wait_until(condition: Callable[[], T], *processes: "subprocess.Popen[str]") -> T:
    """What the condition gives as soon as it is something."""
    while not (given := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return given


def start(words: list[str], env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def assert_tried_again(sweep: SharedSweep, label: str) -> None:
    """The trial was lost with its process, and another had its settings."""
    lost = sweep.all_trials()[label]
    assert lost.user_attrs[DROPPED] == "its process died"
    again = [trial for trial in sweep.trials().values() if trial.params == lost.params]
    assert [trial.state for trial in again if RETRIES in trial.user_attrs] == [TrialState.COMPLETE]


def finish(process: "subprocess.Popen[str]") -> str:
    """What it printed until it ended well."""
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    return printed


def assert_secret(sweep: SharedSweep, *printed: str) -> None:
    """The database's password is in no file, no run and nothing that was printed."""
    files = [
        path for folder in (sweep.root, sweep.cluster.artifacts) for path in folder.rglob("*")
        if path.is_file()
    ]  # fmt: skip
    assert any(path.name == "overrides.yaml" for path in files)
    assert [path for path in files if TELLTALE.encode() in path.read_bytes()] == []
    assert not [text for text in printed if TELLTALE in text]
    parents, children = sweep.runs()
    assert not [run for run in parents + children if TELLTALE in str(run.to_dictionary())]


@pytest.mark.parametrize(
    "launcher",
    ["joblib", "submitit_local", "submitit_slurm", "ray"],
)
def test_worker_that_is_killed_is_missed_and_its_trial_is_tried_again(
    shared: SharedSweep, launcher: str
) -> None:
    env, words = shared.environment(shared.root), [f"hydra/launcher={launcher}"]
    with ExitStack() as stack:
        if launcher == "submitit_slurm":
            env |= stack.enter_context(services.slurm())
        elif launcher == "ray":
            address = stack.enter_context(services.ray(env))
            words += [f"+hydra.launcher.ray.init.address={address}"]
            words += ["+hydra.launcher.ray.init._node_ip_address=127.0.0.1"]
        arguments = shared.arguments("+seconds=4", "epochs=8", *words)
        process = start([sys.executable, str(SLEEPING), *arguments], env)
        with process:
            wait_until(shared.has_begun, process)
            running = wait_until(lambda: shared.ended() and shared.running(), process)
            label, owner = running.popitem()
            kill(owner)
            printed = finish(process)
    assert_whole(shared, N_TRIALS)
    assert_tried_again(shared, label)
    assert_secret(shared, printed)


def test_starts_on_two_machines_are_one_sweep(shared: SharedSweep) -> None:
    command = command_line("train.py", *shared.arguments("epochs=20"))
    one, two = (replace(shared, root=shared.root / name) for name in ("one", "two"))
    processes = [
        start([*machine(sweep.root.name), *command], shared.environment(sweep.root))
        for sweep in (one, two)
    ]
    wait_until(lambda: one.has_begun() and two.has_begun(), *processes)

    def running_on_two() -> list[tuple[str, dict[str, str]]]:
        return [item for item in shared.running().items() if item[1]["host"] == "two"]

    (label, owner), *_ = wait_until(lambda: shared.ended() and running_on_two(), *processes)
    kill(owner)
    printed = list(map(finish, processes))

    trials = shared.trials()
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert_tried_again(shared, label)
    for name, trial in trials.items():  # it is on the machine that worked on it, and whole
        (folder,) = (folder for folder in (one.folder / name, two.folder / name) if folder.exists())
        assert folder.is_relative_to(shared.root / trial.user_attrs[OWNER]["host"])
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 20
    parents, children = shared.runs()
    assert len(parents) == 1
    assert parents[0].data.metrics["trials/complete"] == N_TRIALS
    statuses = {Path(run.data.tags["output_dir"]).name: run.info.status for run in children}
    assert len(statuses) == len(children)
    assert statuses[label] == "FAILED"
    assert {name for name, status in statuses.items() if status == "FINISHED"} == set(trials)
    assert "RUNNING" not in {run.info.status for run in parents + children}
    assert_secret(shared, *printed)


@pytest.mark.parametrize("mode", ["fast", "immediate"])  # in 0.2 s; as a crash, in 3 s
def test_sweep_outlives_a_restart_of_postgresql_or_says_how_to_go_on(
    shared: SharedSweep, mode: str
) -> None:
    words = [sys.executable, str(SLEEPING), *shared.arguments("+seconds=2", "epochs=4")]
    process = start(words, shared.environment(shared.root))
    wait_until(shared.has_begun, process)
    wait_until(lambda: shared.ended() and shared.running(), process)
    shared.cluster.postgresql.stop(mode)
    shared.cluster.postgresql.start()
    printed, _ = process.communicate(timeout=120)
    print(printed)
    ended = shared.ended()
    assert "Traceback" not in printed
    if process.returncode:
        assert f"study={shared.name}" in printed.partition("To go on: ")[2]
        printed += finish(start(words, shared.environment(shared.root)))
    assert ended.items() <= shared.trials().items()
    assert_whole(shared, N_TRIALS)
    assert_secret(shared, printed)


def test_connections_that_the_server_has_closed_are_opened_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    url = cluster.postgresql.create(tmp_path.name)
    storage, lock = database(url), AdvisoryLock(read_url(url))
    with lock:
        study = storage.create_new_study([StudyDirection.MAXIMIZE], "kept")
    cluster.postgresql.stop("fast")
    cluster.postgresql.start()
    with lock:
        assert [found._study_id for found in storage.get_all_studies()] == [study]
    for engine in (storage.engine, lock._engine):
        engine.dispose()
