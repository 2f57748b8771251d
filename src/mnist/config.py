"""What the composed config must satisfy, and what others derive from it.

Nothing heavy is imported here, so that a wrong setting is refused at once.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import UNSAFE_DISABLE_EXECUTION_CHECKS, instantiate
from omegaconf import DictConfig, OmegaConf

import hydrasweep
from hydrasweep import UserError
from mnist import seal
from mnist.text import root_cause

log = logging.getLogger(__name__)

# A config is the user's own code, as much as src/train.py is, and users bring classes of
# their own by _target_: so no list of allowed targets. Passed to Hydra wherever it asks.
TRUSTED = UNSAFE_DISABLE_EXECUTION_CHECKS

GROUPS = ("model", "optimizer", "scheduler", "data", "augmentation", "task")
WHOLE = {  # the smallest and the largest
    "epochs": (0, 2**31 - 1),
    "seed": (0, 2**63 - 1),
    "n_threads": (1, 1024),
    "data.batch_size": (1, 2**31 - 1),
}
MEASURED = ["n_threads", "fast_layers"]  # by a run where they are null: bits depend on them
KEPT = ".settings"  # what a run began with: a second job in its folder overwrites .hydra
RUN_DIRECTIONS = {"time/train_seconds": "minimize", "n_parameters": "minimize"}


def check(cfg: DictConfig) -> None:
    """Refuse settings that can't work, before anything is spent on them; those of a class are
    checked by the class.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    for key, (low, high) in WHOLE.items():
        value, or_null = OmegaConf.select(cfg, key), "null or " if key == "n_threads" else ""
        if or_null and value is None:
            continue
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"{key}={value}: must be {or_null}a whole number from {low} to {high}")
    _refuse_misplaced(cfg)
    share = cfg.average_weights
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise UserError(f"average_weights={share}: must be a number from 0 to 1")
    for key in ("score_test", "artifacts", "checkpoint"):
        if not isinstance(cfg[key], bool):
            raise UserError(f"{key}={cfg[key]}: must be true or false")
    layers = cfg.fast_layers
    if layers is not None and not (
        OmegaConf.is_dict(layers) and all(isinstance(name, str) for name in layers.values())
    ):
        raise UserError(f"fast_layers={layers}: must be null, or classes by modules' names")
    for key in (*GROUPS, "tracking"):
        node = OmegaConf.select(cfg, key)
        if not (OmegaConf.is_dict(node) and isinstance(node.get("_target_"), str)):
            raise UserError(f"{key}={node}: must be settings with a _target_")
    directions = OmegaConf.select(cfg, "task.directions")
    given = {*map(str, directions.values())} if OmegaConf.is_dict(directions) else set()
    if not given or not given <= {"maximize", "minimize"}:
        raise UserError(f"task.directions={directions}: must give each metric its direction")
    part, _, metric = str(cfg.score_train).rpartition("/")
    if cfg.score_train is not None and not (part.isidentifier() and metric in directions):
        known = ", ".join(f"NAME/{metric}" for metric in directions)
        raise UserError(f"score_train={cfg.score_train}: must be null or one of {known}")
    measured = metric_directions(cfg)
    if not objectives(cfg) or not {*map(str, objectives(cfg))} <= measured.keys():
        why = "" if cfg.epochs else " (epochs=0 trains nothing)"
        why += "" if _has_val(cfg) else " (data.n_val=0 leaves nothing to validate on)"
        if any(str(name).startswith("test/") for name in objectives(cfg)):
            why += " (no search sees the test images: what is chosen by them is not tested)"
        raise UserError(f"objective={cfg.objective}: must be of {', '.join(measured)}{why}")


