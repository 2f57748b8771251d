"""The Hydra sweeper: plans a sweep, checks it, and has the launcher launch its workers."""

import functools
import os
import re
import shlex
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from hydrasweep import cli, config, tracking
from hydrasweep.errors import Outage, UserError, root_cause
from hydrasweep.processes import identity
from hydrasweep.search.config import SweeperConf

if TYPE_CHECKING:
    from hydrasweep.search.monitor import Monitor
    from hydrasweep.search.queue import Queue
    from hydrasweep.search.worker import Plan

MAX_BARREN_LAUNCHES = 4  # in a row that broke before any trial had ended; above MAX_RETRIES
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
        with cli.plain_exit():
            refuse_misplaced(self.config)
            name = str(self.settings.study_name or time.strftime("%Y-%m-%d_%H-%M-%S"))
            if not re.fullmatch(r"[\w+][\w+.-]{0,99}", name):
                raise UserError(
                    f"study={name}: must be up to 100 letters, digits, '_', '+', '.' or '-', "
                    "not beginning with '.' or '-'"
                )
            if self.settings.n_trials < 0:
                raise UserError(
                    f"hydra.sweeper.n_trials={self.settings.n_trials}: must be 0 or more"
                )
            n_workers = count_workers(self.config, self.settings)
            # Absolute, for jobs that change their working directory.
            set_for_jobs(
                self.config, "hydra.sweep.dir", str(Path(self.config.hydra.sweep.dir).resolve())
            )
            plan = self._plan(name, arguments)
            estimates = self._check(plan)
            print(describe(plan, self.settings, n_workers, estimates))
            if self.settings.dry_run or self.settings.n_trials == 0:
                return
        with cli.plain_exit(go_on=go_on_command(self.config, name)), storage_in_words():
            self._run(plan, n_workers)

    def _plan(self, name: str, arguments: Sequence[str]) -> "Plan":
        from hydrasweep.search.space import Space
        from hydrasweep.search.worker import Plan

        settings = self.settings
        searched = [f"{key}={value}" for key, value in (settings.params or {}).items()]
        run_name_key = "tracking.run_name"
        known = OmegaConf.select(self.config, "tracking", default=None) or {}
        return Plan(
            name=name,
            space=Space.parse([*searched, *arguments], settings.stratify),
            storage=shareable_storage(settings.storage, self.config),
            directions=directions(settings.direction),
            sampler=settings.sampler,
            pruner=settings.pruner,
            custom_search_space=settings.custom_search_space,
            deadline=time.time() + settings.timeout if settings.timeout else None,
            max_failures=settings.max_failures,
            max_failure_rate=settings.max_failure_rate,
            trial_overrides=(),
            run_name_key=run_name_key if "run_name" in known else None,
            n_gpus=count_gpus(),
            parent=identity(),
        )

    def _check(self, plan: "Plan") -> Mapping[str, float]:
        """Compose each stratum at the corners of the space and try it; give the seconds that
        a trial of each is estimated to take, where a check can tell.

        Raises:
            UserError: naming the corner and what is wrong with it.
        """
        from hydrasweep.search.queue import make_pruner, make_sampler

        for part, make in (("sampler", make_sampler), ("pruner", make_pruner)):
            try:
                make(getattr(plan, part))
            except HydraException as error:
                raise UserError(f"hydra.sweeper.{part}: {error}") from error
        check = get_method(self.settings.check) if self.settings.check else None
        self._suggestions(plan)
        estimates: dict[str, float] = {}
        outer = HydraConfig.instance().cfg
        for stratum in plan.space.strata:
            seconds = []
            for corner in plan.space.corners():
                overrides = plan.space.overrides(stratum, corner)
                try:
                    composed = self.hydra_context.config_loader.load_sweep_config(
                        self.config, overrides
                    )
                    if check is None:
                        continue
                    with open_dict(composed):
                        composed.hydra.runtime.output_dir = str(self.config.hydra.sweep.dir)
                    HydraConfig.instance().set_config(composed)
                    job = composed.copy()
                    with open_dict(job):
                        del job["hydra"]
                    seconds.append(check(job))
                except (UserError, HydraException, OmegaConfBaseException) as error:
                    words = shlex.join(overrides)
                    raise UserError(f"{error}\nThis was found in trying: {words}") from error
                finally:
                    HydraConfig.instance().cfg = outer
            if seconds:
                estimates[stratum] = sum(seconds) / len(seconds)
        return estimates

    def _run(self, plan: "Plan", n_workers: int) -> None:
        from filelock import FileLock

        from hydrasweep.search.monitor import Monitor

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        prepare_storage(plan.storage)
        with FileLock(folder / ".lock"):  # another start of the same sweep may come with this
            queue = plan.open()
            queue.agree(plan.space.record())
            queue.stop("")
            # A joblib worker that died with the sweep itself need not be its trial's fault.
            queue.settle(blame=n_workers == 1)
            is_new = not queue.trials()
            queue.suggest(self._suggestions(plan), plan.space.stratify)
            if not is_grid(self.settings):
                queue.fill(self.settings.n_trials)
        if not is_new and queue.is_idle():
            print(f"Study {plan.name} is finished: {queue.n_finished()} trials.")
            print(summary(queue, None))
            return
        node = OmegaConf.select(self.config, "tracking", default=None)
        tracker = config.build(node) if node else tracking.NullTracker()
        with tracker.run(folder, about(plan, self.settings)) as parent:
            if parent.id:
                key = "tracking.parent_run_id"
                plan = replace(plan, trial_overrides=[f"{key}={parent.id}"])

            def record(stratum: Any, trial: Any, best: float) -> None:
                parent.log_once({f"best/{stratum.value or 'all'}": best}, step=trial.number)

            with Monitor(queue, folder, plan.space.stratify, n_workers, record) as monitor:
                try:
                    self._launch(plan, queue, n_workers, monitor)
                finally:
                    parent.settle()
            if reason := queue.stop_reason():
                raise Outage(f"the sweep was stopped: {reason}")
            parent.log_once(counts(queue), step=0)
            parent.tag(best_tags(queue))
            for path in sorted(folder.glob("*.csv")) + sorted(folder.glob("*.yaml")):
                parent.save_artifact(path)
            print(summary(queue, parent.sweep_link(plan.name)))

    def _suggestions(self, plan: "Plan") -> list[dict[str, Any]]:
        enqueued: list[Any] = OmegaConf.to_container(self.settings.enqueue)  # type: ignore[assignment]
        if not plan.custom_search_space:  # which knows more names
            plan.space.check(enqueued)
        return enqueued + (plan.space.grid() if is_grid(self.settings) else [])

    def _launch(self, plan: "Plan", queue: "Queue", n_workers: int, monitor: "Monitor") -> None:
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
                    raise lost
                if reason := too_many_failures(queue, plan):
                    queue.stop(reason)
                kind = type(lost).__name__
                monitor.say(f"A worker was lost ({kind}): starting the workers again")
        except BaseException:  # Ctrl-C: joblib has killed its workers, others end by themselves
            queue.wait_for_others(SECONDS_TO_END, blame=False)
            raise


