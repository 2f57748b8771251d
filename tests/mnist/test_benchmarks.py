"""The benchmarks work: each at its smallest size, which keeps no results."""

import runpy

import pytest
from application import REPOSITORY, environment, run

pytestmark = pytest.mark.slow

FOLDER = REPOSITORY / "tests" / "benchmarks"
NAMES = list(runpy.run_path(str(FOLDER / "run.py"))["MODULES"])


@pytest.fixture(autouse=True)
def results_stay():
    """No test changes the results that are kept in the repository."""

    def results():
        kept = [*FOLDER.glob("*.json"), *FOLDER.glob("*.png"), *REPOSITORY.glob("docs/*.png")]
        return {path: path.read_bytes() for path in kept}

    before = results()
    yield
    assert results() == before


def output(root, script, *words):
    """What a script prints that runs at the smallest size and records below ``root``."""
    (root / "data").symlink_to(REPOSITORY / "data")
    env = environment(root, BENCHMARKS_SMALLEST="1")
    done = run([str(FOLDER / script), *words], cwd=root, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_prints_its_results(name, root):
    _, rule, rows = output(root, "run.py", "--smallest", name).partition("─")
    assert rule
    assert any(character.isdigit() for character in rows)


def test_curves_for_the_pruning_signal_are_trained(root):
    assert "linear lenet5" in output(root, "pruning_signal.py", "--record")


def test_recipes_are_trained_and_drawn(root):
    assert "best_lenet5" in output(root, "recipes.py", str(root / "recipes"))
    files = {path.name for path in (root / "recipes").iterdir() if path.is_file()}
    assert files == {"recipes.json", "mnist_curves.png", "mnist_wrong.png"}
