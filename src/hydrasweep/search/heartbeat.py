"""Signs of life: given by who works on a trial, and missed by all others.

A process of the same machine can be looked up. Of another machine's, nothing is known but
what it writes into the storage.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

from hydrasweep.processes import is_dead, is_here

# Marks in a trial's user attributes.
OWNER = "owner"  # the process that works on it
BEAT = "beat"  # how often that has given a sign of life

SECONDS = "heartbeat"  # in the owner: the time between two signs
N_MISSED = 4  # so many of them are missed before the owner is taken for dead


@contextmanager
def beating(trial: Trial, seconds: float) -> Iterator[None]:
    """Give signs of life from a thread while the trial runs."""
    ended = threading.Event()

    def beat() -> None:
        n = 0
        while not ended.wait(seconds):
            n += 1
            try:
                trial.set_user_attr(BEAT, n)
            except UpdateFinishedTrialError:  # others have taken it for lost
                return
            except (StorageInternalError, OSError):
                continue  # the storage may be back at the next

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Watch:
    """Tells running trials from lost ones.

    A heartbeat is a change, timed by who sees it: clocks of machines differ.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_lost(self, trial: FrozenTrial) -> bool:
        """Whether a running trial's process has died, or has been silent for too long."""
        owner = trial.user_attrs.get(OWNER)
        if not owner:  # begun by none of our workers, which nobody will end
            return True
        if is_here(owner):
            return is_dead(owner)
        sign, now = (owner, trial.user_attrs.get(BEAT), trial.last_step), time.monotonic()
        before, since = self._seen.get(trial._trial_id, (None, now))
        if sign != before:
            since = now
        self._seen[trial._trial_id] = sign, since
        return bool(now - since > N_MISSED * owner[SECONDS])
