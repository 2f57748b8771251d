"""Imports point one way: two rooms, and one arrow between them."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hydrasweep

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
SWEEPER = [name for name in FILES if name.split(".")[0] == "hydrasweep"]
APPLICATION = [name for name in FILES if name not in SWEEPER]
TRAINS = (
    "accelerate",
    "augmentation",
    "averaging",
    "data",
    "layers",
    "models",
    "seal",
    "tasks",
    "training",
)


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
    """Top-level packages that ``module`` imports, without those of Python itself."""
    roots = {name.partition(".")[0] for name in imports(module, top_level=top_level)}
    return roots - set(sys.stdlib_module_names)


def own(module: str) -> set[str]:
    return {name for name in imports(module) if name in FILES}


@pytest.mark.parametrize("module", SWEEPER)
def test_the_sweeper_knows_neither_the_application_nor_torch(module: str) -> None:
    assert not packages(module) & {"mnist", "torch", "torchvision", "matplotlib"}
    assert not packages(module, top_level=True) & {"mlflow", "joblib"}


@pytest.mark.parametrize("module", APPLICATION)
def test_the_application_knows_the_public_names_of_the_sweeper_alone(module: str) -> None:
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hydrasweep"):
            assert node.module == "hydrasweep"
            assert {alias.name for alias in node.names} <= set(hydrasweep.__all__)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "hydrasweep":
            assert node.attr in hydrasweep.__all__
        elif isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.startswith("hydrasweep.")]


@pytest.mark.parametrize("room", TRAINS)
def test_what_trains_knows_no_mlflow_no_optuna_and_no_hydra(room: str) -> None:
    assert not packages(f"mnist.{room}") & {"hydra", "mlflow", "omegaconf", "optuna"}
    assert own(f"mnist.{room}") <= {
        *(f"mnist.{name}" for name in (*TRAINS, "figures", "files", "text")),
        "hydrasweep",
    }


@pytest.mark.parametrize("script", ["train", "show_data", "mnist.config"])
def test_nothing_heavy_comes_before_the_config(script: str) -> None:
    heavy = {"matplotlib", "mlflow", "numpy", "optuna", "torch", "torchvision"}
    assert not packages(script, top_level=True) & heavy


@pytest.mark.parametrize("module", ["hydrasweep", "hydrasweep.plugin", "hydrasweep.settings"])
def test_what_every_hydra_app_imports_is_light(module: str) -> None:
    seen, left = set(), {module}
    while left:
        seen.add(name := left.pop())
        assert packages(name, top_level=True) <= {
            *("hydra", "hydra_plugins", "hydrasweep", "omegaconf")
        }
        left |= {n for n in imports(name, top_level=True) if n in FILES} - seen


def test_no_module_imports_in_a_circle() -> None:
    order = TopologicalSorter({module: own(module) - {module} for module in FILES}).static_order()
    assert set(FILES) <= set(order)


def test_nobody_imports_an_entrypoint() -> None:
    entrypoints = {path.stem for path in SOURCE.glob("*.py")}
    assert {"train", "show_data"} <= entrypoints
    assert not {(module, name) for module in FILES for name in imports(module) & entrypoints}


def test_no_module_hides_a_name_of_the_api() -> None:
    assert not {f"hydrasweep.{name}" for name in hydrasweep.__all__} & set(FILES)


def test_no_file_is_longer_than_a_newcomer_reads() -> None:
    assert not [name for name, path in FILES.items() if len(path.read_text().splitlines()) > 300]
