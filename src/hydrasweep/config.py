"""What the composed config must satisfy, and what others derive from it.

Nothing heavy is imported here, so that a wrong setting is refused at once.
"""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, instantiate
from omegaconf import DictConfig, OmegaConf

from hydrasweep import seal
from hydrasweep.errors import UserError, root_cause

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
    """Whether it is one that torch takes: finite, and an integer of at most 64 bits."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _whole(low: int, below: int = 2**31) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and isinstance(value, int) and low <= value < below


def _listed(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: OmegaConf.is_list(value) and len(value) > 0 and all(map(rule, value))


def _matching(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_glob(value: Any) -> bool:
    try:
        return not list(Path(os.devnull).glob(value))  # which has nothing in it
    except Exception:
        return False


def _optional(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _above_0(value: Any) -> bool:
    return _is_number(value) and value > 0


_GROUPS = ("model", "optimizer", "scheduler", "data", "augmentation", "tracking")
_SWITCHES = ("score_test", "artifacts", "checkpoint")
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    *((key, lambda v: OmegaConf.is_dict(v) and "_target_" in v, "a group") for key in _GROUPS),
    *((key, lambda v: isinstance(v, bool), "true or false") for key in _SWITCHES),
    ("epochs", _whole(0), "a whole number, 0 or more"),
    ("seed", _whole(0, 2**63), "a whole number from 0 to 2**63 - 1"),
    ("label_smoothing", _share, "a number from 0 to below 1"),
    ("n_threads", _optional(_whole(1, 1025)), "null or a whole number from 1 to 1024"),
    ("objective", lambda v: _is_text(v) or _listed(_is_text)(v), "a metric, or a list of them"),
    ("score_train", _optional(_matching(r"\w+(/\w+)*")), "null or a metric's name, such as a/b"),
    ("data.name", _matching(r"[\w+.-]{1,100}"), "letters, digits, '_', '+', '.' or '-'"),
    ("data.dataset._target_", _is_text, "the dotted name of a class"),
    ("data.dataset.root", _is_text, "a folder"),
    ("data.raw", _is_glob, "a pattern of files below the data's root"),
    ("data.n_classes", _whole(1), "a whole number, 1 or more"),
    ("data.n_channels", _whole(1), "a whole number, 1 or more"),
    (
        "data.image_size",
        lambda v: _listed(_whole(1))(v) and len(v) == 2,
        "height and width, whole numbers, 1 or more",
    ),
    ("data.mean", _listed(_is_number), "a list of numbers"),
    ("data.std", _listed(_above_0), "a list of numbers above 0"),
    ("data.split_seed", _whole(0, 2**63), "a whole number from 0 to 2**63 - 1"),
    ("data.batch_size", _whole(1), "a whole number, 1 or more"),
    ("data.n_train", _optional(_whole(1)), "null or a whole number, 1 or more"),
    ("data.n_val", _whole(0), "a whole number, 0 or more"),
    ("model.dropout", _share, "a number from 0 to below 1"),
    ("optimizer.lr", _above_0, "a number above 0"),
    ("optimizer.weight_decay", lambda v: _is_number(v) and v >= 0, "a number, 0 or more"),
)


def check(cfg: DictConfig) -> None:
    """Refuse settings that can't work, before anything is spent on them.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for key, is_allowed, allowed in _RULES:
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is _ABSENT:
            if not key.startswith(("model.", "optimizer.")):  # not every class has these
                raise UserError(f"{key} is missing: it must be {allowed}")
        elif not is_allowed(value):
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
        output_dir = Path(str(cfg.resume)).resolve()
        recorded = output_dir / ".hydra" / "config.yaml"
        if not recorded.exists():
            raise UserError(f"resume={cfg.resume}: no run there (no {recorded})")
        if others := [word for word in job.overrides.task if not word.startswith("resume=")]:
            raise UserError(
                f"resume= goes on with a run as it is set: leave out {' '.join(others)}"
            )
        try:
            loaded = DictConfig(OmegaConf.load(recorded))
            modes.append(RunMode[OmegaConf.load(recorded.with_name("hydra.yaml")).hydra.mode])
        except Exception as error:  # a kill may have cut them short
            why = root_cause(error)
            raise UserError(
                f"resume={cfg.resume}: the settings in {recorded.parent} can't be read ({why}): "
                "start the training anew"
            ) from error
        cfg = loaded
        OmegaConf.set_struct(cfg, True)
    sealed = RunMode.MULTIRUN in modes and not is_final
    seal.set_sealed(sealed)
    if sealed:
        cfg.score_test = False
    return cfg, output_dir


def objectives(cfg: DictConfig) -> list[str]:
    """The metrics that a search improves: usually one."""
    return [cfg.objective] if isinstance(cfg.objective, str) else list(cfg.objective)


def build(node: DictConfig, *args: Any) -> Any:
    """Hydra's ``instantiate``; what it gives is called with ``args`` where there are any.

    Raises:
        UserError: the class's own, or that it can't be made with these settings.
    """
    try:
        built = instantiate(node, _execution_whitelist_=TRUSTED)
        return built(*args) if args else built
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(
            f"{node._target_} can't be made with these settings ({root_cause(error)}); "
            "HYDRA_FULL_ERROR=1 shows where"
        ) from error


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
