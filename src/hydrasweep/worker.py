"""What each worker does: take a trial, compose its config, run it, tell; until none is left."""

import contextlib
import gc
import logging
import math
import os
import signal
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hydrasweep import api
from hydrasweep.compose import Composer
from hydrasweep.errors import (
    Terminated,
    is_outage,
    raise_received,
    received_first,
    signals_as_exceptions,
    without_password,
)
from hydrasweep.job import put_back, run_quietly, time_limit
from hydrasweep.liveness import beating, is_dead
from hydrasweep.plan import Plan
from hydrasweep.storage import close_storages
from hydrasweep.stratum import ERROR, LOST, WHERE, WHY, Stratum
from hydrasweep.studies import Studies
from hydrasweep.trial_runs import child_runs
from hydrasweep.trials import GAVE_UP, SEARCH, SweepTrial, origin

IDLE_SECONDS = 1  # between two looks for a trial that another worker has lost
OUTAGE_SECONDS = 3  # in which a storage may be back, or the sweep's own process ends the sweep
MAX_OUTAGES = 5  # in a row: a storage may go on to be read, and have no room for what is written
N_ALIKE = 3  # so many failures with one error, before anything else has ended, end the sweep


def work(
    cfg: DictConfig,
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
) -> int:
    """Work until no trial is left; the task function of a worker's own Hydra job.

    Not before the others are done with theirs: a trial whose worker dies is left again.
    ``config`` is the sweep's config. Gives the number of trials done.
    """
    del cfg
    logging.raiseExceptions = False  # its log may find no room; the screen is the sweep's
    own: Any = HydraConfig.get()
    if plan.parent["pid"] == str(os.getpid()):
        return _work_off(plan, task_function, hydra_context, config, own)
    if plan.gpus:  # before torch is imported
        os.environ["CUDA_VISIBLE_DEVICES"] = plan.gpus[own.job.num % len(plan.gpus)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with signals_as_exceptions(signal.SIGUSR2):  # with which Slurm says that time is up
            return _work_off(plan, task_function, hydra_context, config, own)
    except (KeyboardInterrupt, Terminated):
        # A launcher would send the exception home, where it is pickled together with Hydra's
        # result, each holding the other: that never ends.
        os._exit(1)
    finally:
        gc.unfreeze()  # or libraries tell at the end of what was not collected
        close_storages()
        if is_dead(plan.parent):  # nobody takes what joblib would send: it would wait for ever
            os._exit(1)


def _work_off(
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
    own: Any,
) -> int:
    # Another seed for each worker and each start, or all would suggest the same.
    seed_offset = 1_000_000 * plan.start + 1000 * plan.open().n_begun() + own.job.num
    studies = plan.open(seed_offset)
    composer = Composer(hydra_context.config_loader, config, plan.composed)
    distributions = plan.space.distributions if plan.phase == SEARCH else {}
    n_done = n_outages = 0
    while (plan.deadline is None or time.time() < plan.deadline) and not is_dead(plan.parent):
        raise_received()
        try:
            if (taken := studies.take(distributions)) is None:
                if studies.stop_reason() or studies.is_idle():
                    break
                studies.settle()
                time.sleep(IDLE_SECONDS)
                continue
            run_trial(studies, *taken, plan, task_function, hydra_context, composer)
        except (StorageInternalError, SQLAlchemyError):
            n_outages += 1
            if n_outages == MAX_OUTAGES:
                raise
            time.sleep(OUTAGE_SECONDS)
            studies.requeue_own()
            continue
        # Each job sets logging up for its own folder; this is the worker's again.
        configure_log(own.job_logging, own.verbose, hydra_context.execution_whitelist)
        n_done, n_outages = n_done + 1, 0
        if n_done == 1 and plan.parent["pid"] != str(os.getpid()):
            gc.freeze()  # what trials import; to look through it again takes up to a tenth
    return n_done


def run_trial(
    studies: Studies,
    stratum: Stratum,
    trial: Trial,
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    composer: Composer,
) -> None:
    """Run one trial as a Hydra job of its own, and tell Optuna how it ended."""
    seen = SweepTrial.adopt(
        trial,
        sweep=plan.name,
        phase=plan.phase,
        stratum=stratum.value,
        name=stratum.label(trial),
        parent_run_id=plan.mlflow and plan.mlflow.run_id,
        launched_by=plan.parent,
    )
    api.set_current(seen)
    try:
        with (
            child_runs(plan.mlflow, seen),
            beating(trial, studies.heartbeat),
            received_first(),
        ):
            config = compose(stratum, seen, plan, composer)
            with put_back(), time_limit(plan.settings.trial_timeout):
                value = run_quietly(task_function, hydra_context, config, seen)
            if seen.was_pruned and not seen.was_advised:
                seen.set_user_attr(GAVE_UP, True)
            seen.was_pruned = seen.is_pruned(value)
            values = None if seen.was_pruned else as_values(value, stratum.study.directions)
        state = TrialState.PRUNED if values is None else TrialState.COMPLETE
        stratum.study.tell(trial, values, state)
    except (KeyboardInterrupt, Terminated):
        studies.requeue(stratum, trial.number, "it was interrupted", counts=False)
        raise
    except StorageInternalError:  # it can't even be told of a failure
        raise
    except BaseException as error:
        if is_outage(error):  # each further trial would fail by it
            studies.requeue(stratum, trial.number, str(error), counts=False)
            return studies.stop(str(error))
        fail(stratum, seen, error)
        if reason := too_many_failures(studies, plan):
            studies.stop(reason)
    finally:
        api.set_current(None)


def fail(stratum: Stratum, trial: Trial, error: BaseException) -> None:
    """Tell Optuna that a trial failed, and keep why."""
    # Another may have taken the trial for lost, and ended it.
    with contextlib.suppress(UpdateFinishedTrialError):
        lines = "".join(traceback.format_exception(error))
        trial.set_user_attr(ERROR, without_password(lines))
        # Its first line: Hydra appends one with a key.
        line, *_ = "".join(traceback.format_exception_only(error)).splitlines()
        trial.set_user_attr(WHY, without_password(line))
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        where = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        trial.set_user_attr(WHERE, " ".join([type(error).__name__, *where]))
        stratum.study.tell(trial.number, state=TrialState.FAIL)


def compose(stratum: Stratum, trial: SweepTrial, plan: Plan, composer: Composer) -> DictConfig:
    """The config of the trial's job."""
    if plan.settings.custom_search_space and plan.phase == SEARCH:
        get_method(plan.settings.custom_search_space)(composer.config, trial)
    # As the study stores them: an integer that was enqueued for a range of floats is a float when
    # a paused trial goes on, and must be the same before.
    params = {
        name: distribution.to_external_repr(distribution.to_internal_repr(trial.params[name]))
        for name, distribution in trial.distributions.items()
    }
    overrides = [*plan.space.overrides(stratum.value, params), *plan.overrides]
    return composer.compose(overrides, stratum.label(trial), origin(trial))


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


def too_many_failures(studies: Studies, plan: Plan) -> str:
    """Why the sweep must end for its failures; "" where it need not."""
    finished = [trial for _, trial in studies.trials() if trial.state.is_finished()]
    failed = [trial for trial in finished if trial.state == TrialState.FAIL]
    failed.sort(key=lambda trial: trial.datetime_complete or datetime.max)
    places = {trial.user_attrs.get(WHERE, "") for trial in failed}
    attrs = failed[-1].user_attrs if failed else {}
    last = attrs.get(WHY) or attrs.get(LOST, "")
    limit, rate, why = plan.settings.max_failures, plan.settings.max_failure_rate, ""
    if limit is rate is None and len(finished) == len(failed) >= N_ALIKE and len(places) == 1:
        return f"the first {len(failed)} trials failed alike: {last}"
    if limit is not None and len(failed) > limit:
        why = f"{len(failed)} trials failed, and max_failures={limit}"
    elif rate is not None and len(failed) > rate * len(finished):
        why = f"{len(failed)} of {len(finished)} trials failed, and max_failure_rate={rate}"
    return f"{why}; the last with {last}" if why else ""
