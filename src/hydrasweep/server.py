"""The process that the processes of trials are forked from.

It imports what trials need and runs nothing itself, so that each fork begins as a new process
would, without waiting for imports. Where forking is not safe, it runs the trials itself, one after
another.
"""

import atexit
import ctypes
import gc
import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from hydra.types import HydraContext, TaskFunction

# While modules are imported: MLflow's telemetry would start a thread, and torch would initialize
# CUDA to answer whether there is a GPU. Neither survives a fork.
WHILE_IMPORTING = {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
SAFE_THREADS = {"jemalloc_bg_thd"}  # pyarrow's allocator handles forks itself
MULTI_THREADED = "This process .* is multi-threaded"  # Python's warning
PR_SET_PDEATHSIG = 1  # of Linux's prctl
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


@dataclass(frozen=True)
class App:
    """What every trial of an app has in common."""

    task_function: TaskFunction
    hydra_context: HydraContext
    start_method: str | None = field(  # that the app has set for ``multiprocessing``
        default_factory=partial(multiprocessing.get_start_method, allow_none=True)
    )


class Started(NamedTuple):
    """A job began in a process; ``obstacle`` says why it is the server itself, if it is."""

    key: int
    pid: int
    obstacle: str


class Ended(NamedTuple):
    """The process of a job ended; ``result`` is None if it died before the job returned."""

    key: int
    exitcode: int | None
    result: Any


# A job is a function that is called with the app and other arguments.
Job = Callable[..., Any]


def fork_obstacle() -> str:
    """Return the reason why this process should not be forked, or "" if forking is safe."""
    if sys.platform != "linux":
        return f"libraries of {sys.platform} don't survive it"
    others = [t.name for t in threading.enumerate() if t is not threading.current_thread()]
    if others:
        return f"the process has threads ({', '.join(others)})"
    torch: Any = sys.modules.get("torch")
    if hasattr(torch, "cuda") and torch.cuda.is_initialized():
        return "CUDA is in use"
    if _native_threads():
        # Libraries such as OpenBLAS stop their threads before a fork. So fork once and look again.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", MULTI_THREADED, DeprecationWarning)
            if (pid := os.fork()) == 0:
                os._exit(0)
        os.waitpid(pid, 0)
    until = time.monotonic() + 0.2  # the system may list a thread that has ended for a moment
    while (names := _native_threads()) and time.monotonic() < until:
        time.sleep(0.01)
    if names:
        return f"a library has started threads ({', '.join(names)})"
    return ""


def _native_threads() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            name = (task / "comm").read_text().strip()
            if int(task.name) != threading.get_native_id() and name not in SAFE_THREADS:
                names.append(name)
    return names


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that can be imported."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception, SystemExit):
                importlib.import_module(name)
    if "optuna.storages._rdb.models" in sys.modules:
        from sqlalchemy.orm import configure_mappers

        configure_mappers()  # or each process would spend a tenth of a second on it


def loaded_modules() -> list[str]:
    """Return the names of the imported modules, except for those of Python itself."""
    tops = {*sys.stdlib_module_names, "__main__", "__mp_main__"}
    return [name for name in list(sys.modules) if name.partition(".")[0] not in tops]


def start(process: BaseProcess) -> None:
    """Start a fork of this process, which Python warns of where libraries have threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MULTI_THREADED, DeprecationWarning)
        process.start()


@dataclass
class _Running:
    process: BaseProcess
    receiver: Connection  # of its result
    result: Any = None
    modules: Sequence[str] = ()  # that it imported

    def receive(self) -> None:
        with suppress(Exception):  # it died while it sent, or sent what can't be read
            self.result, self.modules = self.receiver.recv()
        self.receiver.close()


def _end_with_parent() -> None:
    """Let the system kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill(process: BaseProcess) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)


