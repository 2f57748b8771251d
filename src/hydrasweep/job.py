"""A trial as a Hydra job: its output in its own file, its time limited, its process left as it
was."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from optuna.exceptions import TrialPruned

from hydrasweep.errors import without_password
from hydrasweep.trials import SweepTrial


def run_quietly(
    task_function: TaskFunction, hydra_context: HydraContext, config: DictConfig, trial: SweepTrial
) -> Any:
    """Run a Hydra job; what it prints goes to its log file, not over the sweep's table."""

    @functools.wraps(task_function)
    def task(cfg: DictConfig) -> Any:
        _log_once()
        try:
            with _ended_children():
                return task_function(cfg)
        except TrialPruned:  # Optuna's own way, which Hydra would log as an error
            trial.was_pruned = True
        except Exception:  # which Hydra logs
            raise
        except BaseException:
            traceback.print_exc()
            raise

    folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    folder.mkdir(parents=True, exist_ok=True)
    with (
        io.TextIOWrapper(
            _LossyFile(folder / f"{config.hydra.job.name}.log", "a"),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        ) as output,
        _console_in(output),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        _descriptors_in(output),
    ):
        ret = run_job(
            hydra_context=hydra_context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if ret.status != JobStatus.COMPLETED:
            raise ret._return_value  # its property would write about it on the screen
    return ret.return_value


class _LossyFile(io.FileIO):
    """Leaves out what its disk has no room for: no trial fails for want of a log."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextlib.contextmanager
def _ended_children() -> Iterator[None]:
    """End the processes that a task function forks and that return from it as their parent does:
    the trial, and all that comes after it, is their parent's alone."""
    parent = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != parent:
            if error := sys.exception():
                traceback.print_exception(error)
            os._exit(1 if error else 0)


@contextlib.contextmanager
def _descriptors_in(output: TextIO) -> Iterator[None]:
    """Let subprocesses, and code that isn't Python's, write to a trial's file as well."""
    streams = {1: sys.__stdout__, 2: sys.__stderr__}
    # One that was closed when Python started may be the number of any file by now.
    screen = {number: os.dup(number) for number, stream in streams.items() if stream}
    for number in screen:
        os.dup2(output.fileno(), number)
    try:
        yield
    finally:
        with contextlib.suppress(TypeError, OSError):  # no C library to be found by that name
            ctypes.CDLL(None).fflush(None)  # what it has buffered is the trial's
        for number, copy in screen.items():
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _console_in(output: TextIO) -> Iterator[None]:
    """Let what is logged to the console go to a trial's file: a handler keeps the stream that it
    was made with, be it the screen's or a file's that is closed when its trial ends."""
    moved = {handler: handler.stream for handler in _handlers(sys.stdout, sys.stderr)}
    for handler in moved:
        handler.setStream(output)
    before, logging.raiseExceptions = logging.raiseExceptions, True
    try:
        yield
    finally:
        logging.raiseExceptions = before
        for handler in _handlers(output):
            handler.setStream(moved.get(handler, sys.stderr))


def _handlers(*streams: TextIO) -> list["logging.StreamHandler[TextIO]"]:
    """The handlers of all loggers that write to one of these streams."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = (handler for logger in loggers for handler in getattr(logger, "handlers", ()))
    return [h for h in handlers if isinstance(h, logging.StreamHandler) and h.stream in streams]


def _hide_passwords(record: logging.LogRecord) -> bool:
    """Take passwords out of the traceback that Hydra writes to a failed trial's log."""
    if record.exc_info and record.exc_info[1]:
        lines = "".join(traceback.format_exception(record.exc_info[1]))
        record.exc_text = without_password(lines.rstrip())
    return True


def _log_once() -> None:
    """Take the console's handlers from the log where a file has it too: a trial's console is that
    file."""
    root = logging.getLogger()
    files = [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]
    for file in files:
        file.addFilter(_hide_passwords)
    if files:
        for handler in list(root.handlers):
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                root.removeHandler(handler)


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Put back what a trial may leave changed in its process, where it would reach the next one."""
    folder, mask, variables = Path.cwd(), os.umask(0o22), dict(os.environ)
    os.umask(mask)
    torch = sys.modules.get("torch")  # else no trial before this one has changed it
    modes = (torch.get_default_dtype(), torch.is_grad_enabled()) if torch else None
    try:
        yield
    finally:
        os.chdir(folder)
        os.umask(mask)
        os.environ.clear()
        os.environ.update(variables)
        if torch := sys.modules.get("torch"):
            dtype, grad = modes or (torch.float32, True)
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise a TimeoutError in what takes longer, unless it stays in code that isn't Python's."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> NoReturn:
        del signum, frame
        raise TimeoutError(f"it took longer than hydra.sweeper.trial_timeout={seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
