"""The sweep's results as files, written so that a reader never sees half of one."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.files import write
from hydrasweep.search.queue import EPOCHS, Queue, Stratum
from hydrasweep.search.trial import SEARCH
from hydrasweep.search.winners import winners

Row = tuple[Stratum, FrozenTrial]


def epochs(trial: FrozenTrial) -> int:
    """How many epochs it was trained."""
    return trial.last_step or trial.user_attrs.get(EPOCHS, 0)


def seconds(trial: FrozenTrial) -> float:
    """How long it took, or has taken; 0 where the clock was set back meanwhile."""
    return max(0.0, trial.duration.total_seconds()) if trial.duration else 0.0


def best(rows: Sequence[Row]) -> list[Row]:
    """The best complete trial; with several objectives, those that no other beats."""
    complete = [row for row in rows if row[1].state == TrialState.COMPLETE]
    if not complete:
        return []
    signs = [
        -1 if direction == StudyDirection.MAXIMIZE else 1
        for direction in complete[0][0].study.directions
    ]

    def losses(row: Row) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, row[1].values, strict=True))

    if len(signs) == 1:
        return [min(complete, key=losses)]
    return [
        row
        for row in complete
        if not any(
            losses(other) != losses(row)
            and all(a <= b for a, b in zip(losses(other), losses(row), strict=True))
            for other in complete
        )
    ]


def saved(trials: Sequence[FrozenTrial]) -> tuple[int, float]:
    """The epochs that pruning saved, and the seconds at each trial's own pace."""
    full = max(map(epochs, trials), default=0)
    pruned = [t for t in trials if t.state == TrialState.PRUNED and epochs(t)]
    left = [full - epochs(trial) for trial in pruned]
    pace = [seconds(trial) / epochs(trial) for trial in pruned]
    return sum(left), sum(n * s for n, s in zip(left, pace, strict=True))


def write_all(
    phases: Mapping[str, Queue], folder: Path, stratify: str | None, seed: str = ""
) -> None:
    """Write ``trials.csv``, ``confirmation.csv``, ``results.yaml`` and, as the stock sweeper
    does, the best trial in ``optimization_results.yaml``; ``seed`` is the setting that
    confirming trials vary."""
    queue = phases[SEARCH]
    rows = _begun([queue])
    write(folder / "trials.csv", _csv(rows, stratify))
    summary: dict[str, Any] = {
        "study": queue.name,
        "trials": dict(sorted(queue.states().items())),
        "best": {
            stratum.value or "all": [
                _summary((stratum, trial), stratify)
                for _, trial in best([row for row in rows if row[0] is stratum])
            ]
            for stratum in queue.strata
        },
    }
    if again := [other for phase, other in phases.items() if phase != SEARCH]:
        found = winners(phases, seed)
        write(folder / "confirmation.csv", _csv(_begun(again), stratify))
        summary["winners"] = {w.stratum or "all": w.record(stratify) for w in found}
    write(folder / "results.yaml", OmegaConf.to_yaml(OmegaConf.create(summary)))
    leaders = [_summary(row, stratify) for row in best(rows)]
    stock: dict[str, Any] = {"name": "optuna"}
    if len(queue.strata[0].study.directions) > 1:
        stock["solutions"] = [{k: w[k] for k in ("params", "values")} for w in leaders]
    elif leaders:
        stock |= {"best_params": leaders[0]["params"], "best_value": leaders[0]["values"][0]}
    write(folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(stock)))


def _begun(queues: Sequence[Queue]) -> list[Row]:
    rows = [row for q in queues for row in q.trials() if row[1].state != TrialState.WAITING]
    return sorted(rows, key=lambda row: (row[1].datetime_start, row[1].number))


def settings(row: Row, stratify: str | None) -> dict[str, Any]:
    """What was searched, by its config name."""
    stratum, trial = row
    return ({stratify: stratum.value} if stratify else {}) | dict(trial.params)


def _summary(row: Row, stratify: str | None) -> dict[str, Any]:
    return {
        "number": row[1].number,
        "values": row[1].values,
        "params": settings(row, stratify),
        "folder": row[0].label(row[1].number),
    }


def _csv(rows: Sequence[Row], stratify: str | None) -> str:
    names = list(dict.fromkeys(name for row in rows for name in settings(row, stratify)))
    n_objectives = len(rows[0][0].study.directions) if rows else 1
    objectives = ["value"] if n_objectives == 1 else [f"value_{i}" for i in range(n_objectives)]
    text = io.StringIO()
    columns = ["number", "state", *objectives, "epochs", "duration_s", *names]
    phased = any(row[0].phase != SEARCH for row in rows)
    writer = csv.DictWriter(text, ["phase", *columns] if phased else columns)
    writer.writeheader()
    for row in rows:
        trial = row[1]
        fields: Mapping[str, Any] = {
            **({"phase": row[0].phase} if phased else {}),
            "number": trial.number,
            "state": trial.state.name,
            "epochs": epochs(trial),
            "duration_s": f"{seconds(trial):.2f}",
            **dict(zip(objectives, trial.values or [], strict=False)),
            **settings(row, stratify),
        }
        writer.writerow(fields)
    return text.getvalue()