def _refuse_misplaced(cfg: DictConfig) -> None:
    """Refuse what nothing reads: ``study=NAME`` without a sweep, and a setting that ``+lr=0.1``
    added beside ``optimizer.lr``."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    named = [word for word in words if word.startswith("study=")]
    if named and "hydrasweep" not in HydraConfig.get().sweeper._target_:
        raise UserError(
            f"{named[0]}: names a sweep, and none was chosen: "
            f"python src/train.py -m hparams_search=optuna {named[0]}"
        )
    for added in (word for word in words if word.startswith("+")):
        key, _, value = added.lstrip("+").partition("=")
        meant = [
            f"{group!s}.{key}"
            for group, node in cfg.items()
            if OmegaConf.is_dict(node) and group != key and key in node
        ]
        if meant and "." not in key and "/" not in key:
            raise UserError(
                f"{added}: adds a setting that nothing reads; meant was, it seems, "
                + " or ".join(f"{name}={value}" for name in meant)
            )


def metric_directions(cfg: DictConfig) -> dict[str, str]:
    """Every metric that can be an objective, and whether to maximize or to minimize it."""
    parts = ["train"] * (cfg.epochs > 0) + ["val"] * _has_val(cfg)
    task = cfg.task.directions.items()
    return {f"{part}/{name}": each for part in parts for name, each in task} | RUN_DIRECTIONS


def _has_val(cfg: DictConfig) -> bool:
    return bool(OmegaConf.select(cfg, "data.n_val") != 0)


def objectives(cfg: DictConfig) -> list[str]:
    """The metrics that a search improves: usually one."""
    return list(cfg.objective) if OmegaConf.is_list(cfg.objective) else [cfg.objective]


def resolve_run(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The config and output folder that this Hydra job works with.

    ``resume=DIR`` gives those of the run in DIR. A multirun never sees the test split, since
    who looks at many runs would choose by it; but for the final phase of a sweep, whose
    settings have been chosen.

    Raises:
        UserError: there is no run in DIR, or other settings come with resume=.
    """
    job = HydraConfig.get()
    output_dir, modes = Path(job.runtime.output_dir), [job.mode]
    if cfg.resume is not None:
        output_dir, said = Path(str(cfg.resume)).resolve(), f"resume={cfg.resume}"
        folder = _settings(output_dir)
        if not folder.exists():
            raise UserError(f"{said}: no run there (no {folder})")
        if others := [word for word in job.overrides.task if not word.startswith("resume=")]:
            raise UserError(f"{said}: a run keeps its settings: leave out {' '.join(others)}")
        try:
            cfg = DictConfig(OmegaConf.load(folder / "config.yaml"))
            modes.append(RunMode[OmegaConf.load(folder / "hydra.yaml").hydra.mode])
            if (begun := output_dir / "config.yaml").exists():
                known = DictConfig(OmegaConf.load(begun))
                cfg.merge_with(OmegaConf.masked_copy(known, MEASURED))
        except Exception as error:  # a kill may have cut them short
            why = f"the settings in {folder} can't be read ({root_cause(error)})"
            raise UserError(f"{said}: {why}: start the training anew") from error
        OmegaConf.set_struct(cfg, True)
    elif any((output_dir / name).exists() for name in (KEPT, "metrics.jsonl")) and not (
        is_in_sweep() and hydrasweep.trial().is_resumed
    ):
        raise UserError(
            f"{output_dir}: holds another run, whose results would be taken for this one's: go on "
            f"with that one by resume={output_dir}, or give this one a folder of its own"
        )
    is_sealed = RunMode.MULTIRUN in modes and hydrasweep.trial().phase != "final"
    seal.set_sealed(is_sealed)
    if is_sealed:
        if cfg.score_test and len(modes) > 1:
            log.info(
                "score_test=false: this run is part of a multirun, which never sees the test "
                "images; a sweep that is resumed by its own command scores its winners on them"
            )
        cfg.score_test = False
    return cfg, output_dir


def keep_settings(output_dir: Path) -> None:
    """Keep the settings that a run begins with, for ``resume=``; a trial's folder is its own."""
    if HydraConfig.initialized() and is_in_sweep():
        return
    if (output_dir / ".hydra").exists() and not (output_dir / KEPT).exists():
        shutil.copytree(output_dir / ".hydra", output_dir / KEPT)


def _settings(output_dir: Path) -> Path:
    """Where Hydra's files of the run in a folder are."""
    return output_dir / (KEPT if (output_dir / KEPT).exists() else ".hydra")


def is_in_sweep() -> bool:
    """Whether this Hydra job is a trial of a sweep."""
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN  # spares others Optuna's import
    return is_multirun and hydrasweep.trial().sweep is not None


def choices(cfg: DictConfig, output_dir: Path) -> dict[str, str]:
    """What was chosen of each group, such as lenet5 for model; else the name of the class."""
    job = HydraConfig.get().runtime if HydraConfig.initialized() else None
    recorded, chosen = _settings(output_dir) / "hydra.yaml", {}
    if job and str(output_dir) == job.output_dir:
        chosen = job.choices
    elif recorded.exists():  # a resumed run's
        chosen = OmegaConf.load(recorded).hydra.runtime.choices
    classes = {group: cfg[group]._target_.rpartition(".")[2].lower() for group in GROUPS}
    return {group: str(chosen.get(group) or name) for group, name in classes.items()}


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
            f"{node._get_full_key(None)}: {node._target_} can't be made with these settings "
            f"({root_cause(error)}); HYDRA_FULL_ERROR=1 shows where"
        ) from error
