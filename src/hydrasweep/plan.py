"""What every worker of a sweep must know; it travels to them pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from omegaconf import DictConfig

from hydrasweep.given import Given, Race
from hydrasweep.settings import directions
from hydrasweep.space import Space
from hydrasweep.studies import Studies
from hydrasweep.trial_runs import Context
from hydrasweep.trials import CONFIRM, SEARCH


@dataclass(frozen=True)
class Plan:
    """A sweep in one of its phases."""

    name: str
    settings: DictConfig  # hydra.sweeper
    space: Space
    storage: DictConfig
    parent: Mapping[str, str]  # the process that launched the workers
    gpus: Sequence[str] = ()  # one for each worker in turn; none where something else assigns them
    start: int = 0  # which of the sweep's starts, on all machines, this is
    deadline: float | None = None  # in seconds since the epoch
    phase: str = SEARCH
    overrides: Sequence[str] = ()  # of each trial in this phase
    given: Mapping[str, Sequence[Given]] = field(default_factory=dict)  # by stratum
    seconds: Mapping[str, float] = field(default_factory=dict)  # of a whole trial, by stratum
    mlflow: Context | None = None
    composed: Mapping[tuple[str, ...], DictConfig] = field(default_factory=dict)  # see Composer

    def in_phase(
        self, phase: str, given: Mapping[str, Sequence[Given]], overrides: Sequence[str] = ()
    ) -> "Plan":
        """The plan for another phase, whose trials are all given."""
        return replace(self, phase=phase, given=given, overrides=overrides, deadline=None)

    def open(self, seed_offset: int = 0) -> Studies:
        """The phase's studies."""
        searches = self.phase == SEARCH  # elsewhere nothing is suggested or pruned
        studies = Studies.open(
            self.name,
            self.storage,
            self.space.strata,
            directions(self.settings),
            self.settings.sampler if searches else None,
            self.settings.pruner if searches else None,
            seed_offset,
            self.phase,
            self.settings.resumable,
        )
        studies.heartbeat, studies.start = self.settings.heartbeat, self.start
        race = Race(self.settings.confirm.seed) if self.phase == CONFIRM else None
        studies.give(self.given, self.seconds, race)
        return studies
