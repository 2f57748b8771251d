"""Helpers of the application's tests: run its entrypoints, read what they left in MLflow.

``run`` and ``start`` execute an entrypoint in a process that is forked from a server which has
imported torch, MLflow and Hydra, but nothing of this project. That saves the seconds that these
imports take. ``run_python`` starts a real interpreter, for tests of the start-up itself.
"""

import json
import logging
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as RecordedRun

    from mnist.data import Split
    from mnist.training import Training

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ("data.n_train=600", "data.n_val=200", "n_threads=1", "device=cpu")

Compose = Callable[..., DictConfig]
Done = subprocess.CompletedProcess[str]
Script = Callable[..., Done]
Refusal = Callable[..., str]

RUN_ALL = """
import json, os, runpy, sys
script, commands = json.loads(sys.argv[1])
sys.path.insert(0, os.path.dirname(script))
for words in commands:
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end.code)
print(json.dumps(list(sys.modules)))
"""

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(
    ["torch", "torch._dynamo", "torchvision.datasets", "matplotlib.pyplot", "psutil", "joblib",
     "mlflow", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.db.utils",
     "alembic.command", "git", "optuna", "optuna.storages._rdb.models", "hydra.main",
     "hydra_plugins.hydra_joblib_launcher.joblib_launcher", "rich.live", "rich.table"]
)  # fmt: skip


def command_line(script: str, *arguments: str) -> list[str]:
    """The script's path and its arguments, for a small training on this repository's images."""
    return [
        str(REPOSITORY / "src" / script),
        f"paths.data={REPOSITORY / 'data'}",
        *SMALL,
        *arguments,
    ]


def environment(root: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "HYDRASWEEP_ROOT": str(root), **extra}


class Started:
    """An entrypoint that runs in a forked process, the leader of a process group of its own."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.words = list(words)
        folder = Path(tempfile.mkdtemp(prefix="started-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        for path in (self.out, self.err):
            path.touch()
        # The server inherits these: it finds this module, and no library starts threads while it
        # is imported. Entrypoints get the environment ``env``.
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with patch.dict(os.environ, {**limits, "PYTHONPATH": path}):
            self.process = forkserver.Process(
                target=_execute, args=(self.words, cwd, dict(env), self.out, self.err)
            )
            self.process.start()
        assert self.process.pid
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative after a signal.

        Raises:
            TimeoutError: it still runs after ``timeout`` seconds.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError(f"{self.words} still runs after {timeout} s")
        return self.process.exitcode

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until the condition holds or the process has ended."""
        while not condition() and self.poll() is None:
            time.sleep(0.05)

    def until_printed(self, text: str) -> None:
        self.until(lambda: text in self.out.read_text())

    def send(self, signum: int) -> None:
        """Send a signal to the process and its children, as a terminal does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def done(self) -> Done:
        """Wait for the end; return exit code, standard output and standard error."""
        code = self.wait()
        return Done(self.words, code, self.out.read_text(), self.err.read_text())


def _execute(words: Sequence[str], cwd: Path, env: Mapping[str, str], out: Path, err: Path) -> None:
    """What ``python WORDS`` does, in a forked process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    folders = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [str(Path(words[0]).parent), *folders]
    sys.argv = list(words)
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.stdout.flush()


def start(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Started:
    """Start ``python WORDS`` in a forked process."""
    return Started(words, cwd, env)


def run(words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Done:
    """Run ``python WORDS`` in a forked process until it ends."""
    return Started(words, cwd, env).done()


def run_python(words: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> Done:
    """Run ``python WORDS`` in a new interpreter."""
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, env=env, text=True, capture_output=True
    )


@dataclass(frozen=True)
class Trained:
    """A finished training of the application."""

    root: Path

    @property
    def done(self) -> Done:
        return Done([], *json.loads((self.root / "done.json").read_text()))

    @property
    def output_dir(self) -> Path:
        (file,) = self.root.glob("outputs/*/*/metrics.jsonl")
        return file.parent

    @property
    def run(self) -> "RecordedRun":
        (run,) = runs_of(client_of(self.root))
        return run


def train_once(root: Path, *overrides: str) -> None:
    """Train below ``root``, which has an MLflow store."""
    (root / "elsewhere").mkdir()
    words = command_line("train.py", *overrides)
    done = run(words, cwd=root / "elsewhere", env=environment(root))
    ended = (done.returncode, done.stdout, done.stderr)
    (root / "done.json").write_text(json.dumps(ended))


def run_here(words: Sequence[str]) -> None:
    """Run ``python WORDS`` in this process.

    Raises:
        SystemExit: it ended with an error message.
    """
    # Hydra leaves the logging of this process alone.
    quiet = ("hydra/hydra_logging=none", "hydra/job_logging=none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*words, *quiet])
        patch.setattr(HydraConfig.instance(), "cfg", None)  # Hydra leaves the job's config there
        runpy.run_path(words[0], run_name="__main__")


def modules_after(script: Path, *commands: Sequence[str], root: Path) -> tuple[str, set[str]]:
    """Run ``python SCRIPT WORDS`` for several commands, one after the other in a new interpreter.
    Return what they print and the modules that they import."""
    done = run_python(
        ["-c", RUN_ALL, json.dumps([str(script), commands])], cwd=root, env=environment(root)
    )
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    return "\n".join(lines), set(json.loads(modules))


def copy_store(store: Path, folder: Path) -> None:
    """Put a copy of an empty MLflow store into ``folder``."""
    with (
        closing(sqlite3.connect(store)) as source,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        source.backup(copy)


def client_of(root: Path) -> "MlflowClient":
    from mlflow import MlflowClient  # takes two seconds

    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def runs_of(client: "MlflowClient") -> "list[RecordedRun]":
    experiment = client.get_experiment_by_name("hydrasweep")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def epochs_of(client: "MlflowClient", run: "RecordedRun", metric: str = "train/loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def write_idx(path: Path, values: Any) -> None:
    """Write an array of bytes in the format of MNIST's files."""
    import numpy as np

    values = np.asarray(values, dtype=np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def write_digits(data: Path, n_train: int = 60, n_test: int = 20) -> Path:
    """Write a small unpacked MNIST below ``data``, as torchvision reads it; return its folder."""
    import numpy as np

    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
        images = np.arange(n * 784).reshape(n, 28, 28) % 256
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
    return raw


class MakesFolder:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def parts(cfg: DictConfig) -> "tuple[Training, Split, Split]":
    """What ``cfg`` trains, and the images that it trains and validates on."""
    from mnist.assembly import assemble

    job = assemble(cfg)
    return job.training, job.train, job.val


@contextmanager
def at_line(line: str, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` when training logs ``line``."""

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if line in record.getMessage():
                act()

    logger, watcher = logging.getLogger("mnist.display"), Watcher()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(watcher)
    try:
        yield
    finally:
        logger.removeHandler(watcher)
        logger.setLevel(level)


@contextmanager
def server(folder: Path, database: str | None = None) -> Iterator[tuple[int, Callable[[], None]]]:
    """Run an MLflow server over a database, by default one in ``folder``; yield its port and a
    function that kills it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--port", str(port), "--backend-store-uri"),
            database or f"sqlite:///{folder / 'remote.db'}",
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        while True:
            assert process.poll() is None, "the server did not start"
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        yield port, end
    finally:
        end()
