"""A trial as its task function sees it: Optuna's, which knows its sweep."""

import os
from typing import Self

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from hydrasweep.errors import raise_received

# A sweep searches, trains the best again on fresh seeds, and scores the winners once.
SEARCH, CONFIRM, FINAL = PHASES = ("search", "confirm", "final")
MARK = "hydrasweep."  # begins the names of our own user attributes
STEP = f"{MARK}step"  # the last one that was reported, where Optuna keeps none
OFFSET = f"{MARK}offset"  # 1 where the task function counts its steps from 0
GAVE_UP = f"{MARK}gave_up"  # pruned by its task function, not by the pruner
# Of a trial that goes on with an earlier one's settings, state and steps:
ORIGIN = f"{MARK}origin"  # the number of the first
FOLDER = f"{MARK}folder"  # the first one's
AFTER = f"{MARK}after"  # the last step that was reported before
SPENT = f"{MARK}spent"  # the seconds before
NOTE = f"{MARK}note."  # begins the names of those that the sweep's user is told at its end
NOT_OWN = (
    "only the process in which the sweep has called the task function may report or record: of "
    "several processes that train together, let this one do it, and tell the others"
)
BEGAN_ANEW = (
    "repeated steps that were done before it paused or was lost: with hydra.sweeper.resumable=true "
    "the task function begins with the state that it has saved"
)


class SweepTrial(Trial):
    """An ``optuna.Trial`` with what its sweep knows of it.

    ``sweep`` is the sweep's name, ``phase`` one of search, confirm and final, ``stratum`` the
    value of ``stratify`` or "", ``name`` what its folder is called, ``parent_run_id`` the sweep's
    run in MLflow. Outside a sweep all are None.
    """

    sweep: str | None = None
    phase: str | None = None
    stratum: str | None = None
    name: str | None = None
    parent_run_id: str | None = None
    was_advised = False  # to stop, by the pruner
    was_stopped = False  # by the last report
    was_pruned = False  # by an exception
    _last_step: int | None = None
    _offset: int | None = None  # 1 where the task function counts its steps from 0

    def __init__(self, study: Study, trial_id: int, **facts: object) -> None:
        super().__init__(study, trial_id)
        self.__dict__.update(facts)
        self._pid, self._parent = os.getpid(), os.getppid()

    @property
    def is_resumed(self) -> bool:
        """Whether it goes on in the folder of an earlier part, which was paused or interrupted."""
        return FOLDER in self.user_attrs

    @classmethod
    def outside(cls, **facts: object) -> Self:
        """A trial that belongs to no sweep."""
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(pruner=optuna.pruners.NopPruner())
        optuna.logging.set_verbosity(level)
        return cls(study, study.ask()._trial_id, **facts)

    def report(self, value: float, step: int) -> None:
        """As Optuna's. Steps from 0 are kept from 1 on: pruners take 0 for no step at all; those
        that an earlier part reported are left out."""
        if (counted := self._count(step)) > self._after:
            super().report(value, counted)

    def should_prune(self) -> bool:
        """As Optuna's. At a step that an earlier part reported, that part was asked."""
        is_new = not self.is_resumed or (self._last_step or 0) > self._after
        self.was_advised = is_new and super().should_prune()
        return self.was_advised

    @property
    def _after(self) -> int:
        return int(self.user_attrs.get(AFTER, 0))

    def _count(self, step: int) -> int:
        if os.getpid() != self._pid:
            raise RuntimeError(NOT_OWN)
        if self._offset is None:
            self._offset = self.user_attrs.get(OFFSET, int(step == 0))
            if self._offset and OFFSET not in self.user_attrs:
                self.set_user_attr(OFFSET, self._offset)
        counted = int(step) + self._offset  # NumPy's integers can't be stored
        if self._last_step is None and counted < self._after:
            self.set_user_attr(f"{NOTE}anew", BEGAN_ANEW)
        self._last_step = counted
        return self._last_step

    def stops_at(self, value: float, step: int) -> bool:
        """Report a value, and say whether the trial is to stop.

        Raises:
            KeyboardInterrupt: the worker died; nobody waits for this trial.
        """
        raise_received()
        if os.getppid() != self._parent:
            raise KeyboardInterrupt("the process that started this trial has ended")
        if len(self.study.directions) > 1:  # Optuna takes no reports on several objectives
            self.set_user_attr(STEP, self._count(step))
            return False
        self.report(value, step)
        self.was_stopped = self.should_prune()
        return self.was_stopped

    def is_pruned(self, value: object) -> bool:
        """Whether a trial that returned ``value`` was stopped before its end.

        One that was told to stop where complete trials of its study end has come to its end.
        """
        if self.was_pruned or not self.was_stopped:
            return self.was_pruned
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ends = [trial.last_step for trial in complete if trial.last_step is not None]
        return value is None or not ends or (self._last_step or 0) < max(ends)


def n_steps(trial: FrozenTrial) -> int:
    """How many steps a trial came through."""
    last = trial.last_step if trial.last_step is not None else trial.user_attrs.get(STEP)
    return last or 0


def origin(trial: FrozenTrial | Trial) -> int:
    """The number that settings have, however many trials in Optuna's storage they take."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def seconds(trial: FrozenTrial) -> float:
    """How long it took, or has taken, earlier parts included; 0 where the clock was set back."""
    own = max(0.0, trial.duration.total_seconds()) if trial.duration else 0.0
    return own + float(trial.user_attrs.get(SPENT, 0.0))


def recorded(trial: FrozenTrial) -> dict[str, float]:
    """The numbers that a task function recorded."""
    attrs = trial.user_attrs.items()
    return {k: v for k, v in attrs if isinstance(v, float) and not k.startswith(MARK)}
