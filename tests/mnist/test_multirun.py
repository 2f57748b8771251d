"""A plain multirun ends with one table of its runs, and every multirun begins with a check."""

import re

import pytest
from application import Script

RUNS = ("-m", "model=baseline,lenet5", "epochs=1", "data.n_train=500", "data.n_val=500")


def test_runs_stand_side_by_side_and_the_test_images_are_told_of(script: Script) -> None:
    done = script("train.py", *RUNS, "artifacts=false", "tracking=none")
    assert done.returncode == 0, done.stderr
    end = done.stdout[done.stdout.rindex("Results") :]
    head, first, second = (
        line.split() for line in end.splitlines() if re.match(r" +(run|0|1) ", line)
    )
    assert head == ["run", "model", "val/loss", "val/accuracy", "seconds"]
    assert [first[:2], second[:2]] == [["0", "baseline"], ["1", "lenet5"]]
    assert "No multirun looks at the test images" in end
    for i in (0, 1):
        assert re.search(rf"^#{i} epoch 1/1  loss", done.stdout, re.MULTILINE)


def test_sweep_has_a_table_of_its_own(script: Script) -> None:
    done = script(
        "train.py", *RUNS, "hydra/sweeper=hydrasweep", "n_threads=1", "hydra.sweeper.n_trials=2"
    )
    assert done.returncode == 0, done.stderr
    assert "best trial" in done.stdout
    assert "No multirun looks" not in done.stdout


@pytest.mark.parametrize(
    "slip", ["objective=test/accuracy", "epochs=five", "study=a/b", "hydra.sweeper.n_workers=0"]
)
def test_slip_is_told_before_anything_heavy_is_imported(
    script: Script, monkeypatch: pytest.MonkeyPatch, slip: str
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = script("train.py", "-m", "hparams_search=quick", slip)
    assert done.returncode == 1
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "optuna", "mlflow", "plotly"}
    name, _, value = slip.partition("=")
    told = "hydra.sweeper.study_name" if name == "study" else name
    assert f"Error: {told}={value}: must be" in done.stderr
