"""The sweeper's settings, ``hydra.sweeper``, and every check of them."""

import difflib
import functools
import importlib.util
import re
import shutil
import time
from dataclasses import dataclass, field, fields
from typing import Any

# Importing it stores the package's sampler configs, hydra/sweeper/sampler=NAME.
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydrasweep.errors import UserError
from hydrasweep.slips import TARGET, TargetNode

GROUPS = ({"sampler": "tpe"}, {"pruner": "none"}, {"storage": "sqlite"}, {"confirm": "none"})


@dataclass
class SweeperConf(OptunaSweeperConf):  # type: ignore[misc]
    """``hydra.sweeper``. The fields of hydra-optuna-sweeper keep their meaning:

    sampler: An Optuna sampler by its _target_: hydra/sweeper/sampler=NAME.
    direction: minimize or maximize, or a list of them, one for each objective.
    study_name: By which the sweep is resumed. Null: the time of its start.
    n_trials: How many trials the sweep is to have in all, over all strata and restarts; a grid
        has as many as it has points.
    params: What is searched, a sweep as on the command line for each setting of the app, such as
        {lr: "tag(log, interval(1e-4, 1e-1))"}.
    custom_search_space: A function (config, trial) that is called before a trial's config is
        composed, and may suggest further settings by the trial's own methods.
    """

    _target_: Any = field(default_factory=lambda: TargetNode(TARGET))
    defaults: list[Any] = field(default_factory=lambda: list(GROUPS))

    # Print the plan and an estimate of its time, check it, and stop there.
    dry_run: bool = False

    # How many trials run at once on this machine; with another launcher than the basic one, how
    # many workers that starts. auto: one for each GPU or else each core. Null: 1 with the basic
    # launcher, hydra.launcher.n_jobs with joblib, else auto.
    n_workers: Any | None = None
    # hydra-optuna-sweeper's name for n_workers.
    n_jobs: int | None = None
    # How many trials each worker runs at once that a launcher starts.
    trials_per_worker: int = 1
    # Whether each trial has a process of its own. Without, trials of a worker run one after
    # another in one process.
    isolate: bool = True
    # Seconds that a trial has to save its state and end after the signal that ends the sweep or
    # the worker, or after SIGTERM for its time limit. Then it is killed.
    grace_period: float = 10.0

    # An Optuna pruner by its _target_: hydra/sweeper/pruner=NAME.
    pruner: Any | None = MISSING

    # Whether a trial can go on where it was stopped: the task function saves its state in its
    # output folder before it reports, and begins with what it finds there. A trial that was
    # interrupted goes on then, and the pruner "promotion" can pause trials.
    resumable: bool = False

    # How many steps a whole trial reports, if all report as many.
    max_steps: int | None = None

    # A URL, or an Optuna storage by its _target_: hydra/sweeper/storage=NAME.
    storage: Any | None = MISSING

    # A parameter with a choice: each of its values gets a study and an equal share of the
    # trials. Null: one study.
    stratify: str | None = None

    # Parameters that are not searched after all, such as [model.dropout] for a model without it.
    leave_out: list[str] = field(default_factory=list)

    # What the task function returns, by name, or a list of names: for tables and the report.
    objective: Any | None = None

    # Seconds between two signs of life that a worker leaves in the storage. Others try its
    # trial again when they have missed four.
    heartbeat: float = 15.0

    # Seconds after which no new trial begins.
    timeout: float | None = None

    # Settings to try first, such as [{optimizer.lr: 0.01, data.batch_size: 64}]; an entry
    # {study: NAME, best: 5} stands for the best five of another study, of each stratum.
    enqueue: list[Any] = field(default_factory=list)

    # So many failed trials are borne; one more ends the sweep. Null, as max_failure_rate is: any
    # number, but for the first three failing alike.
    max_failures: int | None = None
    # So large a share of the finished trials may have failed, from the first one on; a larger
    # one ends the sweep.
    max_failure_rate: float | None = None

    # Settings of the app that may differ between two starts of a sweep, since they change no
    # result: where and how fast it runs. Any other difference is refused.
    may_change: list[str] = field(default_factory=list)

    # Seconds that a trial may take; one that takes longer fails. Null: any time.
    trial_timeout: float | None = None

    # How the best trials are confirmed on fresh seeds: hydra/sweeper/confirm=NAME.
    confirm: Any | None = MISSING

    # Whether to write report.html at the end.
    report: bool = False

    # A function (config) -> seconds that tries a config and estimates the time of its training,
    # called at the corners of the search space before the first trial.
    check: str | None = None

    # A function (configs) -> settings, called once for each stratum of a new study with the configs
    # at the corners of its space: settings of the app that suit the machine, such as
    # {n_threads: 2}. All trials have them, on whatever machine, and so have the recipes.
    calibrate: str | None = None

    # Whether the sweep is a run in MLflow whose children are the runs that trials begin.
    mlflow: bool = False

    # Register the winners' models in MLflow under this name, followed by the stratum.
    registered_model: str | None = None
    # What else the winners' scores depend on, such as {n_val: 10000}: tags of a model's version,
    # which competes with those alone that have the same.
    registered_tags: dict[str, Any] = field(default_factory=dict)


