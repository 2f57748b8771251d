"""What a worker does: it takes trials, starts a process for each, watches the processes, and
records how the trials ended; until none is left."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hydrasweep import settings
from hydrasweep.compose import Composer
from hydrasweep.errors import (
    Outage,
    Terminated,
    raise_received,
    received_first,
    signals_as_exceptions,
    uninterrupted,
)
from hydrasweep.liveness import BEAT, is_dead
from hydrasweep.plan import Plan
from hydrasweep.processes import Processes, how_it_ended
from hydrasweep.server import App, Ended, Job
from hydrasweep.storage import check_file, close_storages, for_trials
from hydrasweep.stratum import LOST, WHERE, WHY, Stratum
from hydrasweep.studies import Studies
from hydrasweep.trial_process import Outcome, Request, Search, failure, run_trial
from hydrasweep.trials import SEARCH, origin

IDLE_SECONDS = 1.0  # between two looks for a trial that another worker has lost
OUTAGE_SECONDS = 3.0  # in which a storage may be back
MAX_OUTAGES = 5  # in a row: a storage may go on to be read, and have no room for what is written
KILL_SECONDS = 5.0  # in which a process that is killed should have ended
SEED_IN_TRIAL = 500_000  # added to a sampler's seed where the task function suggests values itself
N_ALIKE = 3  # so many failures with one error, before anything else has ended, end the sweep


class RunsJobs(Protocol):
    """What a worker needs of ``Processes``."""

    n_slots: int

    def start(self, slot: int, job: Job, *args: Any) -> None: ...

    def wait(self, timeout: float) -> list[Ended]: ...

    def signal(self, slot: int, signum: int) -> bool: ...


class Clock(Protocol):
    """What a worker needs of the module ``time``."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


@dataclass
class _Running:
    stratum: Stratum
    trial: Trial
    began: float  # by the monotonic clock, as all times here
    beats_at: float
    n_beats: int = 0
    why_ended: str = ""  # by the worker: "timeout" or "interrupted"
    kill_at: float | None = None


