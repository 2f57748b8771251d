"""Sweeps over several machines, on a real PostgreSQL, MLflow server, Slurm and Ray.

A ``machine`` and the nodes of Slurm and Ray have their own host name and process numbers, so
other machines know of a worker there only by its heartbeats.
"""

import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest
import services
from application import command_line, environment, server
from examples.foreign import example
from mlflow import MlflowClient
from optuna import load_study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState
from services import TELLTALE, PostgreSQL, machine
from sweeps import Sweep

from hydrasweep.liveness import OWNER
from hydrasweep.storage import AdvisoryLock, database, read_url
from hydrasweep.stratum import LOST, RETRIES, RETRY_OF

T = TypeVar("T")

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

N_TRIALS = 9
SWEEP = ("-m", "hydra/sweeper/storage=postgresql", f"hydra.sweeper.n_trials={N_TRIALS}",
         "hydra.sweeper.n_workers=2", "hydra.sweeper.heartbeat=1")  # fmt: skip
TRAINING = ("hparams_search=random", "hydra/sweeper/confirm=none", "hydra.sweeper.check=null",
            "hydra.sweeper.report=false", "hydra.sweeper.resumable=false",
            "checkpoint=false")  # fmt: skip
SLEEPING = Path(__file__).parent / "sleeping" / "app.py"


@dataclass
class Cluster:
    """The servers that all machines share."""

    postgresql: PostgreSQL
    mlflow: str
    artifacts: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with services.postgresql() as postgresql:
        store = postgresql.create("mlflow").replace("postgresql:", "postgresql+psycopg:")
        with server(folder, store) as (port, _):
            yield Cluster(postgresql, f"http://127.0.0.1:{port}", folder / "artifacts")


@pytest.fixture(scope="module")
def slurm():
    """The environment variables with which processes use Slurm."""
    with services.slurm() as variables:
        yield variables


@dataclass(kw_only=True)
class SharedSweep(Sweep):
    """A sweep with a database and an MLflow experiment of its own."""

    cluster: Cluster

    @functools.cached_property
    def storage(self):
        return database(self.cluster.postgresql.url(self.name))

    def all_runs(self):
        return runs_in(self.cluster, self.name)

    def environment(self, root):
        return environment(
            root,
            HYDRASWEEP_STORAGE=self.cluster.postgresql.url(self.name),
            MLFLOW_TRACKING_URI=self.cluster.mlflow,
            MLFLOW_EXPERIMENT_NAME=self.name,
        )

    def sleeping(self, *arguments):
        """The command of a sweep whose trials sleep."""
        own = f"hydra.sweeper.study_name={self.name}", f"hydra.sweep.dir={self.folder}"
        return [sys.executable, str(SLEEPING), *SWEEP, *own, *arguments]

    def training(self, *arguments):
        """The command of a sweep whose trials are trainings."""
        own = f"study={self.name}"
        return [sys.executable, *command_line("train.py", *SWEEP, *TRAINING, own, *arguments)]

    def running(self):
        """The processes that are in the middle of a trial, by the trial's name."""
        return {
            label: trial.user_attrs[OWNER]
            for label, trial in self.trials().items()
            if trial.state == TrialState.RUNNING and trial.last_step in (1, 2, 3)
        }

    def has_begun(self):
        """Whether the studies exist. Opening the storage earlier would create its tables twice."""
        return (self.folder / "trials.csv").exists()


def runs_in(cluster, experiment):
    client = MlflowClient(cluster.mlflow)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


@pytest.fixture
def shared(cluster, tmp_path):
    name = tmp_path.name
    cluster.postgresql.create(name)
    yield (sweep := SharedSweep(tmp_path, name, cluster=cluster))
    sweep.storage.engine.dispose()


