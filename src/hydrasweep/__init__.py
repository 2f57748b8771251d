"""Hyperparameter sweeps for any Hydra app: ``override hydra/sweeper: hydrasweep`` in its config,
and in its training loop ``if hydrasweep.report(loss, step): break``."""

from hydrasweep.api import load, record, report, trial
from hydrasweep.errors import Outage, UserError, plain_exit

__all__ = ["Outage", "UserError", "load", "plain_exit", "record", "report", "trial"]