def check_settings(settings: DictConfig, config: DictConfig) -> None:
    """Refuse settings that can't work, before anything is spent on them.

    Raises:
        UserError: naming the setting, its value and what is allowed.
    """
    if "stratify" not in settings:
        raise UserError(
            "hydra.sweeper._target_ names this sweeper, but its settings were not chosen: write "
            "`override hydra/sweeper: hydrasweep` in the defaults list in place of this line"
        )
    known = [each.name for each in fields(SweeperConf)]
    for key in map(str, settings):
        if key not in known:
            guess = difflib.get_close_matches(key, known, 1)
            raise UserError(
                f"hydra.sweeper.{key}: is no setting of the sweep"
                + (f"; did you mean {guess[0]}?" if guess else "")
            )
    if settings.n_trials < 0:
        raise UserError(f"hydra.sweeper.n_trials={settings.n_trials}: must be 0 or more")
    if (last := settings.max_steps) is not None and last < 1:
        raise UserError(f"hydra.sweeper.max_steps={last}: must be null or 1 or more")
    for group in ("sampler", "pruner", "storage", "confirm"):
        if isinstance(given := settings[group], str) and given.isidentifier():  # no URL
            raise UserError(
                f"hydra.sweeper.{group}={given}: must be a config; those that are shipped are "
                f"chosen by hydra/sweeper/{group}={given}"
            )
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
    if subdir != "${hydra.job.num}":
        raise UserError(
            f"hydra.sweep.subdir={subdir}: trials' folders are named by their numbers here; leave "
            "it out, or set it to '${hydra.job.num}'"
        )
    if (limit := settings.trial_timeout) is not None and limit <= 0:
        raise UserError(f"hydra.sweeper.trial_timeout={limit}: must be null or above 0")
    for key in ("n_workers", "n_jobs", "trials_per_worker"):
        asked = settings[key]
        is_number = str(asked).isdigit() and int(asked) > 0  # a text, of ${oc.env:NAME}
        if not (is_number or asked is None or (key, asked) == ("n_workers", "auto")):
            raise UserError(f"hydra.sweeper.{key}={asked}: {_ALLOWED[key]}")
    if settings.grace_period < 0:
        raise UserError(f"hydra.sweeper.grace_period={settings.grace_period}: must be 0 or more")
    _check_launcher(settings, config.hydra.launcher)
    directions(settings)
    study_name(settings.study_name)
    if settings.mlflow and importlib.util.find_spec("mlflow") is None:
        raise UserError(
            'hydra.sweeper.mlflow=true: needs a package: python -m pip install "hydrasweep[mlflow]"'
        )
    check_confirm(settings, config)


_ALLOWED = {
    "n_workers": "must be null, auto or 1 or more",
    "n_jobs": "must be null or 1 or more",
    "trials_per_worker": "must be 1 or more",
}


def _check_launcher(settings: DictConfig, launcher: DictConfig) -> None:
    if launcher.get("backend") == "multiprocessing":
        raise UserError(
            "hydra.launcher.backend=multiprocessing: its workers can't start processes for trials; "
            "take hydra/launcher=basic with hydra.sweeper.n_workers, which needs no joblib, or "
            "hydra.launcher.backend=loky"
        )
    n_jobs, asked = launcher.get("n_jobs", -1), _asked(settings)
    if n_jobs not in (-1, asked) and (asked is not None or n_jobs < 1):
        raise UserError(
            f"hydra.launcher.n_jobs={n_jobs}: must be -1, or as many as hydra.sweeper.n_workers "
            f"({'null' if asked is None else asked})"
        )


