"""A sweep's results as files, written so that a reader never sees half of one."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.files import write
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import SEARCH, n_steps, origin, recorded, seconds
from hydrasweep.winners import winners

Row = tuple[Stratum, FrozenTrial]


def best(stratum: Stratum) -> list[FrozenTrial]:
    """The best complete trial; with several objectives, those that no other beats."""
    if len(stratum.study.directions) > 1:
        return stratum.study.best_trials
    complete = [t for t in stratum.trials() if t.state == TrialState.COMPLETE]
    choose = max if stratum.study.direction == StudyDirection.MAXIMIZE else min
    return [choose(complete, key=lambda trial: trial.values[0])] if complete else []


def saved(trials: Sequence[FrozenTrial]) -> tuple[int, float]:
    """The steps that pruning saved, and the seconds at each trial's own pace."""
    full = max(map(n_steps, trials), default=0)
    pruned = [t for t in trials if t.state == TrialState.PRUNED and n_steps(t)]
    left = [full - n_steps(trial) for trial in pruned]
    pace = [seconds(trial) / n_steps(trial) for trial in pruned]
    return sum(left), sum(n * s for n, s in zip(left, pace, strict=True))


def write_all(
    phases: Mapping[str, Studies], folder: Path, stratify: str | None, seed: str = ""
) -> None:
    """Write ``trials.csv``, ``confirmation.csv``, ``results.yaml`` and, as the stock sweeper
    does, the best trial in ``optimization_results.yaml``; ``seed`` is the setting that
    confirming trials vary."""
    search = phases[SEARCH]
    leaders = {
        stratum.value or "all": [_summary((stratum, trial), stratify) for trial in best(stratum)]
        for stratum in search.strata
    }
    summary: dict[str, Any] = {
        "study": search.name,
        "trials": dict(sorted(search.states().items())),
        "best": leaders,
    }
    write(folder / "trials.csv", _csv([search], stratify))
    if again := [other for phase, other in phases.items() if phase != SEARCH]:
        found = winners(phases, seed)
        write(folder / "confirmation.csv", _csv(again, stratify))
        summary["winners"] = {w.stratum or "all": w.record(stratify) for w in found}
    write(folder / "results.yaml", OmegaConf.to_yaml(OmegaConf.create(summary)))
    stock = _stock(search, stratify)
    write(folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(stock)))


def _stock(search: Studies, stratify: str | None) -> dict[str, Any]:
    """The results as hydra-optuna-sweeper has them, over all strata."""
    rows = [row for row in search.trials() if row[1].state == TrialState.COMPLETE]
    joint = optuna.create_study(directions=search.head.directions)
    joint.add_trials([create_trial(values=trial.values) for _, trial in rows])
    front = [_summary(rows[trial.number], stratify) for trial in joint.best_trials]
    if len(joint.directions) > 1:
        solutions = [{key: each[key] for key in ("params", "values")} for each in front]
        return {"name": "optuna", "solutions": solutions}
    best_one = [{"best_params": f["params"], "best_value": f["values"][0]} for f in front[:1]]
    return {"name": "optuna"} | dict(*best_one)


def settings(row: Row, stratify: str | None) -> dict[str, Any]:
    """What was searched, by its config name."""
    stratum, trial = row
    return ({stratify: stratum.value} if stratify else {}) | dict(trial.params)


def _summary(row: Row, stratify: str | None) -> dict[str, Any]:
    stratum, trial = row
    summary = {
        "number": origin(trial),
        "values": trial.values,
        "steps": n_steps(trial),  # after which it had them
        "params": settings(row, stratify),
        "folder": stratum.label(trial),
    }
    return summary | ({"recorded": numbers} if (numbers := recorded(trial)) else {})


def _csv(phases: Sequence[Studies], stratify: str | None) -> str:
    rows = [row for s in phases for row in s.trials() if row[1].state != TrialState.WAITING]
    rows.sort(key=lambda row: (row[1].datetime_start, row[1].number))
    n = len(phases[0].head.directions)
    objectives = ["value"] if n == 1 else [f"value_{i}" for i in range(n)]
    table = []
    for stratum, trial in rows:
        row = {
            "phase": stratum.phase,
            "number": origin(trial),
            "state": trial.state.name,
            **dict(zip(objectives, trial.values or [None] * n, strict=True)),
            "steps": n_steps(trial),
            "duration_s": f"{seconds(trial):.2f}",
        }
        own = settings((stratum, trial), stratify)
        for prefix, more in (("params.", own), ("recorded.", recorded(trial))):
            row |= {prefix + key if key in row else key: value for key, value in more.items()}
        table.append(row)
    columns = ["phase", "number", "state", *objectives, "steps", "duration_s"]
    columns = list(dict.fromkeys([*columns, *(name for row in table for name in row)]))
    if phases[0].strata[0].phase == SEARCH:
        columns.remove("phase")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
