"""Slips that Hydra answers in words of its own, and the one thing that helps."""

import re
import shlex
import sys
from importlib.metadata import version

from hydra.core.config_store import ConfigStore

GROUPS = ("sampler", "pruner", "storage", "confirm")  # below hydra/sweeper
LAUNCHERS = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # by package


def advice(error: Exception) -> str:
    """What to say in place of an error of Hydra's; "" where that says it as well."""
    told = str(error)
    if "hydra.mode changed during config" in told or "requires --multirun" in told:
        words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
        command = shlex.join(["python", sys.argv[0], "-m", *words])
        return f"these are the settings of a sweep, which takes -m: {command}"
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
        if key in ConfigStore.instance().load("hydra/sweeper/hydrasweep.yaml").node:
            return f"{key} is a setting of the sweep: hydra.sweeper.{given}"
        guess = re.search(r"[Dd]id you mean.*", str(error.__cause__))
        return (
            f"{key}: the app has no such setting. {guess[0] + ' ' if guess else ''}"
            f"All of them: python {sys.argv[0]} --cfg job (+{given} would add one, which may be "
            "read by nothing)"
        )
    return ""