def process_of(owner):
    """The number on this machine of a process in another namespace."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (folder / "status").read_text()
            numbers = re.findall(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)
            namespace = str((folder / "ns" / "pid").readlink())
            if numbers == [owner["pid"]] and namespace == owner["pid_namespace"]:
                return int(folder.name)
    raise ProcessLookupError(f"no process is {owner}")


def kill(owner):
    os.kill(process_of(owner), signal.SIGKILL)


def wait_until(condition, *processes):
    """Wait until the condition's value is true and return it."""
    while not (value := condition()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return value


def start(words, env):
    return subprocess.Popen(
        words, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


DIED, SILENT = "its process died", "its process gave no sign of life"


def assert_tried_again(sweep, label, *why):
    """The trial was lost with its process, and another trial has its settings."""
    trials, (stratum, number) = sweep.all_trials(), label.split("-")
    (again,) = (
        trial for name, trial in trials.items()
        if name.startswith(stratum) and trial.user_attrs.get(RETRY_OF) == int(number)
    )  # fmt: skip
    assert again.user_attrs[LOST] in why
    assert again.user_attrs[RETRIES] == 1
    assert (trials[label].state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == trials[label].params


def assert_whole(sweep):
    """All trials are complete; the storage, the folder and MLflow agree."""
    trials, (parents, children) = sweep.trials(), sweep.runs()
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert len({label.partition("-")[0] for label in trials}) == 3
    assert trials.keys() <= sweep.folders() <= sweep.all_trials().keys()
    assert {f"{row['kind']}-{int(row['number']):03d}" for row in sweep.table()} == set(trials)
    assert [run.info.status for run in parents] == ["FINISHED"]
    statuses = {run.info.run_name: run.info.status for run in children}
    assert len(statuses) == len(children)
    # A trial that ended while the storage was down is repeated, although its run has finished.
    unkept = {
        f"{label.partition('-')[0]}-{trial.user_attrs[RETRY_OF]:03d}"
        for label, trial in sweep.all_trials().items()
        if trial.user_attrs.get(LOST) in ("its worker stopped running it", "the storage failed")
    }
    finished = {name for name, status in statuses.items() if status == "FINISHED"}
    assert finished - unkept == set(trials) - unkept
    assert "RUNNING" not in statuses.values()


def finish(process):
    """Wait until the process ends without an error; return its output."""
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "Traceback" not in printed
    return printed


def assert_secret(sweep, *printed):
    """The database's password is in no file, no run and no output."""
    files = [
        path for folder in (sweep.root, sweep.cluster.artifacts) for path in folder.rglob("*")
        if path.is_file()
    ]  # fmt: skip
    assert any(path.name == "overrides.yaml" for path in files)
    assert [path for path in files if TELLTALE.encode() in path.read_bytes()] == []
    assert not [text for text in printed if TELLTALE in text]
    parents, children = sweep.runs()
    assert not [run for run in parents + children if TELLTALE in str(run.to_dictionary())]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_slurm", "ray"])
def test_trial_of_a_killed_worker_is_repeated(shared, launcher, request):
    env, words = shared.environment(shared.root), [f"hydra/launcher={launcher}"]
    with ExitStack() as stack:
        if launcher == "submitit_slurm":
            env |= request.getfixturevalue("slurm")
        elif launcher == "ray":
            address = stack.enter_context(services.ray(env))
            words += [f"+hydra.launcher.ray.init.address={address}"]
            words += ["+hydra.launcher.ray.init._node_ip_address=127.0.0.1"]
        process = start(shared.sleeping("seconds=2", "n_steps=8", *words), env)
        with process:
            wait_until(shared.has_begun, process)
            running = wait_until(lambda: shared.ended() and shared.running(), process)
            label, owner = running.popitem()
            kill(owner)
            printed = finish(process)
    assert_whole(shared)
    # Only the heartbeats of a process in another namespace can be seen.
    assert_tried_again(shared, label, DIED if launcher == "joblib" else SILENT)
    assert_secret(shared, printed)


def test_slurm_example_runs_by_the_commands_of_its_readme(cluster, slurm, tmp_path):
    example("pytorch", tmp_path)
    app = example("slurm", tmp_path)
    own = {"MLFLOW_TRACKING_URI": cluster.mlflow, "MLFLOW_EXPERIMENT_NAME": "spirals"}
    (printed,) = app.run_readme(**slurm, **own)
    assert re.search("spirals.* 8 trials.* 2 workers", printed)
    rows, again = app.trials(), app.trials("confirmation.csv")
    assert len(rows) == 8
    assert {row["state"] for row in rows} <= {"COMPLETE", "PRUNED"}
    assert {row["state"] for row in again} == {"COMPLETE"}
    storage = JournalStorage(JournalFileBackend(str(app.sweep() / "study.journal")))
    trials = [
        t
        for name in ("adam", "sgd")
        for t in load_study(study_name=f"spirals/{name}", storage=storage).trials
    ]
    assert {trial.user_attrs[OWNER]["host"] for trial in trials} == {"node"}
    assert len(list((app.sweep() / "workers").iterdir())) == 2
    runs = runs_in(cluster, "spirals")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + len(rows) + len(again)


def test_starts_on_two_machines_are_one_sweep(shared):
    command = shared.training("epochs=12")
    one, two = (replace(shared, root=shared.root / name) for name in ("one", "two"))
    processes = [
        start([*machine(sweep.root.name), *command], shared.environment(sweep.root))
        for sweep in (one, two)
    ]
    wait_until(lambda: one.has_begun() and two.has_begun(), *processes)

    def running_on_two():
        return [item for item in shared.running().items() if item[1]["host"] == "two"]

    (label, owner), *_ = wait_until(lambda: shared.ended() and running_on_two(), *processes)
    kill(owner)  # the process of the sweep on two, whose trials one takes over
    killed, _ = processes[1].communicate()
    printed = [finish(processes[0]), killed]

    trials = shared.trials()
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert_tried_again(shared, label, SILENT)
    for name, trial in trials.items():  # its folder is on the machine that trained it
        (folder,) = (folder for folder in (one.folder / name, two.folder / name) if folder.exists())
        assert folder.is_relative_to(shared.root / trial.user_attrs[OWNER]["host"])
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 12
    parents, children = shared.runs()
    assert len(parents) == 1
    assert parents[0].data.metrics["trials/complete"] == N_TRIALS
    statuses = {run.info.run_name: run.info.status for run in children}
    assert len(statuses) == len(children)
    assert statuses[label] == "FAILED"
    assert {name for name, status in statuses.items() if status == "FINISHED"} == set(trials)
    assert "RUNNING" not in {run.info.status for run in parents + children}
    assert_secret(shared, *printed)


def test_sweep_survives_a_crash_of_postgresql_or_says_how_to_resume(shared):
    env = shared.environment(shared.root)
    process = start(shared.sleeping("seconds=2", "n_steps=4"), env)
    wait_until(shared.has_begun, process)
    wait_until(lambda: shared.ended() and shared.running(), process)
    shared.cluster.postgresql.stop("immediate")
    shared.cluster.postgresql.start()
    printed, _ = process.communicate(timeout=120)
    ended = shared.ended()
    assert "Traceback" not in printed
    if process.returncode:
        _, *words = shlex.split(printed.partition("To resume: ")[2].partition("\n")[0])
        printed += finish(start([sys.executable, *words], env))
    assert ended.items() <= shared.trials().items()
    assert_whole(shared)
    assert_secret(shared, printed)


def test_connections_that_the_server_closed_are_opened_again(cluster, tmp_path):
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
