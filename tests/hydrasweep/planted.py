"""Sweeps that were never run: their storages and files are filled by hand."""

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep import page
from hydrasweep.liveness import OWNER
from hydrasweep.plots import Sweep
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies

BEGAN = datetime(2026, 1, 2, 3, 4)
SPACE = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "model.dropout": FloatDistribution(0.0, 0.5),
    "data.batch_size": CategoricalDistribution([32, 64, 128]),
    "seed": IntDistribution(0, 1000),
}


def trial(
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    reports: Sequence[float] = (),
    minute: float = 0,
    pid: int = 1,
    space: Mapping[str, Any] = SPACE,
    attrs: Mapping[str, Any] | None = None,
    **params: Any,
) -> FrozenTrial:
    """A trial of one minute that began ``minute`` minutes after the sweep. ``lr`` and so on name
    parameters by the last part of their names."""
    last_parts = {name: name.rpartition(".")[2] for name in space}
    named = {name: params[last] for name, last in last_parts.items() if last in params}
    made = create_trial(
        state=state,
        values=list(values) or None,
        params=named,
        distributions={name: space[name] for name in named},
        intermediate_values=dict(enumerate(reports, 1)),
        user_attrs={OWNER: {"host": "here", "pid": str(pid)}, **(attrs or {})},
    )
    if state != TrialState.WAITING:
        made.datetime_start = BEGAN + timedelta(minutes=minute)
    if state.is_finished():
        made.datetime_complete = BEGAN + timedelta(minutes=minute + 1)
    return made


def studies(directions: Sequence[str] = ("maximize",), **strata: Sequence[FrozenTrial]) -> Studies:
    """A search in memory, with a stratum for each keyword."""
    storage = optuna.storages.InMemoryStorage()
    made = []
    for value, trials in strata.items():
        study = optuna.create_study(study_name=value, storage=storage, directions=list(directions))
        study.add_trials(trials)
        made.append(Stratum(value, study))
    return Studies("s", made, threading.RLock())


def journal(folder: Path) -> optuna.storages.JournalStorage:
    """The storage of a planted sweep."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.storages.JournalStorage(backend)


def plant(
    folder: Path,
    studies: Mapping[str, Sequence[FrozenTrial]],
    directions: Sequence[str] = ("maximize",),
    sweeper: Mapping[str, Any] | None = None,
    app: Mapping[str, Any] | None = None,
) -> Path:
    """A sweep's folder with a study for each key, which follows the sweep's name in the study's.

    ``sweeper`` are settings of hydra.sweeper, ``app`` those of the application.
    """
    folder.mkdir(parents=True)
    chosen = {"study_name": folder.name, "objective": "val/accuracy"}
    if any(key.startswith("/") for key in studies):
        chosen |= {"stratify": "model", "confirm": {"seed": "seed"}}
    chosen |= sweeper or {}
    kept = {**(app or {}), "hydra": {"sweep": {"dir": "/where/it/was/run"}, "sweeper": chosen}}
    OmegaConf.save(OmegaConf.create(kept), folder / "multirun.yaml")
    storage = journal(folder)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for key, trials in studies.items():
        study = optuna.create_study(
            study_name=folder.name + key, storage=storage, directions=list(directions)
        )
        study.add_trials(trials)
    return folder


def sweep_of(folder: Path, *strata: Sequence[FrozenTrial], direction: str = "maximize") -> Sweep:
    """A planted sweep with a stratum for each list of trials, as ``page.read`` returns it."""
    named = {f"/{i}": trials for i, trials in enumerate(strata)}
    return page.read(plant(folder / "s", named, [direction]))


def searched(n: int = 8) -> list[FrozenTrial]:
    """A search of ``n`` trials, every third pruned after its first epoch."""
    trials = []
    for i in range(n):
        value = 0.9 + 0.01 * (i % 5) - 1e-6 * i
        pruned = i % 3 == 2
        trials.append(
            trial(
                value - 0.2 * pruned,
                state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
                reports=[value - 0.2] if pruned else [value - 0.2, value - 0.1, value],
                minute=i // 2,
                pid=i % 2,
                lr=1e-4 * 2 ** (i % 9),
                dropout=0.05 * (i % 9),
                batch_size=(32, 64, 128)[i % 3],
            )
        )
    return trials


def with_seeds(winner: FrozenTrial, values: Sequence[float], minute: float) -> list[FrozenTrial]:
    """The trials that train ``winner`` again on fresh seeds."""
    params = {name.rpartition(".")[2]: value for name, value in winner.params.items()}
    return [
        trial(value, minute=minute + i, seed=100 + i, **params) for i, value in enumerate(values)
    ]
