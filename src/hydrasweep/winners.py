"""Who wins: the best trials of a search, trained again on fresh seeds, then scored once."""

import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep import files, tables
from hydrasweep.compose import Composer
from hydrasweep.given import Given
from hydrasweep.space import as_key, as_name
from hydrasweep.stratum import Stratum, following, label
from hydrasweep.studies import Studies
from hydrasweep.trials import CONFIRM, FINAL, SEARCH, n_steps, origin, recorded

SEEDS = IntDistribution(0, 2**31 - 1)


@dataclass(frozen=True)
class Score:
    """A number over seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation; None of a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{tables.mean_sd(self.mean, self.sd)} (n={len(self.values)})"

    def brief(self) -> str:
        """With digits that suit its size, no deviation of 0, and not how many there are."""
        digits = 4 if abs(self.mean) < 10 else 1 if abs(self.mean) < 1000 else 0
        sd = f" ± {self.sd:.{digits}f}" if self.sd else ""
        return f"{self.mean:,.{digits}f}{sd}"

    def record(self) -> dict[str, Any]:
        """As plain data, for a file."""
        return {"mean": self.mean, "sd": self.sd, "n": len(self.values), "values": self.values}


@dataclass(frozen=True)
class Winner:
    """What won a stratum: the searched settings, what the search saw of them, and how they did
    on fresh seeds and in the final trials, one for each seed."""

    stratum: str
    params: dict[str, Any]
    found: FrozenTrial
    confirmed: Score
    n_failed: int  # seeds on which it failed
    final: Sequence[FrozenTrial]

    @property
    def searched(self) -> float:
        """The objective in the search, of a pruned trial its last report."""
        return _seen(self.found)

    @property
    def was_pruned(self) -> bool:
        """Whether the search pruned it, so that only confirmation trained it to its end."""
        return self.found.state == TrialState.PRUNED

    def folder(self) -> str:
        """The name of its first final trial's folder."""
        return label(self.stratum, FINAL, self.final[0])

    @property
    def recorded(self) -> dict[str, Score]:
        """The numbers that its final trials recorded, such as a test score."""
        numbers = [recorded(trial) for trial in self.final]
        names = dict.fromkeys(name for each in numbers for name in each)
        return {name: Score([each[name] for each in numbers if name in each]) for name in names}

    def record(self, stratify: str | None) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            "params": ({stratify: self.stratum} if stratify else {}) | self.params,
            "search": {
                "number": origin(self.found),
                "value": self.searched,
                "steps": n_steps(self.found),
            },
            "confirm": self.confirmed.record() | {"n_failed": self.n_failed},
            "final": {name: score.record() for name, score in self.recorded.items()},
        }


def candidates(stratum: Stratum, top: int | None = None) -> list[FrozenTrial]:
    """The best trials with different settings: first those that came to their end, by their
    value, then the pruned ones that came furthest."""

    def rank(trial: FrozenTrial) -> tuple[bool, int, float]:
        is_complete = trial.state == TrialState.COMPLETE
        return (
            is_complete,
            0 if is_complete else trial.last_step or 0,
            _sign(stratum) * _seen(trial),
        )

    best: dict[str, FrozenTrial] = {}
    for trial in sorted((t for t in stratum.trials() if t.values), key=rank, reverse=True):
        best.setdefault(as_key(trial.params), trial)
    return list(best.values())[:top]


def confirming(search: Studies, settings: DictConfig, seed: int) -> dict[str, list[Given]]:
    """What the confirmation tries: the best trials of each stratum on seeds after ``seed``."""
    return {
        stratum.value: [
            _on_seed(trial, settings.seed, seed + 1 + i)
            for trial in candidates(stratum, settings.top)
            for i in range(settings.n_seeds)
        ]
        for stratum in search.strata
    }


def finals(confirm: Studies, key: str, retrains: bool) -> dict[str, list[Given]]:
    """What the final trials are: the winner of each stratum, on each seed that it was confirmed
    on, trained anew or going on with what is trained; ``key`` is the setting that the seeds were
    given to."""
    return {
        stratum.value: [
            Given(
                trial.params,
                trial.distributions,
                None if retrains else following(trial, stratum.label(trial), {}),
            )
            for trial in _confirmed(stratum, key)
        ]
        for stratum in confirm.strata
    }


def winners(phases: Mapping[str, Studies], key: str) -> list[Winner]:
    """The winner of each stratum that has been confirmed at least once.

    ``phases`` holds the studies of each phase that there is; ``key`` is the setting that the
    seeds were given to.
    """
    if CONFIRM not in phases:
        return []
    found = []
    for i, stratum in enumerate(phases[SEARCH].strata):
        again = phases[CONFIRM].strata[i]
        if not (best := _confirmed(again, key)):
            continue
        params = _without(best[0].params, key)
        tried = [t for t in again.trials() if _without(t.params, key) == params]
        last = phases[FINAL].strata[i].trials() if FINAL in phases else []
        final = [
            trial
            for trial in sorted(last, key=lambda trial: int(trial.params.get(key, 0)))
            if trial.state == TrialState.COMPLETE and _without(trial.params, key) == params
        ]
        searched = next(trial for trial in candidates(stratum) if trial.params == params)
        n_failed = sum(trial.state == TrialState.FAIL for trial in tried)
        score = Score([trial.values[0] for trial in best])
        found.append(Winner(stratum.value, params, searched, score, n_failed, final))
    return found


