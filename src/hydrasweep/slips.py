"""Slips that Hydra answers in words of its own, and the one thing that helps."""

import re
import shlex
import sys

from hydra.core.config_store import ConfigStore

PACKAGES = {"submitit_local": "submitit", "submitit_slurm": "submitit"}  # of launchers


def advice(error: Exception) -> str:
    """What to say in place of an error of Hydra's; "" where that says it as well."""
    told = str(error)
    if "hydra.mode changed during config composition" in told:
        words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
        command = shlex.join(["python", sys.argv[0], "-m", *words])
        return f"these are the settings of a sweep, which takes -m: {command}"
    if found := re.search(r"Could not find 'hydra/launcher/(\w+)'", told):
        name = found[1]
        package = f"hydra-{PACKAGES.get(name, name)}-launcher"
        return (
            f"hydra/launcher={name}: no such launcher is installed: python -m pip install {package}"
            f"\n{told.partition(chr(10))[2]}"
        )
    if found := re.search(
        r"Could not override '(\w+)'\.\nTo append to your config use \+(.*)", told
    ):
        key, given = found.groups()
        if key in ConfigStore.instance().load("hydra/sweeper/hydrasweep.yaml").node:
            return f"{key} is a setting of the sweep: hydra.sweeper.{given}"
        guess = re.search(r"[Dd]id you mean.*", str(error.__cause__))
        return (
            f"{key}: the app has no such setting. {guess[0] + ' ' if guess else ''}"
            f"All of them: python {sys.argv[0]} --cfg job (+{given} would add one, which may be "
            "read by nothing)"
        )
    return ""
