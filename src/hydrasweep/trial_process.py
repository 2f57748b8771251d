"""What the process of a trial does: it runs the trial as a Hydra job, with its output in the
trial's log, and returns how the trial ended."""

import bdb
import contextlib
import functools
import logging
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobStatus, run_job
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError, TrialPruned
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from hydrasweep import api
from hydrasweep.errors import (
    Terminated,
    is_outage,
    raise_received,
    received_first,
    root_cause,
    signals_as_exceptions,
    without_password,
)
from hydrasweep.server import App
from hydrasweep.storage import close_storages, open_storage
from hydrasweep.stratum import ERROR, WHERE, WHY, make_pruner, make_sampler
from hydrasweep.trial_runs import Context, child_runs
from hydrasweep.trials import GAVE_UP, SweepTrial

_replaced: list[Any] = []  # standard streams, which would close their descriptors when collected


@dataclass(frozen=True)
class Search:
    """What all trials of a phase have in common, without references to the sweep's config."""

    storage: DictConfig
    sampler: DictConfig | None
    pruner: DictConfig | None
    resumable: bool
    mlflow: Context | None
    sweep: str
    phase: str


@dataclass(frozen=True)
class Request:
    """A trial to run."""

    search: Search
    config: DictConfig  # of its Hydra job
    study: str
    trial_id: int
    seed: int  # added to the sampler's
    stratum: str
    name: str


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. ``kind`` is

    - "returned": with ``values``, or pruned (None);
    - "failed": with an error, which the attributes describe;
    - "interrupted": by a signal or a KeyboardInterrupt;
    - "outage": by a disk or a server that failed, as ``why`` says;
    - "storage": because Optuna's storage failed.
    """

    kind: str
    values: Sequence[float] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)  # user attributes of the trial
    why: str = ""


def run_trial(app: App, request: Request) -> Outcome:
    """Run a trial in this process; return how it ended."""
    os.environ.pop("MLFLOW_RUN_ID", None)  # all trials would write to the run that it names
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    job = _Job(app, request)
    try:
        with signals_as_exceptions(), received_first():
            outcome = job.run()
            raise_received()  # the task function may have caught it
    except (KeyboardInterrupt, Terminated):
        outcome = Outcome("interrupted")
    except (StorageInternalError, SQLAlchemyError) as error:
        outcome = Outcome("storage", why=root_cause(error))
    except BaseException as error:
        if is_outage(error):
            outcome = Outcome("outage", why=str(error))
        else:
            outcome = Outcome("failed", attrs=failure(error))
    finally:
        api.set_current(None)
        with contextlib.suppress(Exception):
            close_storages()
    return outcome


class _Job:
    """The Hydra job of a trial."""

    def __init__(self, app: App, request: Request) -> None:
        self.app, self.request = app, request

    def run(self) -> Outcome:
        """Run the job; return its values."""
        config, search = self.request.config, self.request.search
        self.log = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        self.log /= f"{config.hydra.job.name}.log"
        self._write_to_log()
        study = optuna.load_study(
            study_name=self.request.study,
            storage=open_storage(search.storage),
            sampler=make_sampler(search.sampler, self.request.seed),
            pruner=make_pruner(search.pruner, search.resumable),
        )
        trial = self.trial = SweepTrial(
            study,
            self.request.trial_id,
            sweep=search.sweep,
            phase=search.phase,
            stratum=self.request.stratum,
            name=self.request.name,
            parent_run_id=search.mlflow and search.mlflow.run_id,
        )
        api.set_current(trial)
        with child_runs(search.mlflow, trial):
            value = self._run_hydra_job()
            raise_received()
            gave_up = trial.was_pruned and not trial.was_advised
            trial.was_pruned = trial.is_pruned(value)
            values = None if trial.was_pruned else as_values(value, study.directions)
        return Outcome("returned", values, {GAVE_UP: True} if gave_up else {})

    def _write_to_log(self) -> None:
        """Make the trial's log the standard output and error of this process, and of those that it
        starts; and its standard input empty."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        _replaced.append((sys.stdin, sys.stdout, sys.stderr))
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((null, file, file)):
            os.dup2(descriptor, number)
        os.close(file)
        os.close(null)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout, sys.stderr = (
            os.fdopen(
                number, "w",
                buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False,
            )
            for number in (1, 2)
        )  # fmt: skip

    def _run_hydra_job(self) -> Any:
        """Return what the task function returned; None if it raised TrialPruned."""
        pid = os.getpid()

        @functools.wraps(self.app.task_function)
        def task(cfg: DictConfig) -> Any:
            self._configure_logging()
            try:
                return self.app.task_function(cfg)
            except TrialPruned:  # Optuna's own way, which Hydra would log as an error
                self.trial.was_pruned = True
            except Exception:  # which Hydra logs
                raise
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                if os.getpid() != pid:  # a fork of this process; the trial is not its own
                    if error := sys.exception():
                        traceback.print_exception(error)
                    os._exit(1 if error else 0)

        ret = run_job(
            hydra_context=self.app.hydra_context,
            task_function=task,
            config=self.request.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if ret.status != JobStatus.COMPLETED:
            raise ret._return_value  # its property would write about it on the screen
        return ret.return_value

    def _configure_logging(self) -> None:
        """Log each line once where a handler writes to the trial's log and another to the console,
        which is the same file; and no password."""
        root = logging.getLogger()
        files = [each for each in root.handlers if isinstance(each, logging.FileHandler)]
        for file in files:
            file.addFilter(_hide_passwords)
        if any(self.log.samefile(file.baseFilename) for file in files):
            for handler in list(root.handlers):
                if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                    root.removeHandler(handler)


def _hide_passwords(record: logging.LogRecord) -> bool:
    """Take passwords out of the traceback that Hydra writes to a failed trial's log."""
    if record.exc_info and record.exc_info[1]:
        lines = "".join(traceback.format_exception(record.exc_info[1]))
        record.exc_text = without_password(lines.rstrip())
    return True


def failure(error: BaseException) -> dict[str, str]:
    """Return the user attributes of a trial that say how it failed."""
    lines = "".join(traceback.format_exception(error))
    # Its first line: Hydra appends one with a key.
    line, *_ = "".join(traceback.format_exception_only(error)).splitlines()
    if isinstance(error, EOFError | bdb.BdbQuit):
        line += " (a trial has no standard input, so that it can't wait for a person's answer)"
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    where = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    return {
        ERROR: without_password(lines),
        WHY: without_password(line),
        WHERE: " ".join([type(error).__name__, *where]),
    }


def as_values(value: Any, directions: Sequence[StudyDirection]) -> list[float]:
    """The objectives as Optuna takes them. One may be infinitely bad, as of a training that
    diverged.

    Raises:
        ValueError: they are not one number for each direction, or infinitely good.
    """
    n = len(directions)
    is_several = (n > 1 or isinstance(value, Sequence)) and not isinstance(value, str | bytes)
    try:
        given = value if is_several else [value]
        if any(isinstance(number, bytes) for number in given):
            raise TypeError  # float() would read them
        numbers = [float(number) for number in given]
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"the task function must return {n} number(s), not {value!r}") from None
    if len(numbers) != n or any(map(math.isnan, numbers)):
        raise ValueError(f"the task function must return {n} number(s), not {value!r}")
    for number, direction in zip(numbers, directions, strict=True):
        if number == (-math.inf if direction == StudyDirection.MINIMIZE else math.inf):
            raise ValueError(
                f"the task function returned {value!r}, which no trial can beat where it is to "
                f"{direction.name.lower()}: it must return a finite number, or raise an error"
            )
    return numbers
