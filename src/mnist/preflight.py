"""Before a sweep's trials: whether a config works, and how long its training would take."""

import math
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydrasweep import UserError
from mnist import config, seal
from mnist.accelerate import choose
from mnist.assembly import assemble, layer_times
from mnist.data import Split
from mnist.training import NonFiniteLossError, fit

N_TIMED = 3  # batches


def check(cfg: DictConfig) -> float:
    """Train a few batches of ``cfg``; give the seconds that all of it is estimated to take.

    Raises:
        UserError: it can't work, or the sweep would improve its objective backwards.
    """
    seal.set_sealed(True)
    config.check(cfg)
    _check_directions(cfg)
    job, size, seconds = assemble(cfg), cfg.data.batch_size, 0.0
    few, nothing = (
        Split(*(rows[: size * N_TIMED] for rows in job.train)),
        Split(*(rows[:0] for rows in job.val)),
    )
    n_steps = math.ceil(len(few.targets) / size)
    epochs = min(2, job.n_steps // n_steps) if cfg.epochs else 0  # the first warms up
    try:
        for metrics in fit(job.training, few, nothing, epochs=epochs, batch_size=size):
            seconds = metrics["time/epoch_seconds"] / n_steps * job.n_steps
    except NonFiniteLossError:
        pass  # such a trial fails alone; the search learns to avoid it
    return seconds


def calibrate(configs: Sequence[DictConfig]) -> dict[str, Any]:
    """The layers that are faster than torch's own in each of ``configs``, which a study keeps;
    none where it is about several models, whose trainings choose themselves."""
    seal.set_sealed(True)
    is_given = any(cfg.fast_layers is not None for cfg in configs)
    if is_given or len({cfg.model._target_ for cfg in configs}) > 1:
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
