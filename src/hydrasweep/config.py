"""What the composed config must satisfy, and what others derive from it.

Nothing heavy is imported here, so that a wrong setting is refused at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, instantiate
from omegaconf import DictConfig, OmegaConf

from hydrasweep import seal
from hydrasweep.errors import UserError

if TYPE_CHECKING:
    import torch

# A config is the user's own code, as much as src/train.py is, and users bring classes of
# their own by _target_: so no list of allowed targets. Passed to Hydra wherever it asks.
TRUSTED = UNSAFE_DISABLE_EXECUTION_CHECKS

EPOCH_METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
RUN_METRICS = ("time/train_seconds", "n_parameters")
TEST_METRICS = ("test/loss", "test/accuracy")
_ABSENT = object()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and isinstance(value, int) and value >= low


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


_SWITCHES = ("score_test", "artifacts", "checkpoint")
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("epochs", _whole(0), "a whole number, 0 or more"),
    ("seed", lambda v: _whole(0)(v) and v < 2**63, "a whole number from 0 to 2**63 - 1"),
    ("label_smoothing", _share, "a number from 0 to below 1"),
    ("n_threads", _optional(_whole(1)), "null or a whole number, 1 or more"),
    ("data.batch_size", _whole(1), "a whole number, 1 or more"),
    ("data.n_train", _optional(_whole(1)), "null or a whole number, 1 or more"),
    ("data.n_val", _whole(0), "a whole number, 0 or more"),
    ("data.std", lambda v: all(_is_number(s) and s > 0 for s in v), "numbers above 0"),
    ("model.dropout", _share, "a number from 0 to below 1"),
    ("optimizer.lr", lambda v: _is_number(v) and 0 < v < float("inf"), "a number above 0"),
    (
        "optimizer.weight_decay",
        lambda v: _is_number(v) and 0 <= v < float("inf"),
        "a number, 0 or more",
    ),
    *((key, lambda v: isinstance(v, bool), "true or false") for key in _SWITCHES),
)


def check(cfg: DictConfig) -> None:
    """Refuse settings that can't work, before anything is spent on them.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for key, is_allowed, allowed in _RULES:
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and not is_allowed(value):
            raise UserError(f"{key}={value}: must be {allowed}")
    for metric in objectives(cfg):
        measured = {"train": cfg.epochs, "val": cfg.data.n_val}  # not without epochs, images
        names = [m for m in EPOCH_METRICS if measured[m.partition("/")[0]]]
        names += [*RUN_METRICS, *(TEST_METRICS if cfg.score_test else ())]
        if metric not in names:
            why = "" if cfg.epochs else " (epochs=0 trains nothing)"
            why += "" if cfg.data.n_val else " (data.n_val=0 leaves nothing to validate on)"
            raise UserError(
                f"objective={metric}: no such metric{why}; there are {', '.join(names)}"
            )


def started(cfg: DictConfig, is_final: bool = False) -> tuple[DictConfig, Path]:
    """The config and output folder that this Hydra job works with.

    ``resume=DIR`` gives those of the run in DIR. A multirun never sees the test images, since
    who looks at many runs would choose by them; but for a run that ``is_final``, whose
    settings have been chosen.

    Raises:
        UserError: there is no run in DIR, or other settings come with resume=.
    """
    job = HydraConfig.get()
    output_dir, modes = Path(job.runtime.output_dir), [job.mode]
    if cfg.resume is not None:
        output_dir = Path(cfg.resume).resolve()
        recorded = output_dir / ".hydra" / "config.yaml"
        if not recorded.exists():
            raise UserError(f"resume={cfg.resume}: no run there (no {recorded})")
        if others := [word for word in job.overrides.task if not word.startswith("resume=")]:
            raise UserError(
                f"resume= goes on with a run as it is set: leave out {' '.join(others)}"
            )
        cfg = DictConfig(OmegaConf.load(recorded))
        modes.append(RunMode[OmegaConf.load(recorded.with_name("hydra.yaml")).hydra.mode])
    sealed = RunMode.MULTIRUN in modes and not is_final
    seal.set_sealed(sealed)
    if sealed:
        cfg.score_test = False
    return cfg, output_dir


def objectives(cfg: DictConfig) -> list[str]:
    """The metrics that a search improves: usually one."""
    return [cfg.objective] if isinstance(cfg.objective, str) else list(cfg.objective)


def build(node: DictConfig, *args: Any, **kwargs: Any) -> Any:
    """Hydra's ``instantiate``, but a user's error comes through as itself."""
    try:
        return instantiate(node, *args, _execution_whitelist_=TRUSTED, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def resolve_device(name: str) -> "torch.device":
    """The device that ``auto|cpu|cuda|cuda:N|mps`` means on this machine.

    Raises:
        UserError: the name is not one of these, or the machine has no such device.
    """
    import torch

    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if n_gpus := torch.cuda.device_count():
        present = ["cuda", *(f"cuda:{i}" for i in range(n_gpus)), *present]
    if name != "auto" and name not in present:
        raise UserError(
            f"device={name}: this machine has {', '.join(present)} (or auto, which takes the first)"
        )
    return torch.device(present[0] if name == "auto" else name)


def flatten(cfg: DictConfig) -> dict[str, Any]:
    """Every resolved setting under its dotted name."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                visit(f"{prefix}{key}.", value)
        else:
            flat[prefix[:-1]] = node

    visit("", OmegaConf.to_container(cfg, resolve=True))
    return flat


def kind(node: DictConfig) -> str:
    """A short name for what a node builds: its class, in lower case."""
    return str(node._target_).rpartition(".")[2].lower()
