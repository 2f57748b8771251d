"""What people did with MLflow beside a sweep."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from apps import CONFIG
from omegaconf import OmegaConf

MLFLOW = "hydra.sweeper.mlflow=true"
ONE, TWO = "hydra.sweeper.n_trials=1", "hydra.sweeper.n_trials=2"


def runs(client):
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    return list(client.search_runs([experiment.experiment_id]))


# Deletions


def test_deleted_experiment_is_restored_by_the_command_in_the_message(app, client, monkeypatch):
    """They tidied up in the UI. A deleted experiment keeps its name and accepts no runs.

    Sources: github.com/mlflow/mlflow/issues/2690 and 6445
    Right: refused before any trial.
    """
    task = app("return cfg.x")
    client.delete_experiment(client.create_experiment("tests"))
    done = task(MLFLOW, ONE, in_process=True, code=1)
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
    assert done.study().trials == []
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    command = done.err[done.err.index("MLFLOW_TRACKING_URI=") :].partition(",")[0]
    subprocess.run(["env", *shlex.split(command)], check=True, capture_output=True)
    assert len(task(MLFLOW, ONE, code=0).table()) == 1


def test_sweep_whose_run_was_deleted_gets_a_new_one(app, client):
    """They tidied up in the UI while a sweep was unfinished. A deleted run accepts no metrics.

    Sources: github.com/mlflow/mlflow/issues/689 and 6606
    Right: the new run has the new trials as children.
    """
    body = """
        import mlflow
        with mlflow.start_run():
            mlflow.log_metric("loss", cfg.x)
        return cfg.x
    """
    task = app(body)
    task(MLFLOW, ONE, code=0)
    for run in runs(client):
        client.delete_run(run.info.run_id)
    task(MLFLOW, TWO, code=0)
    found = runs(client)
    (parent,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    (child,) = (run for run in found if run != parent)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["trial"] == "001"
    assert {run.info.status for run in found} == {"FINISHED"}


# Names and values

MORE = """
betas: [0.5, 0.5]
net: {width: 1, depth: 1}
optimizer: {_target_: torch.optim.Adam, lr: 0.1}
"""
LISTS = (
    "~x",
    'betas=choice("[0.9,0.999]","[0.8,0.99]")',
    "net=choice({width:8,depth:2},{width:16,depth:1})",
    'optimizer._target_=choice("torch.optim.SGD","torch.optim.AdamW")',
)
BODY = """
    from omegaconf import ListConfig
    assert isinstance(cfg.betas, ListConfig), cfg.betas
    assert list(cfg.betas) in ([0.9, 0.999], [0.8, 0.99])
    assert dict(cfg.net) in ({"width": 8, "depth": 2}, {"width": 16, "depth": 1})
    return cfg.betas[0] + cfg.net.width + len(cfg.optimizer._target_)
