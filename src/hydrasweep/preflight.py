"""Before the trials: a config is tried out on a few batches, whether it works and how long its
training would take; and a worker imports what trials need."""

from contextlib import suppress
from importlib import import_module

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hydrasweep import config, seal
from hydrasweep.assembly import assemble
from hydrasweep.data import Split
from hydrasweep.errors import UserError
from hydrasweep.search.trial import FINAL
from hydrasweep.tracking import MLflowTracker
from hydrasweep.training import NonFiniteLossError, fit

N_TIMED = 3  # batches


def check(cfg: DictConfig) -> float:
    """Train a few batches of ``cfg``; give the seconds that all of it is estimated to take.

    Raises:
        UserError: it can't work, or the sweep would improve its objective backwards.
    """
    seal.set_sealed(True)
    cfg.score_test = cfg.phase == FINAL
    config.check(cfg)
    _check_directions(cfg)
    job = assemble(cfg)
    size = cfg.data.batch_size
    few = Split(*(tensor[: size * N_TIMED] for tensor in job.train))
    nothing = Split(*(tensor[:0] for tensor in job.val))
    seconds = 0.0
    epochs = min(2, job.n_steps // N_TIMED)  # the first warms up
    try:
        for metrics in fit(job.training, few, nothing, epochs=epochs, batch_size=size):
            seconds = metrics["time/epoch_seconds"] / N_TIMED * job.n_steps
    except NonFiniteLossError:
        pass  # such a trial fails alone; the search learns to avoid it
    return seconds


def warm_up(cfg: DictConfig) -> None:
    """Import what the first trial would, so that its time, from which the sweep's is estimated,
    is that of its training, and less is lost with it when its worker is killed."""
    for name in ("torch._dynamo", "hydrasweep.outcome"):  # the first optimizer wants torch's
        import_module(name)
    tracker = config.build(cfg.tracking)
    if isinstance(tracker, MLflowTracker):
        with suppress(UserError):  # a trial meets it again, and tells
            _ = tracker.store().client


def _check_directions(cfg: DictConfig) -> None:
    given = HydraConfig.get().sweeper.direction
    names = [getattr(d, "name", d) for d in (given if OmegaConf.is_list(given) else [given])]
    metrics = config.objectives(cfg)
    if len(names) != len(metrics):
        raise UserError(
            f"hydra.sweeper.direction={given}: must have one for each metric of "
            f"objective={cfg.objective}"
        )
    for name, metric in zip(names, metrics, strict=True):
        fitting = "maximize" if metric.endswith("accuracy") else "minimize"
        if name != fitting:
            raise UserError(f"hydra.sweeper.direction={name}: must be {fitting} for {metric}")