class Worker:
    """Runs the trials of a phase in ``processes``, as many at once as these have slots."""

    def __init__(
        self,
        plan: Plan,
        studies: Studies,
        processes: RunsJobs,
        compose: Callable[[Stratum, Trial], DictConfig],
        clock: Clock = time,
    ) -> None:
        self.plan = plan
        self.studies = studies
        self.processes = processes
        self.compose = compose
        self.clock = clock
        self._search = _search(plan)
        self._distributions = plan.space.distributions if plan.phase == SEARCH else {}
        self._running: dict[int, _Running] = {}  # by slot
        self._ended: list[Ended] = []  # that are still to be recorded
        self._n_outages = 0

    def run(self) -> None:
        """Work until no trial is left. Also wait for the trials of other workers, because a trial
        must be run again if its worker dies.

        Raises:
            KeyboardInterrupt, Terminated: after a signal, when the running trials have ended.
            Outage: the storage can't be used.
        """
        try:
            with received_first():
                while self._step():
                    pass
        except BaseException as error:
            self._end_all(error)
            raise

    def _step(self) -> bool:
        """Do what is to do now, then wait; return False if there is nothing left to do."""
        raise_received()
        if is_dead(self.plan.parent):
            raise Terminated(1)
        try:
            for ended in list(self._ended):
                self._record(ended)
            self._watch()
            check_file(self.plan.storage)
            is_open = self._start_trials()
            if not self._running:
                if not is_open or self.studies.is_idle():
                    return False
                self.studies.settle()
        except (StorageInternalError, SQLAlchemyError) as error:
            self._wait_for_storage(error)
            return True
        self._ended += self.processes.wait(self._seconds_to_wait())
        return True

    def _wait_for_storage(self, error: Exception) -> None:
        self._n_outages += 1
        if self._n_outages == MAX_OUTAGES:
            raise error
        self.clock.sleep(OUTAGE_SECONDS)
        with suppress(StorageInternalError, SQLAlchemyError):  # it is not back yet
            self.studies.requeue_own({run.trial._trial_id for run in self._running.values()})

    def _start_trials(self) -> bool:
        """Start trials in the free slots. Return False if no further trial may begin."""
        for slot in range(self.processes.n_slots):
            if slot in self._running:
                continue
            self._watch()  # to ask a sampler may take long
            if self.plan.deadline is not None and self.clock.time() >= self.plan.deadline:
                return False
            if (taken := self.studies.take(self._distributions)) is None:
                return not self.studies.stop_reason()
            self._start(slot, *taken)
        return True

    def _start(self, slot: int, stratum: Stratum, trial: Trial) -> None:
        now = self.clock.monotonic()
        run = _Running(stratum, trial, now, now + self.studies.heartbeat)
        seed = 1_000_000 * self.plan.start + SEED_IN_TRIAL + trial.number
        try:
            request = Request(
                self._search, self.compose(stratum, trial), stratum.study.study_name,
                trial._trial_id, seed, stratum.value, stratum.label(trial),
            )  # fmt: skip
            with uninterrupted():
                self.processes.start(slot, run_trial, request)
                self._running[slot] = run
        except (StorageInternalError, SQLAlchemyError, Outage, KeyboardInterrupt, Terminated):
            raise
        except BaseException as error:
            self._tell(run, TrialState.FAIL, attrs=failure(error))

    def _watch(self) -> None:
        """Give signs of life of the running trials, and end those that take too long."""
        now = self.clock.monotonic()
        limit = self.plan.settings.trial_timeout
        for slot, run in self._running.items():
            if now >= run.beats_at:
                run.beats_at = now + self.studies.heartbeat
                run.n_beats += 1
                try:
                    run.trial.set_user_attr(BEAT, run.n_beats)
                    self._n_outages = 0
                except UpdateFinishedTrialError:  # another worker has taken it for lost
                    self.processes.signal(slot, signal.SIGKILL)
            if not run.why_ended and limit is not None and now >= run.began + limit:
                if self.processes.signal(slot, signal.SIGTERM):
                    run.why_ended = "timeout"
                    run.kill_at = now + self.plan.settings.grace_period
                else:  # its process has not begun
                    run.began = now
            if run.kill_at is not None and now >= run.kill_at:
                self.processes.signal(slot, signal.SIGKILL)

    def _seconds_to_wait(self) -> float:
        limit, now = self.plan.settings.trial_timeout, self.clock.monotonic()
        times = [now + IDLE_SECONDS]
        for run in self._running.values():
            times.append(run.beats_at)
            if run.kill_at is not None:
                times.append(max(run.kill_at, now + 0.1))
            elif limit is not None:
                times.append(run.began + limit)
        return max(0.0, min(times) - now)

    def _record(self, ended: Ended) -> None:
        """Tell Optuna how a trial ended. If the storage fails, this is to be called again."""
        run = self._running[ended.key]
        outcome = ended.result or Outcome("died")
        if run.why_ended == "interrupted":
            self._requeue(run, "it was interrupted")
        elif outcome.kind == "storage":
            self._requeue(run, "the storage failed", counts=True)
        elif run.why_ended == "timeout":
            limit = f"{self.plan.settings.trial_timeout:g}"
            why = f"TimeoutError: it took longer than hydra.sweeper.trial_timeout={limit} s"
            self._tell(run, TrialState.FAIL, attrs={WHY: why, WHERE: "TimeoutError"})
        elif outcome.kind == "returned":
            state = TrialState.PRUNED if outcome.values is None else TrialState.COMPLETE
            self._tell(run, state, outcome.values, outcome.attrs)
        elif outcome.kind == "failed":
            self._tell(run, TrialState.FAIL, attrs=outcome.attrs)
        elif outcome.kind == "outage":  # each further trial would fail by it
            self._requeue(run, outcome.why)
            self.studies.stop(outcome.why)
        elif outcome.kind == "interrupted":  # not by this worker: it may happen each time
            self._requeue(run, "it was interrupted", counts=True)
        else:
            why = f"its process {how_it_ended(ended.exitcode)}"
            if ended.exitcode == -signal.SIGKILL:  # by a person, or for want of memory
                self._requeue(run, why, counts=True)
            else:
                self._tell(run, TrialState.FAIL, attrs={WHY: why, WHERE: why})
        del self._running[ended.key]
        self._ended.remove(ended)
        if outcome.kind == "storage" and not run.why_ended:
            self._wait_for_storage(Outage(f"hydra.sweeper.storage failed ({outcome.why})"))
        else:
            self._n_outages = 0

    def _requeue(self, run: _Running, why: str, counts: bool = False) -> None:
        self.studies.requeue(run.stratum, run.trial.number, why, counts, is_own=True)

    def _tell(
        self,
        run: _Running,
        state: TrialState,
        values: Sequence[float] | None = None,
        attrs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        with suppress(UpdateFinishedTrialError):  # another worker took it for lost, and ended it
            for key, value in attrs.items():
                run.trial.set_user_attr(key, value)
            run.stratum.study.tell(run.trial, values, state, skip_if_finished=True)
        if state == TrialState.FAIL and (reason := too_many_failures(self.studies, self.plan)):
            self.studies.stop(reason)

    def _end_all(self, error: BaseException) -> None:
        """End the running trials, after the grace period by force, and have them tried again."""
        signum, is_signal = signal.SIGTERM, isinstance(error, KeyboardInterrupt | Terminated)
        if isinstance(error, KeyboardInterrupt):
            signum = signal.SIGINT
        elif isinstance(error, Terminated) and isinstance(error.code, int) and error.code > 128:
            signum = signal.Signals(error.code - 128)
        for slot in self._still_running():
            self._running[slot].why_ended = "interrupted"
        signalled: set[int] = set()  # slots
        until = self.clock.monotonic() + self.plan.settings.grace_period
        while (running := self._still_running()) and self.clock.monotonic() < until + KILL_SECONDS:
            if self.clock.monotonic() >= until:
                signum, signalled = signal.SIGKILL, set()
            unsignalled = running - signalled
            signalled |= {slot for slot in unsignalled if self.processes.signal(slot, signum)}
            with suppress(Outage):
                self._ended += self.processes.wait(0.1)
        with suppress(StorageInternalError, SQLAlchemyError, OSError, Outage):
            for ended in list(self._ended):
                self._record(ended)
            self.studies.requeue_own(counts=not is_signal)

    def _still_running(self) -> set[int]:
        return self._running.keys() - {ended.key for ended in self._ended}


def _search(plan: Plan) -> Search:
    def resolved(node: DictConfig) -> DictConfig:
        return DictConfig(OmegaConf.to_container(node, resolve=True))

    # In other phases nothing is suggested or pruned.
    sampler, pruner = (
        resolved(node) if node and plan.phase == SEARCH else None
        for node in (plan.settings.sampler, plan.settings.pruner)
    )
    return Search(
        for_trials(plan.storage),
        sampler,
        pruner,
        plan.settings.resumable,
        plan.mlflow,
        plan.name,
        plan.phase,
    )


def work(
    cfg: DictConfig,
    plan: Plan,
    task_function: TaskFunction,
    hydra_context: HydraContext,
    config: DictConfig,
) -> None:
    """Work in a process that a launcher has started; the task function of its Hydra job.

    ``config`` is the sweep's config.
    """
    del cfg
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number, n = HydraConfig.get().job.num, plan.settings.trials_per_worker
    gpus = plan.gpus or (settings.gpus() if n > 1 else [])
    gpus = [gpus[(number * n + i) % len(gpus)] for i in range(n)] if len(gpus) > 1 else []
    app = App(task_function, hydra_context)
    composer = Composer(hydra_context.config_loader, config, plan.composed)
    # After a signal this worker returns, and the sweep starts others for the trials that are left.
    with (
        suppress(KeyboardInterrupt, Terminated),
        signals_as_exceptions(),
        closing(Processes(app, n, gpus, plan.settings.isolate)) as processes,
    ):
        processes.import_modules([str(plan.settings.check).rpartition(".")[0]])
        try:
            work_off(plan, processes, composer, number)
        finally:
            close_storages()


def work_off(plan: Plan, processes: Processes, composer: Composer, number: int = 0) -> None:
    """Do the trials of a phase that are left, as the worker with this number."""
    # Another seed for each worker and each start, or all would suggest the same.
    seed_offset = 1_000_000 * plan.start + 1000 * plan.open().n_begun() + number
    Worker(plan, plan.open(seed_offset), processes, partial(compose, plan, composer)).run()


def compose(plan: Plan, composer: Composer, stratum: Stratum, trial: Trial) -> DictConfig:
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
