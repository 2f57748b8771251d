"""The sweeper's settings: hydra-optuna-sweeper's, and what it lacks."""

from dataclasses import dataclass, field
from typing import Any

# Importing it stores the package's sampler configs, hydra/sweeper/sampler=NAME.
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf


@dataclass
class SweeperConf(OptunaSweeperConf):  # type: ignore[misc]
    """``hydra.sweeper``; the upstream fields keep their meaning.

    n_trials is the total that a study is to have, over all strata and restarts.
    """

    _target_: str = "hydrasweep.search.sweeper.Sweeper"

    # Print the plan and an estimate of its time, check it, and stop there.
    dry_run: bool = False

    # How many processes work on the study. Null: n_jobs, and if that is null too one for
    # each GPU or else each core; the basic launcher has one.
    n_workers: int | None = None
    n_jobs: int | None = None

    # An Optuna pruner by its _target_, or null.
    pruner: Any | None = None

    # A parameter with a choice: each of its values gets a study and an equal share of the
    # trials. Null: one study.
    stratify: str | None = None

    # Seconds between two signs of life that a worker leaves in the storage. Others try its
    # trial again when they have missed four.
    heartbeat: float = 15.0

    # Seconds after which no new trial begins.
    timeout: float | None = None

    # Settings to try first, such as [{optimizer.lr: 0.01, data.batch_size: 64}].
    enqueue: list[Any] = field(default_factory=list)

    # So many failed trials are borne; one more ends the sweep. Null: any number, but for
    # the first three failing alike, which always ends it.
    max_failures: int | None = None
    # The same as a share of the finished trials.
    max_failure_rate: float | None = None

    # How the best trials are confirmed: conf/confirm/ has the settings. Null: not at all.
    confirm: Any | None = None

    # Whether to write report.html at the end.
    report: bool = False

    # A function (config) -> seconds that tries a config on one batch and estimates the
    # time of its training, called at the corners of the search space before the first trial.
    check: str | None = None

    # A function (config) that each worker calls before its first trial, to import what all need.
    warm_up: str | None = None
