"""Who wins: the best trials of a search, trained again on fresh seeds, then scored once."""

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.search.queue import Queue, Stratum, label
from hydrasweep.search.trial import CONFIRM, FINAL, SEARCH

# Of a run's settings: what says where it was recorded, not how it was trained.
_CIRCUMSTANCES = ("paths", "tracking", "study", "phase", "resume", "hydra")


@dataclass(frozen=True)
class Score:
    """A metric over seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation; None of a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        sd = f" ± {self.sd:.4f}" if self.sd is not None else ""
        return f"{self.mean:.4f}{sd} (n={len(self.values)})"

    def record(self) -> dict[str, Any]:
        return {"mean": self.mean, "sd": self.sd, "n": len(self.values), "values": self.values}


@dataclass(frozen=True)
class Winner:
    """What won a stratum: the searched settings, what the search believed of them, and how
    they did on fresh seeds and on the test images."""

    stratum: str
    params: dict[str, Any]
    found: FrozenTrial
    confirmed: Score
    tested: Score | None
    final: Sequence[FrozenTrial]  # one for each seed

    @property
    def believed(self) -> float:
        """What the search saw of it: the objective, for a pruned trial its last report."""
        return _seen(self.found)

    @property
    def was_pruned(self) -> bool:
        """Whether the search pruned it, so that only confirmation trained it to its end."""
        return self.found.state == TrialState.PRUNED

    def folder(self) -> str:
        """The name of its first final run's folder."""
        return label(self.stratum, FINAL, self.final[0].number)

    def record(self, stratify: str | None) -> dict[str, Any]:
        """As plain data, for a file."""
        return {
            "params": ({stratify: self.stratum} if stratify else {}) | self.params,
            "search": {"number": self.found.number, "value": self.believed},
            "confirm": self.confirmed.record(),
            "test": self.tested.record() if self.tested else None,
        }


def confirm(search: Queue, again: Queue, settings: DictConfig, seed: int) -> None:
    """Queue the best trials of each stratum of ``search`` again, on seeds after ``seed``."""
    for stratum, repeats in zip(search.strata, again.strata, strict=True):
        for trial in candidates(stratum, settings.top):
            for i in range(settings.n_seeds):
                again.repeat(repeats, trial, **{settings.seed: seed + 1 + i})


def finish(again: Queue, last: Queue, seed: str) -> None:
    """Queue the winner of each stratum, once for each seed that it was confirmed on."""
    for stratum in last.strata:
        for trial in _confirmed(again, stratum.value, seed):
            last.repeat(stratum, trial)


def candidates(stratum: Stratum, top: int | None = None) -> list[FrozenTrial]:
    """The best trials with different settings: first those that came to their end, then the
    pruned ones that came furthest."""
    ranked = sorted(
        (t for t in stratum.trials() if t.values),
        key=lambda t: (t.state == TrialState.COMPLETE, t.last_step or 0, _sign(stratum) * _seen(t)),
        reverse=True,
    )
    different = {_key(trial.params): trial for trial in reversed(ranked)}
    return [trial for trial in ranked if different[_key(trial.params)] is trial][:top]


def winners(phases: Mapping[str, Queue], seed: str) -> list[Winner]:
    """The winner of each stratum that has been confirmed at least once.

    ``phases`` holds the queue of each phase that there is; ``seed`` is the setting that the
    seeds were given to.
    """
    if CONFIRM not in phases:
        return []
    found = []
    for stratum in phases[SEARCH].strata:
        if not (best := _confirmed(phases[CONFIRM], stratum.value, seed)):
            continue
        params = _without(best[0].params, seed)
        final = [
            trial
            for other, trial in (phases[FINAL].trials() if FINAL in phases else [])
            if other.value == stratum.value
            and trial.state == TrialState.COMPLETE
            and _without(trial.params, seed) == params
        ]
        final.sort(key=lambda trial: int(trial.params[seed]))
        ranked = candidates(stratum)
        found.append(
            Winner(
                stratum.value,
                params,
                next(trial for trial in ranked if trial.params == params),
                Score([trial.values[0] for trial in best]),
                Score([trial.values[0] for trial in final]) if final else None,
                final,
            )
        )
    return found


def overall(found: Sequence[Winner], direction: StudyDirection) -> Winner:
    """The best of the winners, by their confirmed score."""
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    return max(found, key=lambda winner: sign * winner.confirmed.mean)


def write_recipes(found: Sequence[Winner], last: Queue, folder: Path) -> None:
    """Write ``best/NAME.yaml`` for each winner that was trained to its end, and ``overall``:
    all settings of its first final run, which they repeat."""
    trained = [winner for winner in found if winner.final]
    if not trained:
        return
    (folder / "best").mkdir(exist_ok=True)
    best = overall(trained, last.strata[0].study.direction)
    for name, winner in [("overall", best), *((w.stratum or "all", w) for w in trained)]:
        run = folder / winner.folder() / ".hydra"
        (folder / "best" / f"{name}.yaml").write_text(_recipe(run, name, winner, folder))


def _recipe(run: Path, name: str, winner: Winner, folder: Path) -> str:
    config = DictConfig(OmegaConf.load(run / "config.yaml"))
    choices = OmegaConf.load(run / "hydra.yaml").hydra.runtime.choices
    groups = {k: v for k, v in choices.items() if k in config and k not in _CIRCUMSTANCES and v}
    settings = OmegaConf.masked_copy(
        config, [k for k in map(str, config) if k not in _CIRCUMSTANCES]
    )
    where = os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
    defaults = OmegaConf.create({"defaults": [{f"override /{k}": v} for k, v in groups.items()]})
    return (
        f"# python src/train.py --config-dir {where} +best@_global_={name}\n"
        f"# Trial {winner.found.number} of the search; confirmed {winner.confirmed}, "
        f"on the test images {winner.tested}.\n"
        f"{OmegaConf.to_yaml(defaults)}\n{OmegaConf.to_yaml(settings)}"
    )


def _confirmed(again: Queue, value: str, seed: str) -> list[FrozenTrial]:
    """The confirming trials of a stratum's settings with the best mean."""
    groups: dict[str, list[FrozenTrial]] = defaultdict(list)
    for stratum, trial in again.trials():
        if stratum.value == value and trial.state == TrialState.COMPLETE:
            groups[_key(_without(trial.params, seed))].append(trial)
    sign = _sign(again.strata[0])
    return max(groups.values(), key=lambda g: sign * statistics.fmean(map(_seen, g)), default=[])


def _seen(trial: FrozenTrial) -> float:
    return float(trial.values[0])  # of a pruned trial, Optuna makes it the last report


def _sign(stratum: Stratum) -> int:
    return 1 if stratum.study.direction == StudyDirection.MAXIMIZE else -1


def _without(params: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != key}


def _key(params: dict[str, Any]) -> str:
    return json.dumps(params, sort_keys=True, default=str)
