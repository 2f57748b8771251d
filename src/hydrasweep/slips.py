"""Slips that Hydra answers in words of its own, and the one thing that helps."""

import re
import shlex
import sys
from importlib.metadata import version
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import StringNode, ValidationError

TARGET = "hydrasweep.plugin.HydraSweepSweeper"
GROUPS = ("sampler", "pruner", "storage", "confirm")  # below hydra/sweeper
LAUNCHERS = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # by package
CHOOSE = (
    "`override hydra/sweeper: hydrasweep` in the defaults list (in a group's file: `override "
    "/hydra/sweeper: hydrasweep`)"
)


class TargetNode(StringNode):
    """``hydra.sweeper._target_``. Hydra would call the sweeper that a line in a config names with
    settings which it doesn't know."""

    def _validate_and_convert_impl(self, value: Any) -> str:
        if value != TARGET:
            raise ValidationError(
                f"hydra.sweeper._target_ names another sweeper, $VALUE: remove this line; {CHOOSE} "
                "is enough"
            )
        return str(value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TargetNode":
        copied = TargetNode()
        self._deepcopy_impl(copied, memo)
        return copied


def advice(error: Exception) -> str:
    """What to say in place of an error of Hydra's; "" where that says it as well."""
    told = str(error)
    if better := _stock(f"{told}\n{error.__cause__}"):
        return better
    if "hydra.mode changed during config" in told or "requires --multirun" in told:
        words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
        command = shlex.join(["python", sys.argv[0], "-m", *words])
        return f"these are the settings of a sweep, which takes -m: {command}"
    if group := re.search(r"No earlier Group Default for '[^']*(hydra/[\w/]+)", told):
        return f"{told.partition('. ')[0]}: in a group's file it is `override /{group[1]}: …`"
    found = re.search(r"Could not find 'hydra/launcher/(\w+)'", told)
    if found and (package := LAUNCHERS.get(found[1])):
        return (
            f"hydra/launcher={found[1]}: needs a package: python -m pip install "
            f'"hydra-{package}-launcher=={version("hydra-core")}"'
        )
    if found := re.search(
        r"Could not override '(\w+)'\.\nTo append to your config use \+(.*)", told
    ):
        key, given = found.groups()
        if key in GROUPS:
            return f"{key} is a group of the sweep: hydra/sweeper/{given}"
        if getattr(error.__cause__, "full_key", key) != key:
            return ""  # it is a key below that one which there is not
        if key in _settings():
            return f"{key} is a setting of the sweep: hydra.sweeper.{given}"
        guess = re.search(r"[Dd]id you mean.*", str(error.__cause__))
        return (
            f"{key}: the app has no such setting. {guess[0] + ' ' if guess else ''}"
            f"All of them: python {sys.argv[0]} --cfg job (+{given} would add one, which may be "
            "read by nothing)"
        )
    return ""


def _stock(told: str) -> str:
    """What to say to a config that means this sweeper and has the stock one, or none."""
    if "OptunaSweeper.__init__() got an unexpected keyword" in told:
        return f"hydra.sweeper._target_ names the stock sweeper: replace this line by {CHOOSE}"
    key = re.search(r"Key '(\w+)' not in '(?:OptunaSweeperConf|BasicSweeperConf)'", told)
    group = re.search(r"Could not override 'hydra/sweeper/(\w+)'", told)
    if key and (key[1] in GROUPS or key[1] in _settings()):
        return f"hydra.sweeper.{key[1]} is a setting of hydrasweep, which is chosen by {CHOOSE}"
    if group and group[1] in GROUPS:
        return f"hydra/sweeper/{group[1]} is a group of hydrasweep, which is chosen by {CHOOSE}"
    return ""


def _settings() -> Any:
    return ConfigStore.instance().load("hydra/sweeper/hydrasweep.yaml").node