@contextmanager
def storage_in_words() -> Iterator[None]:
    """Turn a failure of the study's storage into a sentence.

    Raises:
        Outage: in place of Optuna's, SQLAlchemy's and SQLite's own errors.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        raise Outage(f"hydra.sweeper.storage failed ({root_cause(error)})") from error


def set_for_jobs(config: DictConfig, key: str, value: Any) -> None:
    """Set a Hydra setting for the sweep and its jobs, which are composed anew and must agree
    with it, as if by the command line."""
    from hydrasweep.search.space import as_word

    with read_write(config.hydra):
        OmegaConf.update(config, key, value)
        config.hydra.overrides.hydra.append(f"{key}={as_word(value)}")


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


def shareable_storage(storage: Any, config: DictConfig) -> Any:
    """A storage that workers reach from any working directory.

    Upstream's default is memory; here it is a file in the sweep's folder.
    """
    from sqlalchemy.engine import make_url

    from hydrasweep.search.queue import sqlite_file

    if storage is None:
        return f"sqlite:///{config.hydra.sweep.dir}/study.db?timeout=60"
    if path := sqlite_file(storage):
        url = make_url(storage).set(database=str(path.resolve()))
        return url.render_as_string(hide_password=False)
    return storage


def prepare_storage(storage: Any) -> None:
    """Make an SQLite file ready for several writers, before any of them comes."""
    from hydrasweep.search.queue import sqlite_file

    if path := sqlite_file(storage):
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def go_on_command(config: DictConfig, name: str) -> str:
    """The command that goes on with this sweep."""
    if "study" in config:
        settings = {"study": name}
    else:
        settings = {"hydra.sweeper.study_name": name, "hydra.sweep.dir": config.hydra.sweep.dir}
    words = [word for word in sys.argv if word.partition("=")[0] not in settings]
    return shlex.join(["python", *words, *(f"{key}={value}" for key, value in settings.items())])


def about(plan: "Plan", settings: DictConfig) -> tracking.Description:
    """The sweep as its parent run describes it."""
    searched = {f"space.{key}": value for key, value in plan.space.record().items()}
    described = {
        f"{part}.{key}": value
        for part in ("sampler", "pruner")
        for key, value in (settings[part] or {}).items()
    }
    return tracking.Description(
        name=f"sweep {plan.name}",
        params={"n_trials": settings.n_trials, **searched, **described},
        tags={"sweep": plan.name},
        dataset=None,
        files=(),
    )


def counts(queue: "Queue") -> dict[str, float]:
    """How many trials ended how."""
    states = [trial.state.name for _, trial in queue.trials()]
    return {f"trials/{name.lower()}": states.count(name) for name in ("COMPLETE", "PRUNED", "FAIL")}


def best_tags(queue: "Queue") -> dict[str, str]:
    """The best trial of each stratum, for the parent run."""
    from hydrasweep.search import results

    return {
        f"best.{stratum.value or 'all'}": f"#{trial.number} {trial.values} {trial.params}"
        for stratum in queue.strata
        for _, trial in results.best([(stratum, trial) for trial in stratum.trials()])[:1]
    }


def describe(
    plan: "Plan", settings: DictConfig, n_workers: int, estimates: Mapping[str, float]
) -> str:
    """What the sweep is going to do, and how long that would take without pruning."""
    from hydrasweep.search.space import as_text

    n_trials = settings.n_trials
    if is_grid(settings):
        n_trials = len(plan.space.grid()) * len(plan.space.strata)
    pruner = (settings.pruner or {}).get("_target_", "none").rpartition(".")[2]
    sampler = settings.sampler["_target_"].rpartition(".")[2]
    lines = [
        f"Study {plan.name}: {n_trials} trials, {n_workers} workers, {sampler}, pruner {pruner}",
        *(f"  {name}: {as_text(d)}" for name, d in plan.space.distributions.items()),
    ]
    if plan.space.stratify:
        lines.append(f"  {plan.space.stratify}: {', '.join(plan.space.strata)}, with equal shares")
    if any(estimates.values()):
        each = ", ".join(f"{key} {seconds:.0f} s".strip() for key, seconds in estimates.items())
        total = n_trials * sum(estimates.values()) / len(estimates) / n_workers
        lines.append(f"  a whole trial: {each}; all of them unpruned: {total / 60:.0f} min")
    return "\n".join([*lines, "  checked: every corner of the space composes and trains"])


def summary(queue: "Queue", link: str | None) -> str:
    """How the sweep ended: the best of each stratum, what pruning saved, what to do next."""
    from rich import box
    from rich.table import Table

    from hydrasweep.display import as_text
    from hydrasweep.search import results

    rows = queue.trials()
    best = [
        row
        for stratum in queue.strata
        for row in results.best([row for row in rows if row[0] is stratum])
    ]
    names = list(dict.fromkeys(name for _, trial in best for name in trial.params))
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("best trial", "value", "epochs", *names):
        table.add_column(name, justify="left" if name == "best trial" else "right")
    for stratum, trial in best:
        values = ", ".join(f"{value:.4f}" for value in trial.values)
        params = (trial.params.get(name, "") for name in names)
        words = (f"{p:.3g}" if isinstance(p, float) else str(p) for p in params)
        table.add_row(stratum.label(trial.number), values, str(results.epochs(trial)), *words)
    states = [trial.state.name for _, trial in rows]
    ended = ", ".join(f"{states.count(name)} {name}" for name in sorted(set(states)))
    saved_epochs, saved_seconds = results.saved([trial for _, trial in rows])
    lines = [as_text(table), f"Trials: {ended}"]
    if saved_epochs:
        lines.append(f"Pruning saved {saved_epochs} epochs, {saved_seconds / 60:.1f} min of work")
    if link:
        lines += ["Compare in MLflow: mlflow ui, then open", link]
    return "\n".join(lines)


def is_grid(settings: DictConfig) -> bool:
    """Whether the sampler is Optuna's grid; its points are queued one by one."""
    return str(settings.sampler["_target_"]).endswith("GridSampler")
