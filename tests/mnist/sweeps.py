"""Sweeps of the application: one that tests share, and what must hold after any sweep."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import application
import optuna
import pytest
from application import client_of, command_line, copy_store, environment, runs_of
from omegaconf import OmegaConf
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.stratum import FOLLOWS, label
from hydrasweep.trials import SEARCH

if TYPE_CHECKING:
    from mlflow.entities import Run

MODELS = ("baseline", "lenet5")
ALONE = "hydra.sweeper.n_workers=1"  # in the sweep's own process, which saves imports
TWO = "hydra.sweeper.n_workers=2"
SWEEP = ("-m", "hparams_search=quick", "model=choice(baseline,lenet5)", "epochs=2")
UNCONFIRMED = (*SWEEP, "hydra/sweeper/confirm=none")
# The second trial of each architecture is far worse than the first; the third one diverges.
GOOD = "{optimizer.lr: 0.01, model.dropout: 0.0, data.batch_size: 32}"
BAD = "{optimizer.lr: 0.0003, model.dropout: 0.5, data.batch_size: 256}"
DIVERGES = "{model: baseline, optimizer.lr: 1e30, model.dropout: 0.0, data.batch_size: 32}"
WHOLE = (*SWEEP, ALONE, "study=whole", "hydra.sweeper.n_trials=5",
         "optimizer.lr=tag(log,interval(1e-4,1e30))",
         f"hydra.sweeper.enqueue=[{GOOD},{BAD},{DIVERGES}]")  # fmt: skip


@dataclass
class Sweep:
    """What a sweep has left: its output, its folder, its studies, its runs in MLflow."""

    root: Path
    name: str
    out: str = ""

    @property
    def folder(self) -> Path:
        return self.root / "outputs" / "sweeps" / self.name

    @property
    def storage(self) -> str | BaseStorage:
        return f"sqlite:///{self.folder / 'study.db'}"

    def studies(self, phase: str = SEARCH) -> dict[str, Study]:
        """Optuna's studies of a phase by their strata."""
        base = self.name if phase == SEARCH else f"{self.name}@{phase}"
        parted = (name.partition("/") for name in optuna.get_all_study_names(self.storage))
        return {
            stratum: optuna.load_study(study_name=f"{base}/{stratum}", storage=self.storage)
            for found, _, stratum in parted
            if found == base
        }

    def all_trials(self) -> dict[str, FrozenTrial]:
        """Every trial of the search by its stratum and number."""
        return {
            f"{stratum}-{trial.number:03d}": trial
            for stratum, study in self.studies().items()
            for trial in study.trials
        }

    def trials(self, phase: str = SEARCH) -> dict[str, FrozenTrial]:
        """The trials that count, by the names of their folders: all but those that another trial
        repeats or continues."""
        found = {}
        for stratum, study in self.studies(phase).items():
            attrs = [trial.user_attrs for trial in study.trials]
            followed = {each[key] for each in attrs for key in FOLLOWS if key in each}
            found |= {
                label(stratum, phase, trial): trial
                for trial in study.trials
                if trial.number not in followed
            }
        return found

    def ended(self) -> dict[str, FrozenTrial]:
        return {name: trial for name, trial in self.trials().items() if trial.state.is_finished()}

    def folders(self) -> set[str]:
        """The names of the folders of the search's trials."""
        names = {path.parent.name for path in self.folder.glob("*/.hydra")}
        return {name for name in names if "-confirm-" not in name}

    def table(self, name: str = "trials") -> list[dict[str, str]]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    @property
    def results(self) -> Any:
        return OmegaConf.load(self.folder / "results.yaml")

    def all_runs(self) -> "list[Run]":
        return runs_of(client_of(self.root))

    def runs(self) -> "tuple[list[Run], list[Run]]":
        """The sweep's own runs in MLflow (there should be one) and those of its trials."""
        runs = self.all_runs()
        own = [run for run in runs if run.info.run_name == f"sweep {self.name}"]
        return own, [run for run in runs if run.data.tags.get("study") == self.name]

    def runs_in(self, phase: str) -> "dict[str, Run]":
        """The runs of a phase's trials by their names."""
        children = [run for run in self.runs()[1] if run.data.tags["phase"] == phase]
        named = {str(run.info.run_name): run for run in children}
        assert len(named) == len(children)
        return named


def history(folder: Path) -> list[dict[str, Any]]:
    """What a training wrote into its folder after each epoch."""
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_whole(factory: pytest.TempPathFactory, empty_store: Path) -> Sweep:
    """A finished sweep with a failed and two pruned trials, confirmation and final runs. All
    workers of pytest-xdist share it, so tests must only read it."""
    import shared  # it imports what only the tests of sweeps need

    def fill(root: Path) -> None:
        copy_store(empty_store, root)
        words = command_line("train.py", *WHOLE)
        done = application.run(words, cwd=root, env=environment(root))
        assert done.returncode == 0, done.stderr
        (root / "out.txt").write_text(done.stdout)

    root = shared.folder(factory, "application-sweep", fill)
    return Sweep(root, "whole", (root / "out.txt").read_text())


def assert_kept(before: dict[str, FrozenTrial], after: dict[str, FrozenTrial]) -> None:
    """No finished trial has changed, except that paused ones may have continued."""
    for name, trial in before.items():
        if trial.state == TrialState.PRUNED:
            assert after[name].params == trial.params
            assert trial.intermediate_values.items() <= after[name].intermediate_values.items()
        else:
            assert after[name] == trial


def assert_whole(sweep: Sweep, n_trials: int) -> None:
    """The search has this many finished trials; the storage, the folder and MLflow agree."""
    everything, trials = sweep.all_trials(), sweep.trials()
    assert all(trial.state.is_finished() for trial in everything.values())
    assert len(trials) == n_trials
    assert {trial.state for trial in trials.values()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    parents, children = sweep.runs()
    assert len(parents) == 1
    assert "RUNNING" not in {run.info.status for run in parents + children}
    names = [run.info.run_name for run in children if run.data.tags["phase"] == SEARCH]
    assert len(set(names)) == len(names)
    assert trials.keys() <= sweep.folders() <= everything.keys()
    for name in sweep.folders():
        steps = [epoch["step"] for epoch in history(sweep.folder / name)]
        assert steps == list(range(1, len(steps) + 1)), name
        if name in trials:
            assert steps == list(trials[name].intermediate_values)
    rows = [f"{row['model']}-{int(row['number']):03d}" for row in sweep.table()]
    assert sorted(rows) == sorted(trials)
    for model, (best,) in sweep.results.best.items():
        values = [
            trial.value
            for name, trial in trials.items()
            if name.startswith(model) and trial.state == TrialState.COMPLETE
        ]
        assert best["values"] == [max(values)]
