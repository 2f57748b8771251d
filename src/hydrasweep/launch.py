"""Launches workers by a Hydra launcher, again and again until nothing is left to do."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, read_write

from hydrasweep.errors import Outage, environment, root_cause
from hydrasweep.plan import Plan
from hydrasweep.processes import python_path
from hydrasweep.space import as_word
from hydrasweep.studies import Studies
from hydrasweep.worker import work

SECONDS_TO_END = 5  # that interrupted workers have to close their trials themselves


def launch(
    plan: Plan,
    studies: Studies,
    n_workers: int,
    say: Callable[[str], None],
    config: DictConfig,
    hydra_context: HydraContext,
    task_function: TaskFunction,
) -> None:
    """Have workers work until nothing is left to do; start them again when some died.

    Raises:
        Outage: they die before they begin any trial.
    """
    task = functools.partial(
        work, plan=plan, task_function=task_function, hydra_context=hydra_context, config=config
    )
    task.__name__ = "work"  # type: ignore[attr-defined]  # launchers log it
    if "n_jobs" in config.hydra.launcher:
        set_override(config, "hydra.launcher.n_jobs", n_workers)
    # The app's callbacks are called for trials; a worker's own job is none.
    silent = dataclasses.replace(hydra_context, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(
        config=config, hydra_context=silent, task_function=task
    )
    # A worker stays where the sweep was started, which its trials' jobs take for their origin.
    own = [*plan.space.fixed, "hydra.job.chdir=false"]
    jobs = [[*own, f"hydra.sweep.subdir=workers/{i}"] for i in range(n_workers)]
    try:
        while not studies.is_idle() and (not plan.deadline or time.time() < plan.deadline):
            n_before = studies.n_begun()
            n_jobs = -(-studies.n_to_do() // plan.settings.trials_per_worker)
            lost = _launch_once(launcher, jobs[: max(1, n_jobs)])
            studies.wait_for_others()
            if not lost:
                continue
            if studies.n_begun() == n_before:
                raise Outage(
                    f"the workers were lost before any trial had begun ({root_cause(lost)}); "
                    "HYDRA_FULL_ERROR=1 shows where"
                ) from lost
            say(f"A worker was lost ({type(lost).__name__}): starting the workers again")
    except BaseException:  # Ctrl-C: joblib has killed its workers, others end by themselves
        studies.leave()
        studies.wait_for_others(SECONDS_TO_END)
        raise


def _launch_once(launcher: Any, jobs: Sequence[Sequence[str]]) -> Exception | None:
    """Have workers work until they end; give the error of one that was lost."""
    try:
        with environment(PYTHONPATH=python_path()):
            for ret in launcher.launch(jobs, initial_job_idx=0):
                if ret.status != JobStatus.COMPLETED:
                    raise ret._return_value
    except Exception as error:  # each launcher has its own for a killed worker
        return error
    return None


def set_override(config: DictConfig, key: str, value: Any) -> None:
    """Set a Hydra setting for the sweep and its jobs, which are composed anew and must agree
    with it, as if by the command line."""
    with read_write(config.hydra):
        OmegaConf.update(config, key, value)
        config.hydra.overrides.hydra.append(f"{key}={as_word(value)}")
