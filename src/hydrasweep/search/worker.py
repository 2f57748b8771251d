"""What each worker does: take a trial, compose its config, train, tell; until none is left."""

import contextlib
import gc
import math
import os
import re
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus, configure_log, run_job
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError, TrialPruned, UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hydrasweep.cli import (
    Terminated,
    end_if_asked,
    end_on_signals,
    heeding_signals,
    prompt_end,
)
from hydrasweep.errors import is_outage
from hydrasweep.processes import is_dead
from hydrasweep.search import trial as trials
from hydrasweep.search.compose import Composer
from hydrasweep.search.heartbeat import beating
from hydrasweep.search.queue import EPOCHS, ERROR, WHY, Queue, Stratum
from hydrasweep.search.space import Space
from hydrasweep.search.trial import FINAL, SEARCH

IDLE_SECONDS = 1  # between two looks for a trial that another worker has lost
OUTAGE_SECONDS = 3  # in which a storage may be back, or the sweep's own process ends the sweep
N_ALIKE = 3  # so many failures with one error, before anything else has ended, end the sweep


@dataclass(frozen=True)
class Plan:
    """What every worker must know; it travels to them pickled."""

    name: str
    space: Space
    storage: Any
    directions: Sequence[str]
    sampler: DictConfig | None
    pruner: DictConfig | None
    custom_search_space: str | None
    deadline: float | None  # in seconds since the epoch
    max_failures: int | None
    max_failure_rate: float | None
    trial_overrides: Sequence[str]
    run_name_key: str | None  # the setting that takes a trial's readable name
    n_gpus: int
    parent: Mapping[str, str]  # the process that launched the workers
    heartbeat: float = 15.0  # in seconds
    warm_up: str | None = None  # a function that a worker calls before its first trial
    start: int = 0  # which of the sweep's starts, on all machines, this is
    phase: str = SEARCH

    def open(self, seed_offset: int = 0) -> Queue:
        searches = self.phase == SEARCH  # other phases are told all settings, and prune nothing
        queue = Queue.open(
            self.name,
            self.storage,
            self.space.strata,
            self.directions,
            self.sampler if searches else None,
            self.pruner if searches else None,
            seed_offset,
            self.phase,
        )
        queue.heartbeat, queue.start = self.heartbeat, self.start
        return queue


class SweepTrial:
    """Passes training's reports on to Optuna, and Optuna's verdict back."""

    in_sweep = True

    def __init__(self, trial: Trial, plan: Plan) -> None:
        self.is_final = plan.phase == FINAL
        self._trial = trial
        self._parent = plan.parent
        self._epoch = 0
        self._last = math.nan
        self.was_pruned = False

    def report(self, metrics: Mapping[str, float], objectives: list[str], epoch: int) -> None:
        """Record how the trial stands.

        Raises:
            KeyboardInterrupt: the sweep's own process died; nobody waits for this trial.
        """
        if is_dead(self._parent):
            raise KeyboardInterrupt("the sweep's process died")
        self._epoch = epoch
        # Optuna takes no reports on several objectives; test/* are known at the end alone.
        if len(objectives) == 1 and objectives[0] in metrics:
            self._last = metrics[objectives[0]]
            self._trial.report(self._last, epoch)
        else:
            self._trial.set_user_attr(EPOCHS, epoch)

    def should_prune(self) -> bool:
        self.was_pruned = self._epoch > 0 and not math.isnan(self._last)
        self.was_pruned = self.was_pruned and self._trial.should_prune()
        return self.was_pruned

    def reason(self) -> str:
        """Why it was stopped, in words."""
        pruner = type(self._trial.study.pruner).__name__
        return f"pruned at epoch {self._epoch} with {self._last:.4f} by {pruner}"


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
    end_on_signals()
    signal.signal(signal.SIGUSR2, signal.getsignal(signal.SIGTERM))  # Slurm's time is up
    own: Any = HydraConfig.get()
    if plan.n_gpus > 1:  # before torch is imported
        os.environ["CUDA_VISIBLE_DEVICES"] = str(own.job.num % plan.n_gpus)
    is_sweeps_own = plan.parent["pid"] == str(os.getpid())
    with contextlib.nullcontext() if is_sweeps_own else prompt_end():
        return _work_off(plan, task_function, hydra_context, config, own)


def _work_off(
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
    own: Any,
) -> int:
    # Another seed for each worker and each start, or all would propose the same.
    seed_offset = 1_000_000 * plan.start + 1000 * plan.open().n_finished() + own.job.num
    queue = plan.open(seed_offset)
    composer = Composer(hydra_context.config_loader, config)
    if plan.warm_up:
        get_method(plan.warm_up)(config)
    n_done = 0
    try:
        while (plan.deadline is None or time.time() < plan.deadline) and not is_dead(plan.parent):
            end_if_asked()
            try:
                if (taken := queue.take(plan.space.distributions)) is None:
                    if queue.stop_reason() or queue.is_idle():
                        break
                    queue.settle()
                    time.sleep(IDLE_SECONDS)
                    continue
                run_trial(queue, *taken, plan, task_function, hydra_context, composer)
            except (StorageInternalError, SQLAlchemyError):
                time.sleep(OUTAGE_SECONDS)
                queue.give_up_own()
                continue
            # Each job sets logging up for its own folder; this is the worker's again.
            configure_log(own.job_logging, own.verbose, hydra_context.execution_whitelist)
            n_done += 1
            if n_done == 1:
                # All is imported now, and stays. A search for garbage that goes through it each
                # time takes a quarter of what a trial costs besides its training.
                gc.collect()
                gc.freeze()
    finally:
        gc.unfreeze()  # triton complains at the process's end of what was never freed
        if is_dead(plan.parent):  # nobody takes what joblib would send: it would wait for ever
            os._exit(1)
    return n_done


