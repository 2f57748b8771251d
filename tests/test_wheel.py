"""The sweeper as others get it: a wheel in an environment that has neither torch nor MLflow."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from examples.foreign import children, copy, example

REPOSITORY = Path(__file__).parents[1]
SHIPPED = (".py", ".typed", ".html", ".yaml")

# Composes every choice of the sweeper's groups, and says how many there are.
COMPOSE = """
from importlib.resources import files
from hydra import compose, initialize_config_dir
groups = files("hydrasweep.conf") / "hydra" / "sweeper"
n = 0
with initialize_config_dir({folder!r}):
    for group in sorted(groups.iterdir()):
        for choice in sorted(group.iterdir()):
            word = f"hydra/sweeper/{{group.name}}={{choice.stem}}"
            config = compose("config", [word], return_hydra_config=True)
            assert config.hydra.sweeper[group.name], word
            print(word)
"""


def run(python: str | Path, *words: str | Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-m", *words], check=True, env=clean)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it; of a copy, as setuptools would
    pack what an earlier build has left."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("packages")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=junk)
    run(sys.executable, "build", "--outdir", built, source)
    return built


@pytest.fixture(scope="module")
def wheel(packages: Path) -> Path:
    (found,) = packages.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel and scikit-learn."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    fresh = folder / "bin" / "python"
    run(fresh, "pip", "--quiet", "install", wheel, "scikit-learn")
    return fresh


def says(python: Path, code: str, where: Path) -> str:
    done = subprocess.run(
        [python, "-c", code], cwd=where, env={**os.environ, "PYTHONPATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_packages_are_as_an_index_takes_them(packages: Path, wheel: Path) -> None:
    (sdist,) = packages.glob("*.tar.gz")
    run(sys.executable, "twine", "check", "--strict", sdist, wheel)
    run(sys.executable, "check_wheel_contents", wheel)


@pytest.mark.slow
def test_the_wheel_holds_the_sweeper_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"hydrasweep"}
    own = [p for p in (REPOSITORY / "src" / "hydrasweep").rglob("*") if p.suffix in SHIPPED]
    shipped = {str(p.relative_to(REPOSITORY / "src")) for p in own}
    assert {name for name in names if name.startswith("hydrasweep/")} == shipped
    assert "hydrasweep/py.typed" in shipped


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_without_torch_and_mlflow(python: Path, tmp_path: Path) -> None:
    for absent in ("torch", "mlflow", "mnist"):
        found = f"from importlib.util import find_spec; print(find_spec({absent!r}))"
        assert says(python, found, tmp_path).strip() == "None"
    app = example("sklearn", tmp_path)
    app.python = str(python)
    choices = says(python, COMPOSE.format(folder=str(app.folder)), tmp_path).split()
    assert {word.split("=")[0].split("/")[-1] for word in choices} == {
        "pruner", "sampler", "storage", "confirm",
    }  # fmt: skip
    assert len(choices) > 10
    app.run_readme(PYTHONPATH="")
    words = ["hydra/launcher=joblib", "hydra/sweeper/storage=journal"]
    words += ["hydra.sweeper.study_name=second"]
    printed = app.run("-m", *words, app="train.py", PYTHONPATH="")
    assert "Study second: 12 trials, 2 workers (joblib)" in printed
    for name in ("cancer", "second"):
        rows = app.trials(study=name)
        assert len(rows) == 12
        assert any(row["state"] == "PRUNED" for row in rows)
    assert (app.sweep("second") / "study.journal").exists()
    # Asked for where it is missing, MLflow is named in a sentence.
    told = app.run("-m", "hydra.sweeper.mlflow=true", app="train.py", fails=True, PYTHONPATH="")
    assert 'pip install "hydrasweep[mlflow]"' in told
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_mlflow_autologged_runs_are_nested(wheel: Path, python: Path, tmp_path: Path) -> None:
    run(python, "pip", "--quiet", "install", f"{wheel}[mlflow]")
    app = copy("autolog", tmp_path)
    app.python = str(python)
    app.run("-m", "hydra/launcher=joblib", PYTHONPATH="")
    parent, others = children(app.runs())
    assert parent.name == "sweep folds"
    assert {run.name for run in others} == {f"00{row['number']}" for row in app.trials()}
