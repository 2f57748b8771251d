"""Imports point one way: what each room of the package may know."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

SOURCE = REPOSITORY / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def imports(module: str, *, top_level: bool = False) -> set[str]:
    """Dotted names of all modules that ``module`` imports, or of those at its top level."""
    tree = ast.parse(FILES[module].read_text())
    names = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in FILES else node.module)
    return names


def packages(module: str, *, top_level: bool = False) -> set[str]:
    """Distributions that ``module`` imports, without those of Python itself."""
    roots = {name.partition(".")[0] for name in imports(module, top_level=top_level)}
    return roots - set(sys.stdlib_module_names) - {"hydrasweep"}


def own(module: str) -> set[str]:
    return {name for name in imports(module) if name.startswith("hydrasweep")}


@pytest.mark.parametrize("room", ["data", "layers", "models", "augmentation", "training"])
def test_what_trains_knows_torch_and_nothing_else(room: str) -> None:
    assert packages(f"hydrasweep.{room}") <= {"torch", "numpy", "filelock"}
    assert own(f"hydrasweep.{room}") <= {
        f"hydrasweep.{name}" for name in ("data", "errors", "files", "layers", "seal")
    }


@pytest.mark.parametrize("room", ["tracking", "store", "registry"])
def test_what_records_knows_mlflow_but_neither_optuna_nor_hydra(room: str) -> None:
    module = f"hydrasweep.{room}"
    assert not packages(module) & {"optuna", "hydra", "omegaconf", "torchvision"}
    assert not packages(module, top_level=True) & {"torch", "mlflow"}


def test_pictures_of_digits_need_no_torch() -> None:
    assert packages("mnist.digits") <= {"PIL", "numpy"}


@pytest.mark.parametrize(
    "script", ["train", "show_data", "report", "predict", "mnist.config", "mnist.cli"]
)
def test_nothing_heavy_comes_before_the_config(script: str) -> None:
    assert packages(script, top_level=True) <= {"hydra", "omegaconf"}


def test_no_module_imports_in_a_circle() -> None:
    order = TopologicalSorter({module: own(module) - {module} for module in FILES}).static_order()
    assert set(FILES) <= set(order)


def test_nobody_imports_an_entrypoint() -> None:
    entrypoints = {path.stem for path in SOURCE.glob("*.py")}
    assert {"train", "show_data", "report", "predict"} <= entrypoints
    assert not {(module, name) for module in FILES for name in imports(module) & entrypoints}


def test_every_file_is_looked_at() -> None:
    assert Path(SOURCE / "train.py") in FILES.values()
    assert {"hydrasweep", "mnist.tracking"} <= set(FILES)