def overall(found: Sequence[Winner], direction: StudyDirection) -> Winner:
    """The best of the winners, by their confirmed score."""
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    return max(found, key=lambda winner: sign * winner.confirmed.mean)


def lead(found: Sequence[Winner], direction: StudyDirection) -> str:
    """Who wins, and whether the lead over the second is more than chance; "" of nobody else."""
    if len(found) < 2:
        return ""
    first = overall(found, direction)
    second = overall([winner for winner in found if winner is not first], direction)
    a, b = first.confirmed, second.confirmed
    by = tables.number(abs(a.mean - b.mean), a.mean)
    told = f"{first.stratum} wins: it leads {second.stratum} by {by}"
    if a.sd is None or b.sd is None:
        return f"{told}; single seeds can't tell whether by chance."
    error = math.hypot(a.sd / len(a.values) ** 0.5, b.sd / len(b.values) ** 0.5)
    kind = "less" if abs(a.mean - b.mean) < 2 * error else "more"
    hint = ", so that they can't be told apart" if kind == "less" else ""
    size = tables.number(error, a.mean)
    return f"{told}, {kind} than two standard errors of the difference ({size}){hint}."


def write_recipes(
    found: Sequence[Winner], last: Studies, folder: Path, name_key: str | None, composer: Composer
) -> None:
    """Write ``best/NAME.yaml`` for each winner that was trained to its end, and ``overall``: what
    its first final trial set that the app's own configs don't."""
    trained = [winner for winner in found if winner.final]
    if not trained:
        return
    (folder / "best").mkdir(exist_ok=True)
    best = overall(trained, last.head.direction)
    for name, winner in [("overall", best), *((as_name(w.stratum) or "all", w) for w in trained)]:
        run = next((folder / winner.folder()).glob("*/hydra.yaml")).parent  # hydra.output_subdir
        settings = OmegaConf.to_yaml(_recipe(run, name_key, composer))
        where = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
        numbers = "".join(f", {key} {score}" for key, score in winner.recorded.items())
        files.write(
            folder / "best" / f"{name}.yaml",
            f"# python {sys.argv[0]} --config-dir {where} +best@_global_={name}\n"
            f"# Trial {origin(winner.found)} of the search; "
            f"confirmed {winner.confirmed}{numbers}.\n"
            f"{settings}",
        )


def rerun(folder: Path) -> str:
    """The command that trains the overall winner of the sweep in a folder again; "" of none."""
    path = folder / "best" / "overall.yaml"
    return path.read_text().partition("\n")[0].removeprefix("# ") if path.exists() else ""


def _recipe(run: Path, name_key: str | None, composer: Composer) -> dict[str, Any]:
    """A run's choices of groups, and its settings that these don't give."""
    config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=False)
    config.pop(name_key, None)  # or it would resume the sweep
    choices = OmegaConf.load(run / "hydra.yaml").hydra.runtime.choices
    groups = {key: value for key, value in choices.items() if key in config and value}
    defaults = [{f"override /{key}": value} for key, value in groups.items()]
    try:
        own = composer.beside_recipe([f"{key}={value}" for key, value in groups.items()])
    except HydraException:  # some group is not in the app's own defaults: all is written down
        return dict(config)
    base = OmegaConf.to_container(own, resolve=False, enum_to_str=True)
    return {"defaults": defaults, **_difference(config, base)}


def _difference(config: Any, base: Any) -> dict[str, Any]:
    found = {}
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            if inner := _difference(value, base[key]):
                found[key] = inner
        elif key not in base or (type(value), value) != (type(base[key]), base[key]):
            found[key] = value
    return found


def _confirmed(stratum: Stratum, key: str) -> list[FrozenTrial]:
    """The confirming trials of the settings with the best mean, among those that came through
    most seeds: a seed on which a setting failed counts against it."""
    groups: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in stratum.trials():
        if trial.state == TrialState.COMPLETE:
            groups[as_key(_without(trial.params, key))].append(trial)

    def rank(group: Sequence[FrozenTrial]) -> tuple[int, float]:
        return len(group), _sign(stratum) * statistics.fmean(map(_seen, group))

    return max(groups.values(), key=rank, default=[])


def _on_seed(trial: FrozenTrial, key: str, seed: int) -> Given:
    distributions = trial.distributions | {key: SEEDS}
    return Given(trial.params | {key: seed}, distributions, score=_seen(trial))


def _seen(trial: FrozenTrial) -> float:
    return float(trial.values[0])  # of a pruned trial, Optuna makes it the last report


def _sign(stratum: Stratum) -> int:
    return 1 if stratum.study.direction == StudyDirection.MAXIMIZE else -1


def _without(params: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != key}
