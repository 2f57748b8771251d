"""How an entrypoint ends: with an exit code, and a sentence instead of a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hydrasweep.errors import UserError


class Terminated(SystemExit):
    """SIGTERM came."""


@contextmanager
def plain_exit(go_on: str | None = None) -> Iterator[None]:
    """Turn a user's error into one sentence and exit code 1, Ctrl-C into 130, SIGTERM into 143.

    ``go_on`` is the command that goes on after an interruption. HYDRA_FULL_ERROR=1 shows
    tracebacks.
    """
    hint = f" To go on: {go_on}" if go_on else ""
    exit_on_sigterm()
    try:
        yield
    except UserError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        print(f"\nStopped.{hint}", file=sys.stderr)
        sys.exit(130)
    except Terminated:
        print(f"Terminated.{hint}", file=sys.stderr)
        raise


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process by an exception, as Ctrl-C does: so that runs are closed."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Terminated(128 + signum)
