"""What a user can put right, and the one boundary that turns it into words."""

import errno
import io
import logging
import os
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from hydrasweep.slips import advice

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # full, read-only, broken
WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
# Slurm and others say by SIGUSR2 that time is up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
# Has a traceback of any exception that comes while a connection goes back, a signal's as well.
POOL_LOG = logging.getLogger("sqlalchemy.pool")


class UserError(ValueError):
    """A setting, file or store that does not fit; the message is a sentence that says what
    it was and what is allowed, and is all that the user needs to see."""


class Outage(UserError):
    """A disk, a store or a server failed: what was being tried is not to blame, and can be
    resumed once it is put right. A trial that raises it stops its sweep and does not fail."""


class Terminated(SystemExit):
    """SIGTERM or SIGUSR2 came, or SIGHUP: the terminal was closed."""


_received: KeyboardInterrupt | Terminated | None = None  # the signal that is to end this process
_defers = False  # whether a signal raises its exception later, at the end of ``uninterrupted``


def is_outage(error: BaseException) -> bool:
    """Whether it is an outage, or a disk's error that nobody has called so yet."""
    return isinstance(error, Outage) or (isinstance(error, OSError) and error.errno in DISK)


def root_cause(error: BaseException) -> str:
    """The error that all others around it came from, in one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return without_password(f"{type(error).__name__}: {error}".splitlines()[0])


def without_password(text: str) -> str:
    """The text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=\w:)//\S*@", "//", text)


@contextmanager
def plain_exit(resume: str | None = None) -> Iterator[None]:
    """End an entrypoint with one sentence in place of a traceback.

    A user's error exits with 1, Ctrl-C with 130, SIGTERM with 143, a closed terminal with 129.
    ``resume`` is the command that resumes after an interruption. HYDRA_FULL_ERROR=1 shows
    tracebacks.
    """
    hint = f" To resume: {resume}" if resume else ""
    with signals_as_exceptions():  # until all is said: further signals are ignored
        try:
            # Without the variable Hydra prints errors itself.
            with environment(HYDRA_FULL_ERROR="1"), tolerant_output(), received_first():
                yield
                if sys.stdout:
                    sys.stdout.flush()
        except Exception as error:
            if WANTS_TRACEBACK:
                raise
            _discard_output()
            if not (words := _in_words(error)):
                traceback.print_exc()
                sys.exit(1)
            sys.exit(f"Error: {words}" + (f".{hint}" if hint and is_outage(error) else ""))
        except KeyboardInterrupt:
            print(f"\nStopped.{hint}", file=sys.stderr)
            sys.exit(130)
        except Terminated as end:
            print(f"Terminated.{hint}", file=sys.stderr)
            sys.exit(end.code)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and put back what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM, SIGHUP and SIGUSR2 raise an exception, so that what is open is closed;
    while that is being done, further ones are ignored. Puts the old handlers back."""
    global _received
    if threading.current_thread() is not threading.main_thread():  # only there can they be set
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    level, _received = POOL_LOG.level, None
    for each, handler in before.items():
        if handler != signal.SIG_IGN:  # as a shell sets it in the background
            signal.signal(each, _raise)
    try:
        yield
    finally:
        POOL_LOG.setLevel(level)
        for each, handler in before.items():
            if handler != _raise or not _received:  # else an outer call is to end as well
                signal.signal(each, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal that comes in this block raise its exception at the end of the block."""
    global _defers
    before, _defers = _received, True
    try:
        yield
    finally:
        _defers = False
    if _received is not before:
        raise_received()


def _raise(signum: int, frame: FrameType | None) -> None:
    del frame
    global _received
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    POOL_LOG.setLevel(logging.CRITICAL)
    _received = KeyboardInterrupt() if signum == signal.SIGINT else Terminated(128 + signum)
    if not _defers:
        raise _received


@contextmanager
def received_first() -> Iterator[None]:
    """Raise a signal's exception in place of what a library made of it."""
    try:
        yield
    except Exception:
        raise_received()
        raise


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Let standard output replace what a screen without Unicode can't show."""
    if not isinstance(sys.stdout, io.TextIOWrapper):
        yield
        return
    stdout, before = sys.stdout, sys.stdout.errors
    stdout.reconfigure(errors="replace")
    try:
        yield
    finally:
        if not stdout.closed:
            with suppress(OSError):  # it flushes first, which fails when nobody reads the output
                stdout.reconfigure(errors=before)


def raise_received() -> None:
    """Raise a signal's exception again, in case a finalizer or a library swallowed it or made
    another error of it.

    Raises:
        KeyboardInterrupt, Terminated: a signal came that has not ended this process yet.
    """
    if _received:
        raise _received


def _in_words(error: Exception) -> str:
    """What to tell of an error instead of a traceback; "" of a bug in code of ours or a user's."""
    # The stock sweeper's class refuses the settings of others with a TypeError.
    if isinstance(error, HydraException | TypeError) and (better := advice(error)):
        return without_password(better)
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{error}\n{error.__cause__}".strip()
    if isinstance(error, UserError):  # whose writer has left passwords out
        return str(error)
    if isinstance(error, OSError | HydraException | OmegaConfBaseException):
        return without_password(str(error))
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = frame.f_globals.get("__name__", "")
        if name.startswith("hydra."):
            told = without_password(f"{type(error).__name__}: {error}")
            return f"Hydra failed at a setting or a file of the config ({told})"
        # A compiled module's frames name the source that it was compiled from.
        path = str(frame.f_globals.get("__file__") or frame.f_code.co_filename)
        if name.startswith("hydrasweep.") or not path.startswith(libraries):
            break
    return ""


def _discard_output() -> None:
    """Let Python's own last flush go nowhere where standard output can't be written."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