"""


def test_lists_dicts_and_classes_are_searched_and_confirmed(app, client):
    """They wrote ``choice("[128, 32]", "[128]")`` for layers, which ended in a traceback, and
    ``_target_: choice("torch.optim.SGD", "torch.optim.Adam")``.

    Sources: github.com/ashleve/lightning-hydra-template/issues/656 and 457
    Right: lists are lists in the config of a trial and in the recipe. Tables and MLflow show them
    as they were written.
    """
    grid = (MLFLOW, "hydra/sweeper/confirm=two_seeds", "hydra/sweeper/sampler=grid")
    done = app(BODY, CONFIG + MORE)(*LISTS, *grid, code=0)
    assert done.states() == ["COMPLETE"] * 8
    assert {row["betas"] for row in done.table()} == {"[0.9,0.999]", "[0.8,0.99]"}
    names = {"torch.optim.SGD", "torch.optim.AdamW"}
    assert {row["optimizer._target_"] for row in done.table()} == names
    recipe: Any = OmegaConf.load(done.folder / "sweep" / "best" / "overall.yaml")
    best = (recipe.betas[0], recipe.net.width, recipe.optimizer._target_)
    assert best == (0.8, 8, "torch.optim.SGD")
    (run,) = runs(client)
    assert run.data.params["space.betas"].endswith("[0.9,0.999], [0.8,0.99]")


def test_list_is_enqueued_as_text_or_as_a_list(app):
    """Source: as above."""
    target = "optimizer._target_: torch.optim.SGD"
    points = [
        f"{{betas: {betas}, net: {{width: 8, depth: 2}}, {target}}}"
        for betas in ('"[0.8,0.99]"', "[0.9,0.999]")
    ]
    done = app(BODY, CONFIG + MORE)(*LISTS, f"hydra.sweeper.enqueue=[{','.join(points)}]", TWO)
    assert done.code == 0, done.err
    rows = [(row["betas"], row["optimizer._target_"]) for row in done.table()]
    assert rows == [("[0.8,0.99]", "torch.optim.SGD"), ("[0.9,0.999]", "torch.optim.SGD")]


def test_names_that_mlflow_refuses_are_cleaned(app, client):
    """They logged a metric ``MAP@k`` and a parameter with brackets, which ends the run.

    Sources: github.com/mlflow/mlflow/issues/9425,
    github.com/Lightning-AI/pytorch-lightning/issues/2058
    """
    body = """
        assert dict(cfg.note) == {"a@b": 1}
        assert "y" not in cfg
        assert isinstance(cfg.extra, bool)
        return cfg.x
    """
    overrides = (
        "+note={a@b:1}",
        "~y",
        "+extra=choice(true,false)",
        "hydra.sweeper.objective=MAP@k",
    )
    done = app(body)(MLFLOW, *overrides, TWO, code=0)
    assert done.states() == ["COMPLETE"] * 2
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    (key,) = (key for key in run.data.params if key.endswith("extra"))
    assert key.startswith("space.")
    assert run.data.params[key].endswith("True, False")


# The address and the database


@pytest.mark.parametrize("is_named", [True, False])
def test_database_of_mlflow_is_refused_for_the_studies(
    app,
    tmp_path,
    mlflow_store,
    monkeypatch,
    is_named,
):
    """They gave Optuna the address of MLflow's database. Both keep the version of their schema in
    one table, and each takes the other's tables for an old version of its own.

    Sources: github.com/mlflow/mlflow/issues/3374, github.com/optuna/optuna/issues/2866
    Right: refused whether a variable names the file or MLflow would use it by default.
    """
    path, task = tmp_path / "mlflow.db", app("return cfg.x")

    def refuse(url):
        done = task(f"hydra.sweeper.storage='{url}'", in_process=True, code=1)
        assert done.err.startswith("Error: hydra.sweeper.storage=")
        assert "MLflow" in done.err
        assert not (done.folder / "sweep").exists()
        assert not list(done.folder.glob("*.lock"))

    if is_named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    refuse("sqlite:///mlflow.db")
    assert not path.exists()
    shutil.copy(mlflow_store, path)
    before = path.read_bytes()
    for url in ("mlflow.db", "./mlflow.db", "mlflow.db?timeout=60", str(path)):
        refuse(f"sqlite:///{url}")
    assert path.read_bytes() == before


def places(done):
    """Where the password is."""
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    assert files
    found = [str(path) for path in files if b"hunter2" in path.read_bytes()]
    return found + ["output"] * ("hunter2" in done.out + done.err)


def test_password_in_the_address_is_in_no_output_and_no_file(app, monkeypatch):
    """They found it in the log of MLflow's server, and in the metadata of another tool's runs.

    Sources: github.com/mlflow/mlflow/issues/2282, github.com/zenml-io/zenml/issues/2443
    Right: neither a sweep that cannot reach the server nor a failed trial, whose error has the
    whole address, shows it.
    """
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9/")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    body = """
        import mlflow
        if cfg.x < 0:
            mlflow.MlflowClient().search_experiments()
        return cfg.x
    """
    task = app(body, more="import mlflow")
    done = task(MLFLOW, in_process=True, code=1)
    assert "http://127.0.0.1:9" in done.err
    assert places(done) == []
    done = task(TWO, code=0)
    assert done.states() == ["COMPLETE", "FAIL"]
    assert "127.0.0.1" in done.log("001")
    assert places(done) == []
