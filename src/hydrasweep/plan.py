"""What every worker of a sweep must know; it travels to them pickled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from omegaconf import DictConfig

from hydrasweep.space import Space
from hydrasweep.stratum import Given
from hydrasweep.studies import Studies
from hydrasweep.tracking import Context
from hydrasweep.trials import SEARCH


@dataclass(frozen=True)
class Plan:
    """A sweep in one of its phases."""

    name: str
    space: Space
    storage: DictConfig
    directions: Sequence[str]
    sampler: DictConfig | None
    pruner: DictConfig | None
    custom_search_space: str | None
    max_failures: int | None
    max_failure_rate: float | None
    gpus: Sequence[str]  # one for each worker in turn; none where something else assigns them
    parent: Mapping[str, str]  # the process that launched the workers
    heartbeat: float = 15.0  # in seconds
    deadline: float | None = None  # in seconds since the epoch
    start: int = 0  # which of the sweep's starts, on all machines, this is
    phase: str = SEARCH
    overrides: Sequence[str] = ()  # of each trial in this phase
    given: Mapping[str, Sequence[Given]] = field(default_factory=dict)  # by stratum
    mlflow: Context | None = None

    def in_phase(self, phase: str, overrides: Sequence[str] = ()) -> "Plan":
        """The plan for another phase."""
        return replace(self, phase=phase, overrides=tuple(overrides), given={})

    def open(self, seed_offset: int = 0) -> Studies:
        """The phase's studies."""
        searches = self.phase == SEARCH  # other phases are given all settings, and prune nothing
        studies = Studies.open(
            self.name,
            self.storage,
            self.space.strata,
            self.directions,
            self.sampler if searches else None,
            self.pruner if searches else None,
            seed_offset,
            self.phase,
        )
        studies.heartbeat, studies.start = self.heartbeat, self.start
        studies.give(self.given)
        return studies