def check_confirm(settings: DictConfig, config: DictConfig) -> None:
    """Refuse a confirmation that this sweep can't have.

    Raises:
        UserError: naming what is in its way.
    """
    if not confirms(settings):
        return
    if len(directions(settings)) > 1:
        raise UserError(
            "hydra.sweeper.confirm: several objectives have no one winner: add "
            "hydra/sweeper/confirm=none"
        )
    key = settings.confirm.seed
    if type(OmegaConf.select(config, key)) is not int:
        numbers = [str(name) for name in config if type(_value(config, name)) is int]
        raise UserError(
            f"hydra.sweeper.confirm.seed={key}: must name the setting of the app that takes a "
            "seed, a whole number"
            + (f"; those at its top are {', '.join(numbers)}" if numbers else "")
        )
    if config.hydra.output_subdir is None:
        raise UserError(
            "hydra.output_subdir=null: must name a folder, from which the winners' settings are "
            "read; or add hydra/sweeper/confirm=none"
        )
    for name in ("top", "n_seeds"):
        if type(settings.confirm[name]) is not int or settings.confirm[name] < 1:
            raise UserError(
                f"hydra.sweeper.confirm.{name}={settings.confirm[name]}: must be 1 or more"
            )


def _value(config: DictConfig, name: Any) -> Any:
    """A value; None where it is missing, or refers to what is missing."""
    try:
        return config.get(name)
    except OmegaConfBaseException:
        return None


def confirms(settings: DictConfig) -> bool:
    """Whether the winners are to be confirmed."""
    # Another sweeper's settings, which are refused later on, have no such key.
    return OmegaConf.is_dict(confirm := settings.get("confirm")) and confirm.get("top") != 0


def retrains(settings: DictConfig) -> bool:
    """Whether the winners' final trials train them anew."""
    return bool(settings.confirm.get("retrain", True)) or not settings.resumable


def directions(settings: DictConfig) -> list[str]:
    """``minimize`` or ``maximize`` for each objective.

    Raises:
        UserError: it is something else.
    """
    given = settings.direction
    names = [str(getattr(d, "name", d)) for d in (given if OmegaConf.is_list(given) else [given])]
    if wrong := [name for name in names if name not in ("minimize", "maximize")]:
        raise UserError(f"hydra.sweeper.direction={wrong[0]}: must be minimize or maximize")
    return names


def objectives(settings: DictConfig) -> list[str]:
    """A name for each objective."""
    n, given = len(directions(settings)), settings.objective
    names = [given] if isinstance(given, str) else list(given or [])
    if len(names) == n:
        return [str(name) for name in names]
    return ["value"] if n == 1 else [f"value {i}" for i in range(n)]


def study_name(given: Any, typed: str | None = None) -> str:
    """The study's name, which names a folder too; by default the time.

    Raises:
        UserError: it can't be one, or was ``typed`` as a number that Hydra writes otherwise.
    """
    # The field is a text: what Hydra read as a number is written as one again.
    if typed and given is not None and typed != str(given) and typed[0] not in "'\"$":
        raise UserError(
            f"hydra.sweeper.study_name={typed}: is read as the number or word {given}; quote it to "
            f"have it as it stands: '\"{typed}\"'"
        )
    name = time.strftime("%Y-%m-%d_%H-%M-%S") if given is None else str(given)
    if not re.fullmatch(r"[\w+][\w+.-]{0,59}", name):
        raise UserError(
            f"hydra.sweeper.study_name={name}: must be up to 60 letters, digits, '_', '+', '.' "
            "or '-', not beginning with '.' or '-'"
        )
    return name


def is_grid(sampler: DictConfig) -> bool:
    """Whether the sampler is Optuna's grid, whose points are given one by one."""
    return str(sampler["_target_"]).endswith("GridSampler")


def is_local(config: DictConfig) -> bool:
    """Whether trials are started by this process, and not by workers that a launcher starts."""
    return str(config.hydra.launcher._target_).endswith("BasicLauncher")


def count_workers(settings: DictConfig, config: DictConfig) -> int:
    """Return how many workers a launcher starts, or how many trials run at once without one."""
    asked, n_jobs = _asked(settings), config.hydra.launcher.get("n_jobs", -1)
    if asked is None:
        asked = 1 if is_local(config) else n_jobs if n_jobs > 0 else "auto"
    return int((len(gpus()) or count_cores()) if asked == "auto" else asked)


def _asked(settings: DictConfig) -> Any:
    asked = settings.n_workers if settings.n_workers is not None else settings.n_jobs
    return int(asked) if str(asked).isdigit() else asked


def count_cores() -> int:
    """The cores that this process may use, by its affinity and its container's quota."""
    import joblib

    return int(joblib.cpu_count())


@functools.cache
def gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import os
    import subprocess

    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name and name != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
