"""The wheel in environments that have its dependencies only: neither torch nor, at first, MLflow.

The dependencies are those that the wheel's metadata declares. They are linked from the environment
of the tests, which takes a second where an installation takes minutes.
"""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import pytest
from examples.foreign import children, copy, example
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[1]
SHIPPED = (".py", ".typed", ".html", ".yaml")

# Composes each choice of the sweeper's groups, and prints it.
COMPOSE = """
from importlib.resources import files
from hydra import compose, initialize_config_dir
groups = files("hydrasweep.conf") / "hydra" / "sweeper"
with initialize_config_dir({folder!r}):
    for group in sorted(groups.iterdir()):
        for choice in sorted(group.iterdir()):
            word = f"hydra/sweeper/{{group.name}}={{choice.stem}}"
            config = compose("config", [word], return_hydra_config=True)
            assert config.hydra.sweeper[group.name], word
            print(word)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with the sdist, and the wheel that is built from it. They are built from a copy,
    since setuptools would include what an earlier build has left."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("packages")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=junk)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built, source]
    subprocess.run(command, check=True, env=environment)
    return built


@pytest.fixture(scope="module")
def wheel(packages):
    (found,) = packages.glob("*.whl")
    return found


def dependencies(requires, extra):
    """The installed distributions that the requirements need, by their names and extras."""
    found: dict[tuple[str, str], Distribution] = {}
    left = [(Requirement(each), extra) for each in requires]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), wanted)
            if key not in found:
                found[key] = distribution(requirement.name)
                assert found[key].version in requirement.specifier, requirement
                left += [(Requirement(each), wanted) for each in found[key].requires or []]
    return found


def environment(folder, wheel, extra=""):
    """Create an environment with the wheel, its dependencies and scikit-learn; return its
    interpreter."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    (info,) = packages.glob("hydrasweep-*.dist-info")
    requires = [*(PathDistribution(info).requires or []), "scikit-learn"]
    root = Path(site.getsitepackages()[0])
    for each in {d.name: d for d in dependencies(requires, extra).values()}.values():
        for path in each.files or []:
            source, target = root / path, packages / path
            if ".." not in path.parts and source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(source)
    return str(folder / "bin" / "python")


def output(python, code, where):
    done = subprocess.run(
        [python, "-c", code], cwd=where, env={**os.environ, "PYTHONPATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_packages_are_valid_and_hold_the_sweeper_only(packages, wheel):
    (sdist,) = packages.glob("*.tar.gz")
    for words in (("twine", "check", "--strict", sdist, wheel), ("check_wheel_contents", wheel)):
        subprocess.run([sys.executable, "-m", *words], check=True)
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"hydrasweep"}
    own = [p for p in (REPOSITORY / "src" / "hydrasweep").rglob("*") if p.suffix in SHIPPED]
    shipped = {str(p.relative_to(REPOSITORY / "src")) for p in own}
    assert {name for name in names if name.startswith("hydrasweep/")} == shipped
    assert "hydrasweep/py.typed" in shipped


@pytest.mark.slow
def test_wheel_sweeps_without_torch_and_mlflow(wheel, tmp_path):
    python = environment(tmp_path / "env", wheel)
    for absent in ("torch", "mlflow", "mnist"):
        found = f"from importlib.util import find_spec; print(find_spec({absent!r}))"
        assert output(python, found, tmp_path).strip() == "None"
    app = example("sklearn", tmp_path)
    app.python = python
    choices = output(python, COMPOSE.format(folder=str(app.folder)), tmp_path).split()
    groups = {word.partition("=")[0].rpartition("/")[2] for word in choices}
    assert groups == {"pruner", "sampler", "storage", "confirm"}
    assert len(choices) > 10
    app.run_readme(PYTHONPATH="")
    words = ["hydra/launcher=joblib", "hydra/sweeper/storage=journal"]
    app.run("-m", *words, "hydra.sweeper.study_name=second", app="train.py", PYTHONPATH="")
    for name in ("cancer", "second"):
        rows = app.trials(study=name)
        assert len(rows) == 12
        assert any(row["state"] == "PRUNED" for row in rows)
    assert (app.sweep("second") / "study.journal").exists()
    # MLflow is missing: the message names the extra that installs it.
    error = app.run("-m", "hydra.sweeper.mlflow=true", app="train.py", fails=True, PYTHONPATH="")
    assert '"hydrasweep[mlflow]"' in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_wheel_with_mlflow_nests_the_autologged_runs_of_trials(wheel, tmp_path):
    app = copy("autolog", tmp_path)
    app.python = environment(tmp_path / "env", wheel, "mlflow")
    app.run("-m", "hydra/launcher=joblib", PYTHONPATH="")
    parent, others = children(app.runs())
    assert parent.name == "sweep folds"
    assert {run.name for run in others} == {f"00{row['number']}" for row in app.trials()}
