"""The search space: hydra-optuna-sweeper's syntax, split into strata."""

import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper._impl import (
    OptunaSweeperImpl,
    create_params_from_overrides,
)
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)

from hydrasweep.errors import UserError


@dataclass(frozen=True)
class Space:
    """What is searched and what is fixed.

    ``strata`` are the values of ``stratify`` as words of a command line, each with a study of
    its own; a space without strata has the one stratum "".
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Sequence[str]  # overrides for every trial
    stratify: str | None
    strata: Sequence[str]
    calibrated: Mapping[str, Sequence[str]] = field(default_factory=dict)  # overrides, by stratum

    @classmethod
    def parse(cls, words: Sequence[str], stratify: str | None) -> "Space":
        """Read overrides, some of them sweeps; of two for one key the later counts.

        Raises:
            UserError: an override is no valid sweep, or nothing has ``stratify``'s name.
        """
        distributions: dict[str, BaseDistribution] = {}
        fixed: dict[str, str] = {}
        for key, word in {_key(word): word for word in words}.items():
            try:
                searched, _, _ = create_params_from_overrides([word])
            except Exception as error:  # upstream's, of many kinds
                why = str(error) or "this sweep is unknown to Optuna"
                raise UserError(f"{word}: can't be searched: {why}") from error
            if key.startswith("~") and key[1:] in distributions:
                del distributions[key[1:]]  # taken out of the space, whether the app has it or not
                continue
            for name, distribution in searched.items():
                is_float = isinstance(distribution, FloatDistribution)
                if is_float and distribution.step and distribution.single():
                    raise UserError(
                        f"{word}: has the one value {distribution.low:g}, as a range goes by steps "
                        f"of 1: write {name}=interval(…), or a step as the third number"
                    )
            distributions |= searched
            if not searched:
                fixed[key] = word
        strata: Sequence[str] = [""]
        if stratify in fixed:
            strata = [fixed.pop(stratify).partition("=")[2]]
        elif stratify is not None:
            choice = distributions.pop(stratify, None)
            if not isinstance(choice, CategoricalDistribution):
                raise UserError(
                    f"hydra.sweeper.stratify={stratify}: must be null or a parameter that is "
                    "searched as choice(…)"
                )
            strata = [as_word(value) for value in choice.choices]
        folders = Counter(map(as_name, strata))
        if wrong := [v for v in folders if not re.fullmatch(r"[\w+.-]*", v) or folders[v] > 1]:
            raise UserError(
                f"hydra.sweeper.stratify={stratify}: {wrong[0]} can't name a folder of its own, "
                "which is done by letters, digits, '_', '+', '.', '-' and '/'; "
                "hydra.sweeper.stratify=null searches it like any other"
            )
        return cls(distributions, list(fixed.values()), stratify, strata)

    def without(self, names: Sequence[str]) -> "Space":
        """The space without some of its parameters.

        Raises:
            UserError: one of them is not searched.
        """
        known = {name.lstrip("+"): name for name in self.distributions}
        if wrong := [name for name in names if name.lstrip("+") not in known]:
            raise UserError(
                f"hydra.sweeper.leave_out={list(names)}: {wrong[0]} is not searched; these are: "
                + ", ".join(known)
            )
        left_out = {known[name.lstrip("+")] for name in names}
        kept = {name: d for name, d in self.distributions.items() if name not in left_out}
        return replace(self, distributions=kept)

    def overrides(self, stratum: str, params: Mapping[str, Any]) -> list[str]:
        """The command line of a trial."""
        first = [f"{self.stratify}={stratum}"] if self.stratify else []
        chosen = (f"{key}={as_word(value)}" for key, value in params.items())
        return [*self.fixed, *first, *self.calibrated.get(stratum, ()), *chosen]

    def of_stratum(self, suggestions: Sequence[Any], stratum: str) -> list[dict[str, Any]]:
        """The suggestions for a stratum: those that name it, or none."""
        return [
            {name: value for name, value in chosen.items() if name != self.stratify}
            for chosen in suggestions
            if str(chosen.get(self.stratify, stratum)) == stratum
        ]

    def as_point(self, suggestion: Any) -> Any:
        """A suggestion with its lists and dicts as the choices that they are, which are words."""
        if not isinstance(suggestion, dict):
            return suggestion
        return {
            name: next((c for c in choices if _read(c) == value), value)
            if isinstance(value, list | dict)
            and (choices := getattr(self.distributions.get(name), "choices", ()))
            else value
            for name, value in suggestion.items()
        }

    def check(self, suggestions: Sequence[Any]) -> None:
        """Refuse suggestions that are no points of the space.

        Raises:
            UserError: naming the first.
        """
        for chosen in suggestions:
            settings = chosen if isinstance(chosen, dict) else {"": chosen}
            for name, value in settings.items():
                if name != self.stratify and not self.holds(name, value):
                    raise UserError(
                        f"hydra.sweeper.enqueue={chosen}: {name}={value} is not in the space"
                    )

    def holds(self, name: str, value: Any) -> bool:
        """Whether a parameter may have a value."""
        distribution = self.distributions.get(name)
        try:
            return distribution is not None and distribution._contains(
                distribution.to_internal_repr(value)
            )
        except (TypeError, ValueError):
            return False

    def record(self) -> dict[str, str]:
        """The space as words that two starts of one study can be compared by."""
        record = {name: distribution_to_json(d) for name, d in self.distributions.items()}
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


def as_text(distribution: BaseDistribution) -> str:
    """A distribution as a person reads it."""
    ends = _ends(distribution)
    if distribution.single():
        return f"only {ends[0]}"
    if isinstance(distribution, CategoricalDistribution):
        return "one of " + ", ".join(map(str, ends))
    low, high = ends
    log = ", logarithmic" if getattr(distribution, "log", False) else ""
    step = getattr(distribution, "step", None)
    steps = f" in steps of {step:g}" if step not in (None, 1) else ""
    return f"{low:g} to {high:g}{steps}{log}"


def as_word(value: Any) -> str:
    """A value as Hydra's override grammar reads it.

    Upstream gives a choice's lists, dicts, nulls and quoted text as words already.
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_word(each)}" for key, each in value.items()) + "}"
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    with contextlib.suppress(HydraException):
        read = _read(value)
        if read == value or read is None or value.startswith(("[", "{", "'", '"')):
            return value
    return QuotedString(value, Quote.single).with_quotes()


def as_name(stratum: str) -> str:
    """A stratum as a part of the name of a file, a folder or a model."""
    return stratum.replace("/", "-")


def _read(choice: Any) -> Any:
    """What Hydra makes of a choice."""
    if not isinstance(choice, str):
        return choice
    return OverridesParser.create().parse_override(f"key={choice}").value()


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    return (distribution.low, distribution.high)  # type: ignore[attr-defined]


def as_key(params: Mapping[str, Any]) -> str:
    """The same text for equal settings, of which no other settings have it."""
    return json.dumps(params, sort_keys=True, default=str)
