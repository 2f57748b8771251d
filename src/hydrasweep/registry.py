"""The winners of sweeps in MLflow's model registry: a registered model for each stratum, whose
version with the best score has the alias ``champion``."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hydrasweep.space import as_name
from hydrasweep.tracking import SweepRun
from hydrasweep.trial_runs import TRIAL, children, clean
from hydrasweep.winners import Winner

CHAMPION = "champion"


def register(
    run: SweepRun, prefix: str, found: Sequence[Winner], study: str, alike: Mapping[str, str]
) -> list[str]:
    """Register the model that each winner's first final trial logged, once; tell of each what
    became of it.

    A version's tag ``score`` is what its settings reached on average where they were confirmed
    on fresh seeds, the higher the better; ``alike`` are tags that say what it is a score of, such
    as ``objective`` and ``direction``: only versions that share them are compared.
    """
    sign = 1 if alike["direction"] == "maximize" else -1
    told: list[str] = []

    def promote(client: Any, winner: Winner) -> None:
        name = "-".join(filter(None, (prefix, as_name(winner.stratum))))
        trial = winner.folder()
        runs = children(client, run.run_id, f"tags.{TRIAL} = '{trial}'")
        outputs = [run.outputs.model_outputs for run in runs if run.outputs]
        models = [output.model_id for each in outputs for output in each]
        if not models:
            told.append(f"Registered model {name}: none, since {trial} logged no model")
            return
        tags = {"study": study}
        tags |= {key: str(value) for key, value in winner.params.items()}
        tags["score"] = str(sign * winner.confirmed.mean)
        became = _promote(client, name, models[0], tags, alike)
        told.append(f"Registered model {name}: this one {became}")

    for winner in found:
        if winner.final:
            run.send(functools.partial(promote, winner=winner))
    return told


def _promote(
    client: Any, name: str, model_id: str, tags: Mapping[str, str], alike: Mapping[str, str]
) -> str:
    """Make a version of a model, and the champion of it where it is the best; in words."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it may be there
        client.create_registered_model(name)
    logged = client.get_logged_model(model_id)
    place, run_id = logged.artifact_location, logged.source_run_id
    # A database keeps no model's id with a version.
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run_id]
    if not known:  # by the client, since mlflow.register_model prints
        known = [client.create_model_version(name, place, run_id, model_id=model_id)]
    version = str(known[0].version)
    for key, value in {**tags, **alike}.items():
        client.set_model_version_tag(name, version, clean(key), value)
    champion = str(client.get_registered_model(name).aliases.get(CHAMPION, version))
    best = client.get_model_version(name, champion).tags
    if other := [key for key, value in alike.items() if best.get(clean(key)) != value]:
        was = ", ".join(f"{key}={best.get(clean(key))}" for key in other)
        return f"can't be compared with the champion, which was chosen by {was}"
    if champion != version and float(tags["score"]) <= float(best.get("score", "-inf")):
        return "stays behind the champion"
    client.set_registered_model_alias(name, CHAMPION, version)
    return "is the champion now"
