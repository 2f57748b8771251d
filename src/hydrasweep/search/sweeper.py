"""The Hydra sweeper: plans a sweep, checks it, and has the launcher launch its workers."""

import functools
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hydrasweep import cli, config, files, tracking
from hydrasweep.errors import Outage, UserError, root_cause
from hydrasweep.processes import identity
from hydrasweep.search.config import SweeperConf
from hydrasweep.search.trial import CONFIRM, FINAL, PHASES, SEARCH

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hydrasweep.search.compose import Composer
    from hydrasweep.search.queue import Queue, Stratum
    from hydrasweep.search.winners import Winner
    from hydrasweep.search.worker import Plan

Entered = TypeVar("Entered")

# In a row that broke before any trial had ended: two trials that kill their workers, begun side
# by side, take six to be found out.
MAX_BARREN_LAUNCHES = 8  # more than one trial that kills its worker can cause (queue.MAX_RETRIES)
SECONDS_TO_END = 5  # that interrupted workers have to close their trials themselves


class Sweeper(HydraSweeper):
    """What ``hydra/sweeper=optuna`` makes; ``SweeperConf`` has the settings."""

    hydra_context: HydraContext
    config: DictConfig

    def __init__(self, **settings: Any) -> None:
        self.settings: DictConfig = OmegaConf.create(settings)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``sweep``."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that config and overrides describe, or go on with it."""
        from hydrasweep.search import storage
        from hydrasweep.search.summary import describe, go_on_command

        with cli.plain_exit():
            refuse_misplaced(self.config)
            name = study_name(self.settings.study_name)
            if self.settings.n_trials < 0:
                raise UserError(
                    f"hydra.sweeper.n_trials={self.settings.n_trials}: must be 0 or more"
                )
            n_workers = count_workers(self.config, self.settings)
            refuse_confirming(self.config, self.settings)
            # Absolute, for jobs that change their working directory.
            set_for_jobs(
                self.config, "hydra.sweep.dir", str(Path(self.config.hydra.sweep.dir).resolve())
            )
            plan = self._plan(name, arguments)
            estimates = self._check(plan)
            print(describe(plan, self.settings, self._n_trials(plan), n_workers, estimates))
            if self.settings.dry_run or self.settings.n_trials == 0:
                return
        with cli.plain_exit(go_on=go_on_command(self.config, name)), storage.in_words():
            self._run(plan, n_workers)

    def _plan(self, name: str, arguments: Sequence[str]) -> "Plan":
        from hydrasweep.search import storage
        from hydrasweep.search.space import Space
        from hydrasweep.search.worker import Plan

        settings = self.settings
        searched = [f"{key}={value}" for key, value in (settings.params or {}).items()]
        known = OmegaConf.select(self.config, "tracking", default=None) or {}
        return Plan(
            name=name,
            space=Space.parse([*searched, *arguments], settings.stratify),
            storage=storage.shareable(self.config),
            directions=directions(settings.direction),
            sampler=settings.sampler,
            pruner=settings.pruner,
            custom_search_space=settings.custom_search_space,
            deadline=None,
            max_failures=settings.max_failures,
            max_failure_rate=settings.max_failure_rate,
            trial_overrides=(),
            run_name_key="tracking.run_name" if "run_name" in known else None,
            # Slurm and Ray give each worker its own.
            n_gpus=count_gpus() if "n_jobs" in self.config.hydra.launcher else 0,
            parent=identity(),
            heartbeat=settings.heartbeat,
            warm_up=settings.warm_up,
        )

    def _check(self, plan: "Plan") -> Mapping[str, float]:
        """Compose each stratum at the corners of the space and try it; give the seconds that
        a trial of each is estimated to take, where a check can tell.

        Raises:
            UserError: naming the corner and what is wrong with it.
        """
        from hydrasweep.search.compose import Composer
        from hydrasweep.search.queue import make_pruner, make_sampler

        for part, make in (("sampler", make_sampler), ("pruner", make_pruner)):
            try:
                make(getattr(plan, part))
            except Exception as error:  # of its class or of Hydra's
                raise UserError(f"hydra.sweeper.{part}: {error}") from error
        self._suggestions(plan)
        composer = Composer(self.hydra_context.config_loader, self.config)
        estimates: dict[str, float] = {}
        for stratum in plan.space.strata:
            corners = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
            added = self._in_phase(plan, SEARCH).trial_overrides
            seconds = [self._try(composer, [*words, *added]) for words in corners]
            estimates[stratum] = sum(seconds) / len(seconds)
        if self.settings.confirm:  # what would else be found wrong when the search is done
            self._try(composer, [*corners[0], *self._in_phase(plan, FINAL).trial_overrides])
        return estimates

    def _try(self, composer: "Composer", overrides: Sequence[str]) -> float:
        """Compose a trial and have it checked; give the seconds that it is estimated to take."""
        outer = HydraConfig.instance().cfg
        try:
            composed = composer.compose(overrides, label="check", number=0)
            if not self.settings.check:
                return 0.0
            with open_dict(composed):
                composed.hydra.runtime.output_dir = str(self.config.hydra.sweep.dir)
            HydraConfig.instance().set_config(composed)
            job = composed.copy()
            with open_dict(job):
                del job["hydra"]
            return float(get_method(self.settings.check)(job))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            words = shlex.join(overrides)
            raise UserError(f"{error}\nThis was found in trying: {words}") from error
        finally:
            HydraConfig.instance().cfg = outer

    def _in_phase(self, plan: "Plan", phase: str, *overrides: str) -> "Plan":
        """The plan for a phase of the sweep; ``overrides`` come to each of its trials."""
        words = [*plan.trial_overrides, *overrides]
        if "phase" in self.config:
            words.append(f"phase={phase}")
        if phase == FINAL:
            words += self.settings.confirm.final
        return replace(plan, phase=phase, trial_overrides=words)

    def _run(self, plan: "Plan", n_workers: int) -> None:
        from hydrasweep.search import storage, summary, winners
        from hydrasweep.search.monitor import Monitor

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        storage.prepare(plan.storage)
        search, sweep_id = self._prepare(plan, folder, n_workers)
        until = time.time() + self.settings.timeout if self.settings.timeout else None
        plan = replace(plan, start=search.start, deadline=until)
        confirm = self.settings.confirm
        seed = confirm.seed if confirm else ""
        ends_with = OmegaConf.to_yaml(OmegaConf.create({"n": self._n_trials(plan), "c": confirm}))
        phases = {SEARCH: search}
        if search.is_concluded(ends_with):
            phases |= {p: self._in_phase(plan, p).open() for p in PHASES[1:] if confirm}
            found = winners.winners(phases, seed)
            print(f"Study {plan.name} is finished: {search.n_finished()} trials.")
            print(summary.summary(search, found, folder, None))
            return
        node = OmegaConf.select(self.config, "tracking", default=None)
        tracker = config.build(node) if node else tracking.NullTracker()
        run = tracker.run(folder, summary.about(plan, self.settings, sweep_id))
        with entered_under(search.lock, run) as parent:  # of several starts, one makes the run
            parents = [f"tracking.parent_run_id={parent.id}"] if parent.id else []

            def record(stratum: "Stratum", trial: "FrozenTrial", best: float) -> None:
                if stratum.phase == SEARCH:
                    parent.log_once({f"best/{stratum.value or 'all'}": best}, step=trial.number)

            for phase in PHASES if confirm else (SEARCH,):
                now = self._in_phase(plan, phase, *parents)
                if phase != SEARCH:
                    phases[phase] = again = now.open()
                    again.stop("")
                    again.settle(blame=n_workers == 1)
                if phase == CONFIRM:
                    base = OmegaConf.select(self.config, seed)
                    winners.confirm(search, again, confirm, base)
                elif phase == FINAL:
                    winners.finish(phases[CONFIRM], again, seed)
                watched = phases, folder, plan.space.stratify, seed, n_workers, record
                with Monitor(*watched) as monitor:
                    try:
                        self._launch(now, phases[phase], n_workers, monitor)
                    finally:
                        parent.settle(phases[phase].lost())
                if reason := phases[phase].stop_reason():
                    raise Outage(f"the sweep was stopped: {reason}")
                if not phases[phase].is_done():
                    break  # its time is over
            found = winners.winners(phases, seed)
            metrics, tags = summary.outcome(search, found)
            parent.log_once(metrics, step=0)
            parent.tag(tags)
            if FINAL in phases:
                winners.write_recipes(found, phases[FINAL], folder)
            if self.settings.report:
                from hydrasweep import report  # plotly takes a second to import

                report.write(folder)
            kept = ("*.csv", "*.yaml", "*.html")
            for path in sorted(path for pattern in kept for path in folder.glob(pattern)):
                parent.save_artifact(path)
            print(summary.summary(search, found, folder, parent.sweep_link(plan.name)))
            print(*promote(found, folder, parent, self.settings.direction), sep="\n")
        if all(queue.is_done() for queue in phases.values()):
            search.conclude(ends_with)

    def _prepare(self, plan: "Plan", folder: Path, n_workers: int) -> tuple["Queue", str]:
        """Open the search, set right what an earlier start left, and queue what is to do;
        give the queue and what the sweep is known by."""
        from hydrasweep.search import summary

        queue = plan.open()
        queue.agree(plan.space.record())
        sweep_id = queue.join()
        queue.stop("")
        # A joblib worker that died with the sweep itself need not be its trial's fault.
        queue.settle(blame=n_workers == 1)
        queue.suggest(self._suggestions(plan), plan.space.stratify)
        if not is_grid(self.settings):
            queue.fill(self.settings.n_trials)
        kept: Any = OmegaConf.to_container(self.config, enum_to_str=True)  # no secret resolved
        kept["hydra"]["sweeper"]["study_name"] = plan.name
        for name, content in (("multirun", kept), ("environment", summary.environment())):
            files.write(folder / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
        return queue, sweep_id

    def _n_trials(self, plan: "Plan") -> int:
        if is_grid(self.settings):
            return len(plan.space.grid()) * len(plan.space.strata)
        return int(self.settings.n_trials)

    def _suggestions(self, plan: "Plan") -> list[dict[str, Any]]:
        enqueued: list[Any] = OmegaConf.to_container(self.settings.enqueue)  # type: ignore[assignment]
        if not plan.custom_search_space:  # which knows more names
            plan.space.check(enqueued)
        return enqueued + (plan.space.grid() if is_grid(self.settings) else [])

    def _launch(self, plan: "Plan", queue: "Queue", n_workers: int, monitor: Any) -> None:
        """Have workers work until the queue is empty; start them again when some died."""
        from hydrasweep.search.worker import too_many_failures, work

        task = functools.partial(
            work,
            plan=plan,
            task_function=self.task_function,
            hydra_context=self.hydra_context,
            config=self.config,
        )
        task.__name__ = "work"  # type: ignore[attr-defined]  # launchers log it
        if "n_jobs" in self.config.hydra.launcher:
            set_for_jobs(self.config, "hydra.launcher.n_jobs", n_workers)
        launcher = Plugins.instance().instantiate_launcher(
            config=self.config, hydra_context=self.hydra_context, task_function=task
        )
        jobs = [[*plan.space.fixed, f"hydra.sweep.subdir=workers/{i}"] for i in range(n_workers)]
        n_barren = 0
        try:
            while not queue.is_idle() and (not plan.deadline or time.time() < plan.deadline):
                n_before = queue.n_finished()
                lost: Exception | None = None
                try:
                    for ret in launcher.launch(jobs, initial_job_idx=0):
                        if ret.status != JobStatus.COMPLETED:
                            raise ret._return_value
                except Exception as error:  # each launcher has its own for a killed worker
                    lost = error
                    queue.give_up_own()
                queue.wait_for_others()
                if lost is None:
                    continue
                n_barren = n_barren + 1 if queue.n_finished() == n_before else 0
                if n_barren == MAX_BARREN_LAUNCHES:
                    raise Outage(
                        f"the workers were lost {n_barren} times in a row before any trial had "
                        f"ended ({root_cause(lost)}); HYDRA_FULL_ERROR=1 shows where"
                    ) from lost
                if reason := too_many_failures(queue, plan):
                    queue.stop(reason)
                kind = type(lost).__name__
                monitor.say(f"A worker was lost ({kind}): starting the workers again")
        except BaseException:  # Ctrl-C: joblib has killed its workers, others end by themselves
            queue.leave()
            queue.wait_for_others(SECONDS_TO_END, blame=False)
            raise


def set_for_jobs(config: DictConfig, key: str, value: Any) -> None:
    """Set a Hydra setting for the sweep and its jobs, which are composed anew and must agree
    with it, as if by the command line."""
    from hydrasweep.search.space import as_word

    with read_write(config.hydra):
        OmegaConf.update(config, key, value)
        config.hydra.overrides.hydra.append(f"{key}={as_word(value)}")


def study_name(given: Any) -> str:
    """The study's name, which names a folder too; by default the time.

    Raises:
        UserError: it can't be one.
    """
    name = time.strftime("%Y-%m-%d_%H-%M-%S") if given is None else str(given)
    if not re.fullmatch(r"[\w+][\w+.-]{0,59}", name):
        raise UserError(
            f"study={name}: must be up to 60 letters, digits, '_', '+', '.' or '-', "
            "not beginning with '.' or '-'"
        )
    return name


def refuse_misplaced(config: DictConfig) -> None:
    """Refuse settings of the sweeper that stand outside ``hydra.sweeper``.

    Raises:
        UserError: naming them and where they belong.
    """
    names = {field.name for field in fields(SweeperConf)} - {"defaults"}
    if misplaced := sorted(names & set(config)):
        raise UserError(
            f"{', '.join(misplaced)}: a setting of the sweeper that stands at the top level; "
            f"it belongs under hydra.sweeper, as in hydra.sweeper.{misplaced[0]}"
        )


def promote(
    found: Sequence["Winner"], folder: Path, parent: tracking.Run, direction: Any
) -> Iterator[str]:
    """Register the winners' models where their runs are; tell of each what became of it."""
    from hydrasweep import registry

    sign = 1 if directions(direction) == ["maximize"] else -1
    for winner in found:
        run = folder / winner.folder() / tracking.RUN_ID_FILE if winner.final else None
        if parent.store is None or run is None or not run.exists():
            continue
        score = sign * winner.confirmed.mean
        name, is_champion = registry.promote(parent.store, run.read_text(), score, winner.params)
        rank = "is the champion now" if is_champion else "stays behind the champion"
        yield f"Registered model {name}: this one {rank}"


def refuse_confirming(config: DictConfig, settings: DictConfig) -> None:
    """Refuse a confirmation that this sweep can't have.

    Raises:
        UserError: naming what is in its way.
    """
    if not settings.confirm:
        return
    if len(directions(settings.direction)) > 1:
        raise UserError("confirm: several objectives have no one winner: add confirm=none")
    key = settings.confirm.seed
    if not isinstance(OmegaConf.select(config, key), int):
        raise UserError(
            f"hydra.sweeper.confirm.seed={key}: must name a setting that is a whole number"
        )
    for name in ("top", "n_seeds"):
        if not isinstance(settings.confirm[name], int) or settings.confirm[name] < 1:
            raise UserError(
                f"hydra.sweeper.confirm.{name}={settings.confirm[name]}: must be 1 or more"
            )


def directions(value: Any) -> list[str]:
    """``minimize`` or ``maximize`` for each objective.

    Raises:
        UserError: it is something else.
    """
    names = [str(getattr(d, "name", d)) for d in (value if OmegaConf.is_list(value) else [value])]
    if wrong := [name for name in names if name not in ("minimize", "maximize")]:
        raise UserError(f"hydra.sweeper.direction={wrong[0]}: must be minimize or maximize")
    return names


def count_workers(config: DictConfig, settings: DictConfig) -> int:
    """How many workers there are to be.

    Raises:
        UserError: fewer than one was asked for.
    """
    if str(config.hydra.launcher._target_).endswith("BasicLauncher"):
        return 1
    asked = settings.n_workers if settings.n_workers is not None else settings.n_jobs
    if asked is not None and asked < 1:
        raise UserError(f"hydra.sweeper.n_workers={asked}: must be null or 1 or more")
    return int(asked or count_gpus() or len(os.sched_getaffinity(0)))


@functools.cache
def count_gpus() -> int:
    """The NVIDIA GPUs that this process may use."""
    if shutil.which("nvidia-smi") is None:  # importing torch takes seconds
        return 0
    import torch

    return torch.cuda.device_count()


@contextmanager
def entered_under(
    lock: AbstractContextManager[Any], context: AbstractContextManager[Entered]
) -> Iterator[Entered]:
    """A context that is entered, but not left, while the lock is held."""
    with ExitStack() as stack:
        with lock:
            entered = stack.enter_context(context)
        yield entered


def is_grid(settings: DictConfig) -> bool:
    """Whether the sampler is Optuna's grid; its points are queued one by one."""
    return str(settings.sampler["_target_"]).endswith("GridSampler")
