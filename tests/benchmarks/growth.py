"""What one more trial costs late in a study, against early in it: milliseconds.

The bookkeeping of a zero-epoch trial after so many have ended, and while so many wait: taking
it (the sampler's proposals included), a report with the pruner's verdict, telling its end, the
check for too many failures, and the monitor's files.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
from common import ROOT
from omegaconf import OmegaConf
from optuna.trial import TrialState, create_trial

from hydrasweep.processes import identity
from hydrasweep.search import results, storage
from hydrasweep.search.queue import Queue
from hydrasweep.search.space import Space
from hydrasweep.search.trial import SEARCH
from hydrasweep.search.worker import Plan, too_many_failures

N_TRIALS = 17
CASES = {"10, 20 wait": (10, 20), "10, 1,010 wait": (10, 1010), "1,000, 20 wait": (1000, 20)}
CONF = ROOT / "conf"


def plan_in(folder: Path) -> Plan:
    """The default sweep's plan, of one architecture."""
    sweeper = OmegaConf.load(CONF / "hparams_search" / "optuna.yaml").hydra.sweeper
    sampler, pruner = (
        OmegaConf.load(CONF / "hydra" / "sweeper" / part / f"{name}.yaml")
        for part, name in (("sampler", "tpe_parallel"), ("pruner", "successive_halving"))
    )
    words = [f"{key}={value}" for key, value in sweeper.params.items() if key != "model"]
    return Plan(
        name="growth", space=Space.parse([*words, "model=lenet5"], "model"),
        storage=f"sqlite:///{folder}/study.db?timeout=60", directions=[sweeper.direction],
        sampler=sampler, pruner=pruner, custom_search_space=None, deadline=None,
        max_failures=None, max_failure_rate=None, trial_overrides=(), run_name_key=None,
        n_gpus=0, parent=identity(),
    )  # fmt: skip


def fill(queue: Queue, plan: Plan, n_done: int, n_waiting: int) -> None:
    """Trials that have ended, of settings drawn at random, and others that wait."""
    source = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for i in range(n_done):
        params = source.ask(dict(plan.space.distributions)).params
        done = create_trial(
            params=params, distributions=dict(plan.space.distributions), value=i / n_done,
            state=TrialState.COMPLETE, intermediate_values={1: i / n_done},
        )  # fmt: skip
        queue.strata[0].study.add_trial(done)
    queue.fill(n_done + n_waiting)


def bookkeeping(queue: Queue, monitor: Queue, plan: Plan, folder: Path) -> Iterator[str]:
    """What one trial brings with it; says after each step which that was."""
    taken = queue.take(plan.space.distributions)
    assert taken is not None
    stratum, trial = taken
    yield "take"
    trial.report(0.5, 1)
    trial.should_prune()
    yield "report"
    stratum.study.tell(trial, 0.5)
    yield "tell"
    too_many_failures(queue, plan)
    yield "failures"
    results.write_all({SEARCH: monitor}, folder, "model")
    yield "files"


def timed(steps: Iterator[str]) -> dict[str, float]:
    """Milliseconds of each step, and of all."""
    row, started = {}, time.perf_counter()
    for name in steps:
        now = time.perf_counter()
        row[name], started = 1000 * (now - started), now
    return row | {"all": sum(row.values())}


def typical(n_done: int, n_waiting: int) -> dict[str, float]:
    """The medians over some trials."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_in(folder)
        storage.prepare(plan.storage)
        fill(plan.open(), plan, n_done, n_waiting)
        # The monitor is in another process, and has an image of the storage of its own.
        opened = plan.open(), plan.open()
        rows = [timed(bookkeeping(*opened, plan, folder)) for _ in range(N_TRIALS)][2:]
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def measure() -> list[dict[str, str | float]]:
    costs = {label: typical(*case) for label, case in CASES.items()}
    first = costs["10, 20 wait"]["all"]
    return [{"after": label, **c, "ratio": c["all"] / first} for label, c in costs.items()]