class Server:
    """Runs jobs, each in a fork of this process if ``isolate`` is set and forking is safe.

    It ends, and kills the processes of its jobs, when the other end of ``connection`` is closed.
    """

    def __init__(self, connection: Connection, app: App, isolate: bool) -> None:
        self.connection = connection
        self.app = app
        self.isolate = isolate
        self._context = multiprocessing.get_context("fork")
        self._jobs: dict[int, _Running] = {}
        self._tried: set[str] = set()  # modules that were not imported, or can't be
        self._learning: tuple[BaseProcess, list[str]] | None = None

    def serve(self) -> None:
        """Run jobs until the connection is closed."""
        _end_with_parent()
        os.setsid()  # the terminal's Ctrl-C is handled by the process at the other end
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        atexit._clear()  # the functions of the process that this one may be a fork of
        atexit.register(logging.shutdown)
        self._added = [name for name in WHILE_IMPORTING if name not in os.environ]
        os.environ.update({name: WHILE_IMPORTING[name] for name in self._added})
        woken, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup)
        with suppress(EOFError, ConnectionError):
            while True:
                receivers = [job.receiver for job in self._jobs.values() if not job.receiver.closed]
                ready = wait([self.connection, woken, *receivers])
                if woken in ready:
                    os.read(woken, 4096)
                for job in self._jobs.values():
                    if job.receiver in ready:
                        job.receive()
                self._report_ended()
                if self.connection in ready:
                    self._handle(*self.connection.recv())
        processes = [job.process for job in self._jobs.values()]
        if self._learning:
            processes.append(self._learning[0])
        for process in processes:
            _kill(process)

    def _handle(self, key: int | None, payload: Any) -> None:
        if key is None:
            import_modules(payload)
        elif obstacle := fork_obstacle() if self.isolate else "hydra.sweeper.isolate=false":
            self._restore_environment()
            self.connection.send(Started(key, os.getpid(), obstacle))
            self.connection.send(Ended(key, 0, _run(self.app, payload)))
        else:
            receiver, sender = self._context.Pipe(duplex=False)
            process = self._fork(_run_and_send, sender, self.app, payload)
            sender.close()
            self._jobs[key] = _Running(process, receiver)
            self.connection.send(Started(key, process.pid or 0, ""))

    def _fork(self, function: Callable[..., None], *args: Any) -> BaseProcess:
        # Libraries look for this name to tell a main process from its workers.
        process = self._context.Process(
            target=self._begin, args=(os.getpid(), function, *args), name="MainProcess"
        )
        gc.freeze()  # collections in the fork need not look at what was imported
        start(process)
        return process

    def _begin(self, server_pid: int, function: Callable[..., None], *args: Any) -> None:
        """Make this fork look like a new process, call the function, and end as Python does."""
        os.setsid()  # for signals to reach the processes that the job starts, too
        _end_with_parent()
        if os.getppid() != server_pid:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.connection.close()
        os.close(self._wakeup)
        for job in self._jobs.values():
            job.receiver.close()
        self._restore_environment()
        multiprocessing.set_start_method(self.app.start_method, force=True)
        _reseed_numpy()
        function(*args)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        gc.collect()  # close files that the job has left open
        ctypes.CDLL(None).fflush(None)  # what C code has printed

    def _restore_environment(self) -> None:
        for name in self._added:
            os.environ.pop(name, None)

    def _report_ended(self) -> None:
        for key, job in list(self._jobs.items()):
            if job.process.exitcode is None:
                continue
            del self._jobs[key]
            if job.process.exitcode:
                _kill(job.process)  # what it has started
            if not job.receiver.closed and job.receiver.poll():
                job.receive()
            job.receiver.close()
            self.connection.send(Ended(key, job.process.exitcode, job.result))
            self._learn(job.modules)
        if self._learning and self._learning[0].exitcode is not None:
            process, modules = self._learning
            self._learning = None
            if process.exitcode == 0:
                import_modules(modules)

    def _learn(self, modules: Sequence[str]) -> None:
        """Import modules for the jobs to come, after a fork has shown that this is safe."""
        new = [name for name in modules if name not in sys.modules and name not in self._tried]
        if new and not self._learning:
            self._tried.update(new)
            self._learning = self._fork(_try_to_import, new), new


def _run(app: App, payload: bytes) -> Any:
    try:
        job, args = pickle.loads(payload)
        return job(app, *args)
    except BaseException:
        traceback.print_exc()
        return None


def _run_and_send(sender: Connection, app: App, payload: bytes) -> None:
    imports = _Imports()
    sender.send((_run(app, payload), imports.names()))
    sender.close()


class _Imports:
    """Records which modules a job imports, so that the server can import them for later jobs.

    It leaves out modules that are imported after the job changed an environment variable, because
    they may depend on it. Changes that a module makes while it is imported don't count.
    """

    def __init__(self) -> None:
        self._known = set(sys.modules)
        self._before_change: list[str] | None = None
        sys.addaudithook(self._look)

    def names(self) -> list[str]:
        names = loaded_modules() if self._before_change is None else self._before_change
        return [name for name in names if name not in self._known]

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in ("os.putenv", "os.unsetenv") or self._before_change is not None:
            return
        if os.environb.get(args[0]) == (args[1] if event == "os.putenv" else None):
            return  # it stays as it is
        frame, callers = sys._getframe(1), []
        while frame.f_back and frame.f_code is not _run.__code__:
            callers.append(str(frame.f_globals.get("__name__")))
            frame = frame.f_back
        caller = next((each for each in callers if each not in ("os", "collections.abc")), "")
        if "importlib._bootstrap" not in callers and not caller.startswith("hydrasweep."):
            self._before_change = loaded_modules()


def _try_to_import(modules: list[str]) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import_modules(modules)
    sys.exit(bool(fork_obstacle()))


def _reseed_numpy() -> None:
    """Give NumPy's global generator the random state of a new process, unless the app seeded it
    when it was imported."""
    numpy: Any = sys.modules.get("numpy")
    if numpy and "numpy.random" in sys.modules:
        generator = numpy.random.get_bit_generator()
        if getattr(generator, "seed_seq", None):  # not after numpy.random.seed()
            numpy.random.seed()


def main(descriptor: int) -> None:
    """Serve in a process that was not forked: the app comes through the connection."""
    connection = Connection(descriptor)
    sys.argv, state, app, isolate = pickle.loads(connection.recv_bytes())
    from hydra.core.singleton import Singleton
    from hydra.core.utils import setup_globals

    setup_globals()
    Singleton.set_state(state)
    Server(connection, app, isolate).serve()
