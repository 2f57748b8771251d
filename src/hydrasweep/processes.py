"""Processes that run trials, as a worker starts, watches and signals them."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton

from hydrasweep import server
from hydrasweep.errors import Outage, UserError, uninterrupted
from hydrasweep.server import App, Ended, Job, Started

MAX_DEAD = 3  # servers in a row that died before they began a job
SECONDS_TO_END = 5  # that a server has to end by itself


class Processes:
    """Runs jobs in ``n_slots`` slots, each of them in a process of its own.

    The processes are forked from one server. If ``gpus`` names the GPU of each slot, they are
    forked from one for each GPU, for modules that ask for GPUs when they are imported. Where
    forking is not safe, ``obstacle`` says why, and each slot has a server that runs the jobs
    itself.
    """

    def __init__(
        self, app: App, n_slots: int = 1, gpus: Sequence[str] = (), isolate: bool = True
    ) -> None:
        self.n_slots = n_slots
        self.obstacle = "" if isolate else "hydra.sweeper.isolate=false"
        if isolate and sys.platform != "linux":
            self.obstacle = server.fork_obstacle()
        self._app = app
        self._gpus = list(gpus) or [""]
        self._isolate = isolate
        self._servers: dict[tuple[str, int], _Server] = {}
        self._slots: dict[int, tuple[_Server, int | None]] = {}  # with the process's id
        self._ended: list[Ended] = []  # that ``wait`` has not returned yet
        self._modules: list[str] = []
        self._n_dead = 0  # servers, since one began a job
        self._server(0)

    def _server(self, slot: int) -> "_Server":
        gpu = self._gpus[slot % len(self._gpus)]
        key = gpu, slot if self.obstacle else 0
        if key not in self._servers:
            # Only the first can be a fork: later on, this process has open files and connections.
            forks = self._isolate and not gpu and not self._servers and not server.fork_obstacle()
            self._servers[key] = _Server(self._app, gpu, self._isolate, forks)
            with suppress(ConnectionError):  # the first job will tell
                self._servers[key].send(None, self._modules)
        return self._servers[key]

    def import_modules(self, names: Iterable[str]) -> None:
        """Have the servers import modules, now and when one is started again."""
        new = [name for name in names if name not in self._modules]
        self._modules += new
        for each in self._servers.values():
            with suppress(ConnectionError):
                each.send(None, new)

    def start(self, slot: int, job: Job, *args: Any) -> None:
        """Start a job in a free slot."""
        while True:
            server = self._server(slot)
            try:
                server.send(slot, server.dumps((job, args)))
                self._slots[slot] = server, None
                return
            except ConnectionError:  # it has died since it was last looked at
                self._drop(server)

    def wait(self, timeout: float) -> list[Ended]:
        """Wait until a job has ended, for at most ``timeout`` seconds; return those that have."""
        until = time.monotonic() + timeout
        while not self._ended and (left := until - time.monotonic()) >= 0:
            for each in [each for each in self._servers.values() if each.has_ended()]:
                self._drop(each)  # a process that its job has left may hold the connection open
            servers = {each.connection: each for each in self._servers.values()}
            for connection in wait(list(servers), left):
                with uninterrupted():
                    self._receive(servers[connection])  # type: ignore[index]
        ended, self._ended = self._ended, []
        return ended

    def _receive(self, server: "_Server") -> None:
        try:
            message: Started | Ended = server.connection.recv()
        except (EOFError, ConnectionError):
            self._drop(server)
            return
        if isinstance(message, Started):
            self._slots[message.key] = server, message.pid
            self.obstacle = self.obstacle or message.obstacle
            self._n_dead = 0
        else:
            del self._slots[message.key]
            self._ended.append(message)

    def _drop(self, server: "_Server") -> None:
        """Forget a server that died, and end the processes of its jobs.

        Raises:
            Outage: several died, one after another, before they began any.
        """
        self._servers = {key: each for key, each in self._servers.items() if each is not server}
        jobs = [slot for slot, (each, _) in self._slots.items() if each is server]
        had_begun = any(self._slots[slot][1] for slot in jobs)
        for slot in jobs:
            self.signal(slot, signal.SIGKILL)
            del self._slots[slot]
        code = server.close()
        self._ended += [Ended(slot, code, None) for slot in jobs]
        self._n_dead = 0 if had_begun else self._n_dead + 1
        if self._n_dead == MAX_DEAD:
            raise Outage(
                f"the process that starts the trials {how_it_ended(code)} before it began any, "
                f"{MAX_DEAD} times in a row"
            )

    def signal(self, slot: int, signum: int) -> bool:
        """Send a signal to a job's process, SIGKILL to all processes of the job; return False if
        the process has not begun."""
        _, pid = self._slots.get(slot, (None, None))
        if pid is None:
            return False
        with suppress(ProcessLookupError, PermissionError):
            if signum == signal.SIGKILL:
                os.killpg(pid, signum)
            else:
                os.kill(pid, signum)
        return True

    def call(self, job: Job, *args: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Run a job and return its result; do something else ``meanwhile`` in this process.

        Raises:
            UserError: the process died.
        """
        self.start(0, job, *args)
        meanwhile()
        while not (ended := self.wait(1.0)):
            pass
        if (result := ended[0].result) is None:
            raise UserError(f"the process that checks the sweep {how_it_ended(ended[0].exitcode)}")
        return result

    def close(self) -> None:
        """End all processes."""
        for slot in self._slots:
            self.signal(slot, signal.SIGKILL)
        for each in self._servers.values():
            each.connection.close()
        for each in self._servers.values():
            each.close()
        self._servers.clear()
        self._slots.clear()