def run_trial(
    queue: Queue,
    stratum: Stratum,
    trial: Trial,
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    composer: Composer,
) -> None:
    """Run one trial as a Hydra job of its own, and tell Optuna how it ended."""
    seen = SweepTrial(trial, plan)
    trials.set_current(seen)
    try:
        with heeding_signals():
            config = compose(stratum, trial, plan, composer)
            with beating(trial, queue.heartbeat):
                value = run_quietly(task_function, hydra_context, config)
            if seen.was_pruned:
                stratum.study.tell(trial, state=TrialState.PRUNED)
            else:
                stratum.study.tell(trial, as_values(value, len(plan.directions)))
    except TrialPruned:  # a task function that prunes in Optuna's own way
        stratum.study.tell(trial, state=TrialState.PRUNED)
    except (KeyboardInterrupt, Terminated):
        queue.give_up(stratum, trial.number, "it was interrupted", blame=False)
        raise
    except StorageInternalError:  # it can't even be told of a failure
        raise
    except (Exception, SystemExit) as error:
        if is_outage(error):  # each further trial would fail by it
            queue.give_up(stratum, trial.number, str(error), blame=False)
            return queue.stop(str(error))
        # Another may have taken the trial for lost, and ended it.
        with contextlib.suppress(UpdateFinishedTrialError):
            trial.set_user_attr(ERROR, "".join(traceback.format_exception(error)))
            # Its first line: Hydra appends one with a key.
            line, *_ = "".join(traceback.format_exception_only(error)).splitlines()
            trial.set_user_attr(WHY, line)
            stratum.study.tell(trial, state=TrialState.FAIL)
        if reason := too_many_failures(queue, plan):
            queue.stop(reason)
    finally:
        trials.set_current(trials.NullTrial())


def compose(stratum: Stratum, trial: Trial, plan: Plan, composer: Composer) -> DictConfig:
    """The config of the trial's job."""
    if plan.custom_search_space and plan.phase == SEARCH:
        get_method(plan.custom_search_space)(composer.config, trial)
    overrides = [*plan.space.overrides(stratum.value, trial.params), *plan.trial_overrides]
    if plan.run_name_key:
        overrides.append(f"{plan.run_name_key}='{run_name(stratum, trial)}'")
    return composer.compose(overrides, stratum.label(trial.number), trial.number)


def run_quietly(
    task_function: TaskFunction, hydra_context: HydraContext, config: DictConfig
) -> Any:
    """Run a Hydra job; what it prints goes to its log file, not over the sweep's table."""
    folder = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / f"{config.hydra.job.name}.log").open("a", buffering=1) as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        ret = run_job(
            hydra_context=hydra_context,
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if ret.status != JobStatus.COMPLETED:
            raise ret._return_value  # its property would write about it on the screen
    return ret.return_value


def run_name(stratum: Stratum, trial: Trial) -> str:
    """What tells the trial apart comes first: MLflow's table cuts names."""
    settings = (
        f"{key.rpartition('.')[2].removesuffix('_size')}="
        + (f"{value:.2g}" if isinstance(value, float) else str(value))
        for key, value in trial.params.items()
    )
    phase = [] if stratum.phase == SEARCH else [stratum.phase]
    words = " ".join([stratum.value, *phase, f"#{trial.number}", *settings]).strip()
    return re.sub(r"[\\'$]", "", words)


def as_values(value: Any, n: int) -> list[float]:
    """The objectives as Optuna takes them.

    Raises:
        ValueError: they are not ``n`` numbers.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = [float(number) for number in values]
    except (TypeError, ValueError):
        raise ValueError(f"the task function must return {n} number(s), not {value!r}") from None
    if len(numbers) != n or any(map(math.isnan, numbers)):
        raise ValueError(f"the task function must return {n} number(s), not {value!r}")
    return numbers


def too_many_failures(queue: Queue, plan: Plan) -> str:
    """Why the sweep must end for its failures; "" where it need not."""
    finished = [trial for _, trial in queue.trials() if trial.state.is_finished()]
    failed = [trial for trial in finished if trial.state == TrialState.FAIL]
    failed.sort(key=lambda trial: trial.datetime_complete or datetime.max)
    errors = [trial.user_attrs.get(WHY, "") for trial in failed]
    if len(finished) == len(failed) >= N_ALIKE and len(set(errors)) == 1:
        return f"the first {len(failed)} trials failed alike: {errors[0]}"
    limit, rate, why = plan.max_failures, plan.max_failure_rate, ""
    if limit is not None and len(failed) > limit:
        why = f"{len(failed)} trials failed, and max_failures={limit}"
    elif rate is not None and len(failed) > rate * len(finished):
        why = f"{len(failed)} of {len(finished)} trials failed, and max_failure_rate={rate}"
    return f"{why}; the last with {errors[-1]}" if why else ""
