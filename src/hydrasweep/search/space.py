"""The search space: hydra-optuna-sweeper's syntax, split into strata."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra_plugins.hydra_optuna_sweeper._impl import (
    OptunaSweeperImpl,
    create_params_from_overrides,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
)

from hydrasweep.errors import UserError


@dataclass(frozen=True)
class Space:
    """What is searched and what is fixed.

    ``strata`` are the values of ``stratify``, each with a study of its own; a space without
    strata has the one stratum "".
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Sequence[str]  # overrides for every trial
    stratify: str | None
    strata: Sequence[str]

    @classmethod
    def parse(cls, words: Sequence[str], stratify: str | None) -> "Space":
        """Read overrides, some of them sweeps; of two for one key the later counts.

        Raises:
            UserError: an override is no valid sweep, or nothing has ``stratify``'s name.
        """
        latest = {word.partition("=")[0].lstrip("+"): word for word in words}
        try:
            distributions, fixed, others = create_params_from_overrides(list(latest.values()))
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise UserError(f"the search space can't be read: {error}") from error
        strata: Sequence[str] = [""]
        if stratify in fixed:
            strata = [fixed.pop(stratify)]
        elif stratify is not None:
            choice = distributions.pop(stratify, None)
            if not isinstance(choice, CategoricalDistribution):
                raise UserError(
                    f"hydra.sweeper.stratify={stratify}: must be null or a parameter that is "
                    "searched as choice(…)"
                )
            strata = [str(value) for value in choice.choices]
        overrides = [latest[key] for key in fixed]
        return cls(distributions, [*overrides, *others], stratify, strata)

    def overrides(self, stratum: str, params: Mapping[str, Any]) -> list[str]:
        """The command line of a trial."""
        chosen = {self.stratify: stratum, **params} if self.stratify else params
        return [*self.fixed, *(f"{key}={as_word(value)}" for key, value in chosen.items())]

    def record(self) -> dict[str, str]:
        """The space as words that two starts of one study can be compared by."""
        record = {name: distribution_to_json(d) for name, d in self.distributions.items()}
        record |= dict(
            word.lstrip("+").partition("=")[::2] for word in self.fixed if "study=" not in word
        )
        if self.stratify:
            record[self.stratify] = json.dumps(list(self.strata))
        return record

    def corners(self) -> Iterator[dict[str, Any]]:
        """Few points that reach both ends of every range and every choice."""
        values = [_ends(distribution) for distribution in self.distributions.values()]
        for i in range(max([2, *map(len, values)]) if values else 1):
            yield {
                name: ends[i % len(ends)]
                for name, ends in zip(self.distributions, values, strict=True)
            }

    def grid(self) -> list[dict[str, Any]]:
        """Every point of a space whose parameters are all discrete.

        Raises:
            UserError: one of them is not.
        """
        try:
            cells = [
                OptunaSweeperImpl._to_grid_sampler_choices(d) for d in self.distributions.values()
            ]
        except ValueError as error:
            raise UserError(
                "hydra/sweeper/sampler=grid: every parameter must be a choice(…) or a range(…)"
            ) from error
        return [
            dict(zip(self.distributions, cell, strict=True)) for cell in itertools.product(*cells)
        ]


def as_word(value: Any) -> str:
    """A value as Hydra's override grammar reads it."""
    return "null" if value is None else str(value)


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return (distribution.low, distribution.high)  # type: ignore[attr-defined]