class _Server:
    """This process's side of a server."""

    def __init__(self, app: App, gpu: str, isolate: bool, forks: bool) -> None:
        self.connection, other = multiprocessing.Pipe()
        if forks:
            process = multiprocessing.get_context("fork").Process(
                target=_serve, args=(self.connection, other, app)
            )
            server.start(process)
            self._exitcode: Callable[[], int | None] = lambda: process.exitcode
            self._kill = process.kill
            self.dumps = _pickled
        else:
            environment = os.environ | {"PYTHONPATH": python_path()}
            environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
            code = f"from hydrasweep.server import main; main({other.fileno()})"
            popen = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL, pass_fds=[other.fileno()], env=environment,
            )  # fmt: skip
            self._exitcode, self._kill = popen.poll, popen.kill
            self.dumps = cloudpickle.dumps
        other.close()
        if not forks:
            state = Singleton.get_state()
            with suppress(ConnectionError):
                self.connection.send_bytes(self.dumps((sys.argv, state, app, isolate)))

    def send(self, key: int | None, payload: Any) -> None:
        self.connection.send((key, payload))

    def has_ended(self) -> bool:
        return self._exitcode() is not None and not self.connection.poll()

    def close(self) -> int | None:
        """End the process; return its exit code."""
        self.connection.close()
        until = time.monotonic() + SECONDS_TO_END
        while self._exitcode() is None:
            time.sleep(0.01)
            if time.monotonic() > until:
                self._kill()
        return self._exitcode()


def _pickled(value: Any) -> bytes:
    """Pickle a value for a fork of this process, which knows the classes of the app's script. A
    worker that a launcher started has another main module. There, classes go by value."""
    try:
        return pickle.dumps(value)
    except (pickle.PicklingError, AttributeError):
        return bytes(cloudpickle.dumps(value))


def _serve(near: Connection, far: Connection, app: App) -> None:
    near.close()
    server.Server(far, app, isolate=True).serve()


def how_it_ended(exitcode: int | None) -> str:
    """Say how a process ended that did not return a result."""
    if exitcode in {-each for each in signal.Signals}:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"ended with exit code {exitcode}"


def python_path() -> str:
    """Return the PYTHONPATH with which a new process finds what this one can import, such as a
    module beside the app."""
    standard = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = [str(Path(path).resolve()) for path in sys.path if not path.startswith(standard)]
    return os.pathsep.join(dict.fromkeys(own))
