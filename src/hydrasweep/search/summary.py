"""What a sweep is said to be before it runs, and how it is said to have ended."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from optuna.trial import FrozenTrial
from rich import box
from rich.table import Table

from hydrasweep import tracking
from hydrasweep.display import as_text
from hydrasweep.search import results
from hydrasweep.search.queue import Queue, Stratum
from hydrasweep.search.space import as_text as space_text
from hydrasweep.search.winners import Winner
from hydrasweep.search.worker import Plan


def go_on_command(config: DictConfig, name: str) -> str:
    """The command that goes on with this sweep."""
    if "study" in config:
        settings = {"study": name}
    else:
        settings = {"hydra.sweeper.study_name": name, "hydra.sweep.dir": config.hydra.sweep.dir}
    words = [word for word in sys.argv if word.partition("=")[0] not in settings]
    return shlex.join(["python", *words, *(f"{key}={value}" for key, value in settings.items())])


def about(plan: Plan, settings: DictConfig, sweep_id: str) -> tracking.Description:
    """The sweep as its parent run describes it."""
    searched = {f"space.{key}": value for key, value in plan.space.record().items()}
    described = {
        f"{part}.{key}": value
        for part in ("sampler", "pruner")
        for key, value in (settings[part] or {}).items()
    }
    return tracking.Description(
        name=f"sweep {plan.name}",
        params={"n_trials": settings.n_trials, **searched, **described},
        tags={"sweep": plan.name, "sweep.id": sweep_id},
        dataset=None,
        files=(),
        unique="sweep.id",
    )


def outcome(queue: Queue, found: Sequence[Winner]) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the parent run: counts, the best of each stratum, its winner."""
    states = queue.states()
    metrics: dict[str, float] = {
        f"trials/{name.lower()}": states[name] for name in ("COMPLETE", "PRUNED", "FAIL")
    }
    tags = {
        f"best.{stratum.value or 'all'}": f"#{trial.number} {trial.values} {trial.params}"
        for stratum in queue.strata
        for _, trial in results.best([(stratum, trial) for trial in stratum.trials()])[:1]
    }
    for winner in found:
        name = winner.stratum or "all"
        tags[f"winner.{name}"] = json.dumps(winner.record(None))
        for kind, score in (("confirm", winner.confirmed), ("test", winner.tested)):
            if score:
                metrics[f"{kind}/{name}"] = score.mean
    return metrics, tags


def environment() -> dict[str, str]:
    """Command, versions and hardware, for whoever reads the results later."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "cpu": names[0] if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "platform": platform.platform(),
        **tracking.environment_tags(),
    }


def describe(
    plan: Plan, settings: DictConfig, n_trials: int, n_workers: int, estimates: Mapping[str, float]
) -> str:
    """What the sweep is going to do, and how long that would take without pruning."""
    pruner = (settings.pruner or {}).get("_target_", "none").rpartition(".")[2]
    sampler = settings.sampler["_target_"].rpartition(".")[2]
    lines = [
        f"Study {plan.name}: {n_trials} trials, {n_workers} workers, {sampler}, pruner {pruner}",
        *(f"  {name}: {space_text(d)}" for name, d in plan.space.distributions.items()),
    ]
    if plan.space.stratify:
        lines.append(f"  {plan.space.stratify}: {', '.join(plan.space.strata)}, with equal shares")
    pace = sum(estimates.values()) / max(1, len(estimates)) / n_workers / 60
    if pace:
        each = ", ".join(f"{key} {seconds:.0f} s".strip() for key, seconds in estimates.items())
        lines.append(f"  a whole trial: {each}; all of them unpruned: {n_trials * pace:.0f} min")
    if again := settings.confirm:
        n_runs = len(plan.space.strata) * again.n_seeds * (again.top + 1)
        time = f": about {n_runs * pace:.0f} min" if pace else ""
        lines.append(
            f"  then the best {again.top} of each on {again.n_seeds} fresh seeds, and the winners "
            f"once more for their test score: {n_runs} trainings{time}"
        )
    return "\n".join([*lines, "  checked: every corner of the space composes and trains"])


def summary(queue: Queue, found: Sequence[Winner], folder: Path, link: str | None) -> str:
    """How the sweep ended: the best of each stratum, what pruning saved, what to do next."""
    rows = queue.trials()
    best = [
        row
        for stratum in queue.strata
        for row in results.best([row for row in rows if row[0] is stratum])
    ]
    lines = [_table("best trial", [_row(*row) for row in best])]
    counts = sorted(queue.states().items())
    lines.append("Trials: " + ", ".join(f"{n} {name}" for name, n in counts))
    saved_epochs, saved_seconds = results.saved([trial for _, trial in rows])
    if saved_epochs:
        lines.append(f"Pruning saved {saved_epochs} epochs, {saved_seconds / 60:.1f} min of work")
    if found:
        lines.append("\nOn fresh seeds, mean ± standard deviation:")
        lines.append(_table("winner", [_winner_row(winner) for winner in found]))
    lines.append(f"Results: {folder}")
    if link:
        lines += ["Compare in MLflow: mlflow ui, then open", link]
    return "\n".join(lines)


def _row(stratum: Stratum, trial: FrozenTrial) -> dict[str, str]:
    values = ", ".join(f"{value:.4f}" for value in trial.values)
    row = {"": stratum.label(trial.number), "value": values, "epochs": str(results.epochs(trial))}
    return row | {name: short(value) for name, value in trial.params.items()}


def _winner_row(winner: Winner) -> dict[str, str]:
    row = {
        "": winner.stratum or "all",
        "test": str(winner.tested or ""),
        "validation": str(winner.confirmed),
        "search believed": f"{winner.believed:.4f}" + (" (pruned)" if winner.was_pruned else ""),
    }
    return row | {name: short(value) for name, value in winner.params.items()}


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(name or title, justify="right" if name else "left")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return as_text(table)


def short(value: Any) -> str:
    """A setting's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
