"""The model registry: which version is champion, and what the way back from there does not do.
A real MLflow each time."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from zipfile import ZipFile

import mlflow
import numpy as np
import pytest
import torch
from test_tracking import server

from mnist import registry
from mnist.data import Normalize
from mnist.errors import UserError
from mnist.models import LeNet5
from mnist.store import Store, open_store
from mnist.tracking import Description, MLflowTracker

IMAGE = (1, 28, 28)
Finished = Callable[..., str]


@pytest.fixture
def finished(root: Path, tmp_path: Path) -> Finished:
    """``finished(**tags)`` gives the id of a run that has ended and left a model."""
    torch.manual_seed(0)

    def run(model: torch.nn.Module | None = None, **tags: str) -> str:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        tags = {"data": "mnist", "architecture": "linear", "study": "first", **tags}
        about = Description("a run", {}, tags, None, [])
        with MLflowTracker(str(root), "hydrasweep", None, None).run(folder, about) as recorded:
            model = model or torch.nn.Sequential(
                Normalize([0.1], [0.3]), torch.nn.Flatten(), torch.nn.Linear(784, 10)
            )
            recorded.save_model(model.eval(), np.zeros((2, *IMAGE), np.uint8))
        assert recorded.id is not None
        return recorded.id

    return run


def champion_run(store: Store, name: str = "mnist-linear") -> str:
    return str(store.client.get_model_version_by_alias(name, "champion").run_id)


def test_only_a_better_score_moves_the_champion(finished: Finished, root: Path) -> None:
    store = open_store(root)
    first, second, third, other = finished(), finished(), finished(), finished(data="kmnist")
    assert registry.promote(store, first, 0.98, {"optimizer.lr": 0.01})[1]
    assert not registry.promote(store, second, 0.98, {})[1]
    assert not registry.promote(store, second, 0.97, {})[1]
    assert champion_run(store) == first
    assert registry.promote(store, third, 0.985, {"optimizer.lr": 0.02})[1]
    assert champion_run(store) == third
    assert registry.promote(store, other, 0.5, {})[1]
    assert champion_run(store) == third
    assert champion_run(store, "kmnist-linear") == other


def test_version_tells_where_it_is_from_and_what_it_takes(
    finished: Finished, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = open_store(root), finished()
    registry.promote(store, run, 0.9125, {"optimizer.lr": 0.01, "seed": 3})
    version = registry.champion(store, "mnist", "linear")
    assert version.tags == {
        **{"optimizer.lr": "0.01", "seed": "3"},
        **{"study": "first", "score": "0.9125"},
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    about = mlflow.models.get_model_info("models:/mnist-linear@champion")
    assert about.signature is not None
    assert about.signature.inputs.inputs[0].shape == (-1, *IMAGE)
    assert about.run_id == run


def test_run_is_registered_once(finished: Finished, root: Path) -> None:
    store, run = open_store(root), finished()
    for score in (0.9, 0.8, 0.8):
        assert registry.promote(store, run, score, {})[1]
    (version,) = store.client.search_model_versions("name = 'mnist-linear'")
    assert version.tags["score"] == "0.8"


def test_without_architecture_the_best_score_of_the_data_set_wins(
    finished: Finished, root: Path
) -> None:
    store = open_store(root)
    scores = {"cnn": 0.99, "linear": 0.9, "lenet5": 0.98}
    for architecture, score in scores.items():
        registry.promote(store, finished(architecture=architecture), score, {})
    registry.promote(store, finished(data="kmnist"), 0.999, {})
    assert registry.champion(store, "mnist", None).name == "mnist-cnn"
    assert registry.champion(store, "mnist", "lenet5").name == "mnist-lenet5"


def test_missing_champion_is_told_with_the_command_that_makes_one(
    finished: Finished, root: Path
) -> None:
    store = open_store(root)
    with pytest.raises(UserError, match=r"no champion for data=mnist in .*hparams_search=optuna"):
        registry.champion(store, "mnist", None)
    registry.promote(store, finished(), 0.9, {})
    with pytest.raises(UserError, match=r"model=cnn .*there is linear; .* data=mnist model=cnn$"):
        registry.champion(store, "mnist", "cnn")
    with pytest.raises(UserError, match="can't be read"):
        registry.champion(store, "it's", None)
    store.client.delete_registered_model_alias("mnist-linear", "champion")
    with pytest.raises(UserError, match="no champion for data=mnist model=linear"):
        registry.champion(store, "mnist", "linear")


def test_run_without_a_model_is_refused(root: Path, tmp_path: Path) -> None:
    about = Description("a run", {}, {"data": "mnist", "architecture": "linear"}, None, [])
    with MLflowTracker(str(root), "hydrasweep", None, None).run(tmp_path, about) as run:
        pass
    assert run.id is not None
    with pytest.raises(UserError, match=rf"{run.id} has no model to register: artifacts=true"):
        registry.promote(open_store(root), run.id, 0.9, {})
    with pytest.raises(UserError, match="run nosuchrun can't be registered"):
        registry.promote(open_store(root), "nosuchrun", 0.9, {})
    assert not open_store(root).client.search_registered_models()


def test_loaded_model_gives_the_same_logits_and_unpickles_nothing(
    finished: Finished, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Sequential(Normalize([0.1], [0.3]), LeNet5(1, (28, 28), 10, dropout=0.5))
    store = open_store(root)
    registry.promote(store, finished(model), 0.9, {})
    version = registry.champion(store, "mnist", None)
    registry.load(store, version, IMAGE)  # torch unpickles files of its own when it is imported

    refuse = Mock(side_effect=AssertionError("something was unpickled"))
    for module in ("pickle", "_pickle", "torch._weights_only_unpickler"):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(sys.modules[module], name, refuse, raising=False)
    monkeypatch.setattr(torch, "load", refuse)
    loaded = registry.load(store, version, IMAGE)
    for n in (1, 2, 7):
        pixels = torch.randint(0, 256, (n, *IMAGE), dtype=torch.uint8)
        torch.testing.assert_close(loaded(pixels), model(pixels))


def graph_of(version: Any) -> Path:
    (path,) = Path(version.source.removeprefix("file://")).rglob("model.pt2")
    return path


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    with ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def test_pickles_in_the_graphs_file_are_never_loaded(finished: Finished, root: Path) -> None:
    store, run = open_store(root), finished()
    registry.promote(store, run, 0.9, {})
    version = registry.champion(store, "mnist", None)
    file = io.BytesIO()
    torch.save(Bomb(), file)

    def in_example(name: str, content: bytes) -> bytes:
        return file.getvalue() if "sample_inputs" in name else content

    def in_weights(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return file.getvalue() if "/weight_" in name else content

    graph = graph_of(version)
    rewrite(graph, in_example)
    with pytest.raises(SystemExit):
        torch.export.load(graph)
    registry.load(store, version, IMAGE)
    rewrite(graph, in_weights)
    with pytest.raises(SystemExit):
        torch.export.load(graph)
    with pytest.raises(UserError, match=r"mnist-linear version 1 can't be loaded .*pickled"):
        registry.load(store, version, IMAGE)


def test_model_that_cannot_be_loaded_is_told_in_a_sentence(finished: Finished, root: Path) -> None:
    store = open_store(root)
    registry.promote(store, finished(), 0.9, {})
    version = registry.champion(store, "mnist", None)
    with pytest.raises(UserError, match=r"takes images of shape \(1, 28, 28\), not \(3, 32, 32\)"):
        registry.load(store, version, (3, 32, 32))
    graph = graph_of(version)
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(UserError, match="mnist-linear version 1 can't be loaded"):
        registry.load(store, version, IMAGE)
    graph.unlink()
    with pytest.raises(UserError, match="mnist-linear version 1 can't be loaded"):
        registry.load(store, version, IMAGE)


@pytest.mark.slow
def test_server_holds_champions_too(
    finished: Finished, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "remote"
    folder.mkdir()
    with server(folder) as (port, end):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        open_store.cache_clear()
        store, first, second = open_store(root), finished(), finished()
        assert registry.promote(store, first, 0.9, {"optimizer.lr": 0.01})[1]
        assert not registry.promote(store, second, 0.9, {})[1]
        assert champion_run(store) == first
        version = registry.champion(store, "mnist", None)
        logits = registry.load(store, version, IMAGE)(torch.zeros(3, *IMAGE, dtype=torch.uint8))
        assert logits.shape == (3, 10)
        end()
        for call in (
            lambda: registry.champion(store, "mnist", None),
            lambda: registry.load(store, version, IMAGE),
            lambda: registry.promote(store, first, 0.9, {}),
        ):
            with pytest.raises(UserError) as told:
                call()
            assert "secret" not in str(told.value)
            assert "\n" not in str(told.value)
    open_store.cache_clear()
    assert not (root / "mlruns").exists()
