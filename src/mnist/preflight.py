"""Before a sweep's trials: whether a config works, and how long its training would take."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydrasweep import UserError
from mnist import config, seal
from mnist.accelerate import choose, fits
from mnist.assembly import Assembly, assemble, layer_times
from mnist.data import Split
from mnist.training import NonFiniteLossError, fit

N_TIMED = 3  # batches
SHARE = 8  # of a batch, for a second point


def check(cfg: DictConfig) -> float:
    """Train a few batches of ``cfg``, unless those of one that differs in numbers alone did,
    with as large a batch; give the seconds that all of it is estimated to take.

    Raises:
        UserError: it can't work, or the sweep would improve its objective backwards.
    """
    seal.set_sealed(True)
    config.check(cfg)
    _check_directions(cfg)
    size, kind = cfg.data.batch_size, _without_numbers(cfg)
    cost = _costs.get(kind)
    if cost and size > cost.size:
        cost = None
    if cost and cfg.fast_layers is None:
        cfg.fast_layers = {}  # nothing is trained
    job = assemble(cfg)
    if not cfg.epochs:
        return 0.0
    cost = cost or _measure(cfg, job)
    _costs[kind] = cost
    return cost.step(size) * job.n_steps


@dataclass(frozen=True)
class _Cost:
    """Seconds of a step with ``size`` rows, and of one with ``small`` rows."""

    size: int
    seconds: float
    small: int
    small_seconds: float

    def step(self, size: int) -> float:
        """Seconds of one with so many rows, on the line through both."""
        a_row = (self.seconds - self.small_seconds) / max(1, self.size - self.small)
        return max(0.0, self.seconds - a_row * (self.size - size))


_costs: dict[str, _Cost] = {}  # by all but the numbers of a config


def _measure(cfg: DictConfig, job: Assembly) -> _Cost:
    size, left = cfg.data.batch_size, job.n_steps  # schedulers refuse more steps
    small = max(1, size // SHARE)
    seconds, n_steps = _train(job, size, left, cfg.n_threads)
    small_seconds, n_steps = _train(job, small, left - n_steps, cfg.n_threads)
    return _Cost(size, seconds, small, small_seconds if n_steps else seconds)


def _train(job: Assembly, size: int, left: int, n_threads: int) -> tuple[float, int]:
    """Train a few batches, at most ``left``: the seconds of a step, 0 where it diverges at once,
    and how many there were."""
    few, nothing = (
        Split(*(rows[: size * N_TIMED] for rows in job.train)),
        Split(*(rows[:0] for rows in job.val)),
    )
    n_steps, took = math.ceil(len(few.targets) / size), 0.0
    n_epochs = min(2, left // n_steps)  # the first warms up
    last, started = job.training.epoch + n_epochs, time.process_time()
    try:
        for metrics in fit(job.training, few, nothing, epochs=last, batch_size=size):
            took, now = metrics["time/epoch_seconds"], time.process_time()
            if job.train.targets.is_cpu:  # others may have the cores meanwhile
                took = min(took, (now - started) / n_threads)
            started = now
    except NonFiniteLossError:
        pass  # such a trial fails alone; the search learns to avoid it
    return took / n_steps, n_steps * n_epochs


def _without_numbers(cfg: DictConfig) -> str:
    """What two configs share that differ in nothing but numbers other than 0."""

    def strip(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: strip(value) for key, value in node.items()}
        if isinstance(node, list):
            return [strip(value) for value in node]
        return bool(node) if type(node) in (int, float) else node  # 0 often switches something off

    groups = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in config.GROUPS}
    return repr((strip(groups), cfg.device))


def calibrate(configs: Sequence[DictConfig]) -> dict[str, Any]:
    """The layers that are faster than torch's own in each of ``configs``, which a study keeps;
    none where it is about several models, whose trainings choose themselves."""
    seal.set_sealed(True)
    are_given = all(
        cfg.fast_layers is not None and fits(config.build(cfg.model), cfg.fast_layers)
        for cfg in configs
    )
    if are_given or len({cfg.model._target_ for cfg in configs}) > 1:
        return {}
    return {"fast_layers": choose(*map(layer_times, configs))}


def _check_directions(cfg: DictConfig) -> None:
    given = HydraConfig.get().sweeper.direction
    names = [getattr(d, "name", d) for d in (given if OmegaConf.is_list(given) else [given])]
    metrics = config.objectives(cfg)
    if seen := [metric for metric in metrics if metric.startswith("train/")]:
        raise UserError(
            f"objective={seen[0]}: a search would choose what knows its training images by heart; "
            "take one of val/…, with data.n_val above 0"
        )
    fitting = [config.metric_directions(cfg)[metric] for metric in metrics]
    if names != fitting:
        raise UserError(
            f"hydra.sweeper.direction={','.join(names)}: must be {','.join(fitting)} for "
            f"objective={','.join(metrics)}"
        )
