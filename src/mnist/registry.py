"""The winners of sweeps in MLflow's model registry, and the way back from there.

There is one registered model for each architecture on each data set, such as
``mnist-lenet5``; its version with the best score has the alias ``champion``.
"""

import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from mnist.errors import UserError, in_words
from mnist.store import Store

if TYPE_CHECKING:
    from torch import Tensor

ALIAS = "champion"
SCORE = "score"  # a tag of the versions
GRAPH = "data/model.pt2"  # in the folder of a model that MLflow has saved

# The records of a .pt2 archive that torch reads as text or as the bytes of a tensor.
PLAIN = re.compile(r"\w+/(\.data/)?\w+|.*\.json|.*/data/(weights/weight|constants/tensor)_\d+")


def promote(store: Store, run_id: str, score: float, params: Mapping[str, Any]) -> tuple[str, bool]:
    """Register the model of a finished run, once; give the name that it is registered by, and
    whether it is the champion now.

    ``score`` is what the settings ``params`` reached on average where they were confirmed on
    fresh seeds, the higher the better. A champion with as good a score stays.

    Raises:
        UserError: the run has no model, or MLflow fails.
    """
    from mlflow.exceptions import MlflowException

    client = store.client
    with in_words(f"run {run_id} can't be registered in MLflow at {store.shown_uri}"):
        run = client.get_run(run_id)
        if run.outputs is None or not run.outputs.model_outputs:
            raise UserError(f"run {run_id} has no model to register: artifacts=true saves one")
        told = {key: run.data.tags[key] for key in ("data", "architecture")}
        name = "-".join(told.values())
        with suppress(MlflowException):  # it may be there
            client.create_registered_model(name, told)
        known = [v for v in client.search_model_versions(f"run_id = '{run_id}'") if v.name == name]
        if not known:
            model_id = run.outputs.model_outputs[0].model_id
            # Not models:/ID, which MLflow looks up in the store that is current in the process.
            place = client.get_logged_model(model_id).artifact_location
            known = [client.create_model_version(name, place, run_id, model_id=model_id)]
        version = str(known[0].version)
        for key, value in {**params, "study": run.data.tags.get("study", ""), SCORE: score}.items():
            client.set_model_version_tag(name, version, key, str(value))
        champion = str(client.get_registered_model(name).aliases.get(ALIAS, version))
        best = _score(client.get_model_version(name, champion))
        if champion != version and score <= best:
            return name, False
        client.set_registered_model_alias(name, ALIAS, version)
        return name, True


def champion(store: Store, data: str, architecture: str | None) -> Any:
    """The version that is champion on a data set: of one architecture, or with the best score.

    Raises:
        UserError: there is none, or MLflow fails.
    """
    client = store.client
    with in_words(f"MLflow's registry at {store.shown_uri} can't be read"):
        models = client.search_registered_models(f"tags.data = '{data}'", 1000)
        champions = [
            client.get_model_version(m.name, m.aliases[ALIAS]) for m in models if ALIAS in m.aliases
        ]
    found = {version.name.removeprefix(f"{data}-"): version for version in champions}
    if found and architecture is None:
        return max(found.values(), key=_score)
    if architecture in found:
        return found[architecture]
    wanted = f"data={data}" + (f" model={architecture}" if architecture else "")
    others = f"there is {', '.join(sorted(found))}; " if found else ""
    raise UserError(
        f"no champion for {wanted} in MLflow at {store.shown_uri}: {others}"
        f"a sweep makes one: python src/train.py -m hparams_search=optuna {wanted}"
    )


def load(store: Store, version: Any, image: tuple[int, ...]) -> "Callable[[Tensor], Tensor]":
    """A version's model, from pixels uint8 (n, *image) to logits; nothing is unpickled.

    Raises:
        UserError: it takes other images, or can't be read.
    """
    with in_words(f"{version.name} version {version.version} can't be loaded"):
        import torch
        from mlflow.artifacts import download_artifacts

        place = store.client.get_model_version_download_uri(version.name, version.version)
        with tempfile.TemporaryDirectory() as folder:
            path = download_artifacts(f"{place}/{GRAPH}", dst_path=folder, tracking_uri=store.uri)
            program = torch.export.load(_without_pickles(Path(path)))
        (name,) = program.graph_signature.user_inputs
        (shape,) = (node.meta["val"].shape for node in program.graph.nodes if node.name == name)
        if tuple(shape[1:]) != image:
            raise ValueError(f"it takes images of shape {tuple(shape[1:])}, not {image}")
        return program.module()


def _without_pickles(path: Path) -> io.BytesIO:
    """A copy of a .pt2 archive with only what torch reads as text or as the bytes of a tensor.

    torch.export.load would unpickle the rest: the example that the graph was made with, and
    whatever the archive says is pickled.
    """
    copy = io.BytesIO()
    with ZipFile(path) as archive, ZipFile(copy, "w") as plain:
        for record in set(archive.namelist()):
            content = archive.read(record) if PLAIN.fullmatch(record) else b""
            if record.endswith("_config.json"):
                entries = json.loads(content)["config"].values()
                if any(entry["use_pickle"] is not False for entry in entries):
                    raise ValueError("its weights are pickled")
            plain.writestr(record, content)
    copy.seek(0)
    return copy


def _score(version: Any) -> float:
    return float(version.tags.get(SCORE, "-inf"))
