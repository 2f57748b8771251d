"""What the tests share: composed configs, a store of their own, runs of the real entrypoints."""

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import chdir, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as RecordedRun

# Before mlflow is imported anywhere: no telemetry, no store of the caller's.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)

import numpy as np
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from sqlalchemy import event
from sqlalchemy.pool import Pool

from mnist.assembly import assemble
from mnist.data import Split
from mnist.training import Training

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = ("data.n_train=600", "data.n_val=200", "n_threads=1", "device=cpu")

Compose = Callable[..., DictConfig]
Script = Callable[..., "subprocess.CompletedProcess[str]"]

torch.set_num_threads(1)
# A suite started in the background ignores Ctrl-C, and so would every process it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


_connections: list[Any] = []
event.listen(Pool, "connect", lambda _, entry: _connections.append(entry))


@pytest.fixture(autouse=True)
def close_databases() -> Iterator[None]:
    """Close what Optuna's and MLflow's stores have open, which keep it as long as their process
    lives; one that is used again opens it again."""
    yield
    while _connections:
        _connections.pop().close()


@pytest.hookimpl(tryfirst=True)  # before markers choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "field" in item.path.parts:
            item.add_marker("field")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))  # on a machine that others use, too


@pytest.fixture
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(autouse=True)
def _own_mlflow() -> Iterator[None]:
    """What a run sets of MLflow's environment ends with its test."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds no runs; made once, because that takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("store")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with chdir(folder):
        assert client_of(folder)  # its first use makes the database
    return folder / "mlflow.db"


def copy_store(store: Path, folder: Path) -> None:
    """Put a copy of a store that holds no runs into ``folder``."""
    with (
        closing(sqlite3.connect(store)) as source,
        closing(sqlite3.connect(folder / "mlflow.db")) as copy,
    ):
        source.backup(copy)


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A folder that stands for the repository where runs are recorded."""
    folder = tmp_path / "root"
    folder.mkdir()
    copy_store(empty_store, folder)
    return folder


@pytest.fixture
def compose(tmp_path: Path) -> Compose:
    """``compose(*overrides)`` gives the config of a small run that stays in ``tmp_path``."""

    def composed(*overrides: str, small: bool = True, **kwargs: Any) -> DictConfig:
        paths = (
            f"paths.root={tmp_path / 'root'}",
            f"paths.data={REPOSITORY / 'data'}",
            f"paths.outputs={tmp_path / 'outputs'}",
        )
        with initialize_config_dir(str(REPOSITORY / "conf")):
            kwargs = {"config_name": "train", **kwargs}
            return hydra_compose(
                overrides=[*paths, *(SMALL if small else ()), *overrides], **kwargs
            )

    return composed


class MakesFolder:
    """An object that makes a folder when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def write_idx(path: Path, values: Any) -> None:
    """Write an array of bytes in the format of MNIST's files."""
    values = np.asarray(values, dtype=np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes())


def write_digits(data: Path, n_train: int = 60, n_test: int = 20) -> Path:
    """Write a small MNIST, unpacked as torchvision reads it, below ``data``; give its folder."""
    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", n_train), ("t10k", n_test)):
        labels = np.arange(n) % 10
        images = np.arange(n * 784).reshape(n, 28, 28) % 256
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
    return raw


def parts(cfg: DictConfig) -> tuple[Training, Split, Split]:
    """What ``cfg`` trains, and the images that it trains and validates on."""
    job = assemble(cfg)
    return job.training, job.train, job.val


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def command_line(script: str, *arguments: str) -> list[str]:
    return [
        sys.executable,
        str(REPOSITORY / "src" / script),
        f"paths.data={REPOSITORY / 'data'}",
        *SMALL,
        *arguments,
    ]


def environment(root: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "HYDRASWEEP_ROOT": str(root), **extra}


@pytest.fixture
def script(root: Path, tmp_path: Path) -> Script:
    """``script("train.py", *overrides)`` runs an entrypoint as a user does, from elsewhere."""

    def run(name: str, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command_line(name, *arguments),
            cwd=tmp_path,
            env=environment(root, **extra),
            text=True,
            capture_output=True,
        )

    return run


@pytest.fixture
def stopped(root: Path, tmp_path: Path) -> Callable[..., "tuple[int, str, str]"]:
    """``stopped(signum, line, *overrides)`` trains until ``line`` is printed and the run is open in
    MLflow, sends the signal and gives exit code, stdout and stderr."""

    def run(signum: int, line: str, *arguments: str) -> tuple[int, str, str]:
        process = subprocess.Popen(
            command_line("train.py", *arguments),
            cwd=tmp_path,
            env=environment(root),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            seen = []
            for text in process.stdout:
                seen.append(text)
                if line in text:
                    while not list(root.rglob("mlflow_run_id")) and process.poll() is None:
                        time.sleep(0.1)
                    process.send_signal(signum)
                    break
            out, err = process.communicate()
        return process.returncode, "".join(seen) + out, err

    return run


def client_of(root: Path) -> "MlflowClient":
    from mlflow import MlflowClient  # two seconds

    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def runs_of(client: "MlflowClient") -> "list[RecordedRun]":
    experiment = client.get_experiment_by_name("hydrasweep")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def epochs_of(client: "MlflowClient", run: "RecordedRun", metric: str = "train/loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


@contextmanager
def at_line(line: str, act: Callable[[], None]) -> Iterator[None]:
    """Do ``act`` when training writes ``line``."""

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
    """A real MLflow server over a database, by default one in ``folder``: its port, and what
    kills it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(port: int) -> "subprocess.Popen[bytes]":
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
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    return process
            except OSError:
                time.sleep(0.2)
        raise RuntimeError("the server did not start")

    process = start(port)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        yield port, end
    finally:
        end()
