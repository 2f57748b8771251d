"""How an entrypoint ends: with an exit code, and a sentence instead of a traceback."""

import atexit
import io
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist.errors import Outage, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


class Terminated(SystemExit):
    """SIGTERM came, or SIGHUP: the terminal was closed."""


_asked: KeyboardInterrupt | Terminated | None = None  # by a signal, to end


@contextmanager
def plain_exit(go_on: str | None = None) -> Iterator[None]:
    """Turn a user's error into one sentence and exit code 1, Ctrl-C into 130, SIGTERM into 143,
    a closed terminal into 129.

    ``go_on`` is the command that goes on after an interruption. HYDRA_FULL_ERROR=1 shows
    tracebacks.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints tracebacks itself
    hint = f" To go on: {go_on}" if go_on else ""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a screen without Unicode
    end_on_signals()
    try:
        with heeding_signals():
            yield
        if sys.stdout:
            sys.stdout.flush()
    except Exception as error:
        if WANTS_TRACEBACK:
            raise
        _let_go_of_output()
        if not (words := _in_words(error)):
            traceback.print_exc()
            sys.exit(1)
        sys.exit(f"Error: {words}" + (f".{hint}" if hint and _can_go_on(error) else ""))
    except KeyboardInterrupt:
        print(f"\nStopped.{hint}", file=sys.stderr)
        sys.exit(130)
    except Terminated as end:
        print(f"Terminated.{hint}", file=sys.stderr)
        sys.exit(end.code)


@contextmanager
def prompt_end() -> Iterator[None]:
    """Let a process whose work here is done end at once after its other exit handlers: to take
    apart what torch and MLflow consist of takes Python a second or two."""
    is_done = False

    def leave() -> None:
        if is_done:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):  # closed, or none
                    stream.flush()
            os._exit(0)

    atexit.register(leave)  # who registers first is called last
    yield
    is_done = True


def _in_words(error: Exception) -> str:
    """What to tell of an error instead of a traceback; "" of a bug in code of ours or a user's."""
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{error}\n{error.__cause__}".strip()
    if isinstance(error, UserError | OSError | HydraException | OmegaConfBaseException):
        return str(error)
    frames = (frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__))
    ours = [name for name in frames if name.startswith(("hydra.", "hydrasweep.", "__main__"))]
    if not ours[-1].startswith("hydra."):
        return ""
    return f"Hydra failed at a setting or a file of the config ({type(error).__name__}: {error})"


def _can_go_on(error: Exception) -> bool:
    return isinstance(error, Outage | OSError)


def _let_go_of_output() -> None:
    """Let Python's own last flush go nowhere where standard output can't be written."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end this process by an exception, so that runs are closed;
    while that is being done, further ones are ignored."""
    global _asked
    _asked = None
    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # as a shell sets it in the background
            signal.signal(signum, _end)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    global _asked
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _asked = KeyboardInterrupt() if signum == signal.SIGINT else Terminated(128 + signum)
    raise _asked


def end_if_asked() -> None:
    """Raise what a signal asked for, where that was raised in a finalizer and came to nothing.

    Raises:
        KeyboardInterrupt, Terminated: a signal came, which has not ended this process yet.
    """
    if _asked:
        raise _asked


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Let a signal's exception through that came as an error of a library's, as omegaconf's
    own clearing up fails where it is interrupted half-way."""
    try:
        yield
    except Exception:
        end_if_asked()
        raise


class Screen(logging.StreamHandler[TextIO]):
    """Logs to a stream; ends the run when nobody takes what is written there."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise Outage(f"the output can't be written ({error.strerror})") from error


class LogFile(logging.FileHandler):
    """Logs to a file; ends the run when it can't be written."""

    handleError = Screen.handleError


class RefuseUnwritable(Callback):
    """Tells of an output folder that can't be written, which ends Hydra with a traceback."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs
        _probe(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        del kwargs
        _probe(config, "hydra.sweep.dir")


def _probe(config: DictConfig, key: str) -> None:
    value = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    if not value:  # known only to the job itself
        return
    folder = Path(value).absolute()
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(2**16))  # as much as Hydra's own files need
    except OSError as error:
        # Hydra lets a callback end by SystemExit alone, and swallows every other error.
        sys.exit(
            f"Error: {key}={value}: {existing} can't be written ({error.strerror}): make it "
            "writable, make room, or set paths.outputs=FOLDER"
        )
