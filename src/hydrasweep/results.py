"""A sweep's results as files, written so that a reader never sees half of one."""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.files import write
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import NOTE, SEARCH, n_steps, origin, recorded, seconds
from hydrasweep.winners import winners

Row = tuple[Stratum, FrozenTrial]


def best(stratum: Stratum) -> list[FrozenTrial]:
    """The best complete trial; with several objectives, those that no other beats."""
    if len(stratum.study.directions) > 1:
        return stratum.study.best_trials
    complete = [t for t in stratum.trials() if t.state == TrialState.COMPLETE]
    choose = max if stratum.study.direction == StudyDirection.MAXIMIZE else min
    return [choose(complete, key=lambda trial: trial.values[0])] if complete else []


def saved(strata: Sequence[Stratum]) -> tuple[int, float]:
    """The steps that pruning saved, and the seconds that they would have taken; trials of a
    stratum have one pace, which what each takes once, at its start, is no part of."""
    each = [stratum.trials() for stratum in strata]
    full = max((n_steps(trial) for trials in each for trial in trials), default=0)
    n_saved, time_saved = 0, 0.0
    for trials in each:
        pruned = [t for t in trials if t.state == TrialState.PRUNED and n_steps(t)]
        left = sum(full - n_steps(trial) for trial in pruned)
        n_saved, time_saved = n_saved + left, time_saved + left * _pace(trials)
    return n_saved, time_saved


def _pace(trials: Sequence[FrozenTrial]) -> float:
    """Seconds a step, from trials that came to different ends, or else all their time."""
    done = [(n_steps(t), seconds(t)) for t in trials if t.state.is_finished() and n_steps(t)]
    if len({steps for steps, _ in done}) > 1:
        return max(0.0, statistics.linear_regression(*zip(*done, strict=True)).slope)
    return sum(s for _, s in done) / max(1, sum(n for n, _ in done))


def notes(search: Studies, settings: DictConfig) -> list[str]:
    """What the user should know of how the search went."""
    trials = [trial for _, trial in search.trials()]
    attrs = [item for trial in trials for item in trial.user_attrs.items()]
    told = Counter(text for key, text in attrs if key.startswith(NOTE))
    lines = [f"Note of {n} trial{'s' * (n > 1)}: {text}" for text, n in told.items()]
    prunes = settings.pruner and not str(settings.pruner._target_).endswith("NopPruner")
    has_one = len(search.head.directions) == 1  # or nothing is pruned
    if prunes and has_one and search.states()["COMPLETE"] > 1 and not any(map(n_steps, trials)):
        lines.append(
            "Note: no trial reported a step, so that none could be pruned: the training loop is to "
            "call hydrasweep.report(value, step)"
        )
    if settings.timeout and not search.is_done():
        lines.append(
            f"Note: hydra.sweeper.timeout={settings.timeout:g} ended the search; the same command "
            "goes on with it"
        )
    return lines


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
        "directions": [direction.name.lower() for direction in search.head.directions],
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


def table(
    phases: Sequence[Studies], stratify: str | None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns, and a row for each trial that has begun, in that order.

    Columns are phase, folder, number, state, the objectives, steps and duration_s; then what was
    searched and what trials recorded, by its own name, or after ``params.`` and ``recorded.``
    where a column has that name already.
    """
    trials = [row for s in phases for row in s.trials() if row[1].state != TrialState.WAITING]
    trials.sort(key=lambda row: (row[1].datetime_start, row[1].number))
    n = len(phases[0].head.directions)
    objectives = ["value"] if n == 1 else [f"value_{i}" for i in range(n)]
    columns = ["phase", "folder", "number", "state", *objectives, "steps", "duration_s"]
    rows = []
    for stratum, trial in trials:
        row = {
            "phase": stratum.phase,
            "folder": stratum.label(trial),
            "number": origin(trial),
            "state": trial.state.name,
            **dict(zip(objectives, trial.values or [None] * n, strict=True)),
            "steps": n_steps(trial),
            "duration_s": round(seconds(trial), 2),
        }
        own = settings((stratum, trial), stratify)
        for prefix, more in (("params.", own), ("recorded.", recorded(trial))):
            row |= {prefix + key if key in row else key: value for key, value in more.items()}
        rows.append(row)
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    return columns, rows


def _csv(phases: Sequence[Studies], stratify: str | None) -> str:
    columns, rows = table(phases, stratify)
    left_out = {"folder", "phase"} if phases[0].strata[0].phase == SEARCH else {"folder"}
    return as_csv([name for name in columns if name not in left_out], rows)


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text, with these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
