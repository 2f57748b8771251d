"""Imports point one way: the application imports the sweeper's public names, nothing imports the
application, and what is imported first is light."""

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import hydrasweep

SOURCE = Path(__file__).resolve().parents[1] / "src"
TREES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted(SOURCE.rglob("*.py"))
}
SWEEPER = [name for name in TREES if name.split(".")[0] == "hydrasweep"]
APPLICATION = [name for name in TREES if name not in SWEEPER]
TRAINS = [
    "accelerate",
    "augmentation",
    "averaging",
    "data",
    "layers",
    "models",
    "seal",
    "tasks",
    "training",
]


@cache
def imports(module, *, top_level=False):
    """The names of all modules that ``module`` imports, or of those at its top level."""
    tree, names = TREES[module], set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                names.add(name if name in TREES else str(node.module))
    return names


def packages(module, *, top_level=False):
    """Top-level packages that ``module`` imports, without those of Python itself."""
    roots = {name.partition(".")[0] for name in imports(module, top_level=top_level)}
    return roots - set(sys.stdlib_module_names)


def own(module):
    return {name for name in imports(module) if name in TREES}


def reached(*modules, top_level=False):
    """Modules of the project that are imported when the given ones are, these included."""
    seen: set[str] = set()
    left = {*modules}
    while left:
        seen.add(name := left.pop())
        left |= {n for n in imports(name, top_level=top_level) if n in TREES} - seen
    return seen


def offenders(modules, forbidden, *, top_level=False):
    """``module: package`` for each of the forbidden packages that one of the modules imports."""
    return {
        f"{module}: {package}"
        for module in modules
        for package in packages(module, top_level=top_level) & forbidden
    }


def test_sweeper_imports_neither_application_nor_torch():
    assert not offenders(SWEEPER, {"mnist", "torch", "torchvision", "matplotlib"})
    assert not offenders(SWEEPER, {"mlflow", "joblib"}, top_level=True)


def test_application_uses_only_public_names_of_the_sweeper():
    private = set()
    for module in APPLICATION:
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hydrasweep"):
                used = {alias.name for alias in node.names}
                used |= {str(node.module)} - {"hydrasweep"}
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "hydrasweep":
                used = {node.attr}
            elif isinstance(node, ast.Import):
                used = {a.name for a in node.names if a.name.startswith("hydrasweep.")}
            else:
                continue
            private |= {f"{module}: {name}" for name in used - {*hydrasweep.__all__}}
    assert not private


def test_training_imports_neither_mlflow_nor_optuna_nor_hydra():
    parts = ("training", "data", "models", "augmentation", "accelerate", "tasks")
    used = {name for name in reached(*(f"mnist.{part}" for part in parts)) if name in APPLICATION}
    assert {"mnist.averaging", "mnist.layers", "mnist.seal"} <= used
    assert not offenders(used, {"hydra", "mlflow", "omegaconf", "optuna"})
    assert {name for module in used for name in own(module) - used} <= {"hydrasweep"}


def test_nothing_heavy_is_imported_before_the_config_is_composed():
    heavy = {"matplotlib", "mlflow", "numpy", "optuna", "torch", "torchvision"}
    assert not offenders(("train", "show_data", "mnist.config"), heavy, top_level=True)


def test_what_every_hydra_app_imports_is_light():
    first = reached("hydrasweep", "hydrasweep.plugin", "hydrasweep.settings", top_level=True)
    allowed = {"hydra", "hydra_plugins", "hydrasweep", "omegaconf"}
    assert not {f"{m}: {p}" for m in first for p in packages(m, top_level=True) - allowed}


def test_no_module_imports_itself_in_a_circle():
    order = TopologicalSorter({module: own(module) - {module} for module in TREES}).static_order()
    assert set(TREES) <= set(order)


def test_no_module_imports_an_entrypoint():
    entrypoints = {path.stem for path in SOURCE.glob("*.py")}
    assert {"train", "show_data"} <= entrypoints
    assert not {(module, name) for module in TREES for name in imports(module) & entrypoints}


def test_no_module_has_the_name_of_a_public_function():
    assert not {f"hydrasweep.{name}" for name in hydrasweep.__all__} & set(TREES)
