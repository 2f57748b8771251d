"""What a sweep is said to be before it runs, and how it is said to have ended."""

import html
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial
from rich.console import Console

from hydrasweep import results, settings, storage, winners
from hydrasweep.plan import Plan
from hydrasweep.pruners import PromotionPruner
from hydrasweep.space import as_text as space_text
from hydrasweep.space import as_word
from hydrasweep.stratum import Stratum, make_pruner
from hydrasweep.studies import Studies
from hydrasweep.tables import as_duration, number, short, table
from hydrasweep.trials import n_steps, origin
from hydrasweep.winners import Winner


def name_key(config: DictConfig) -> str | None:
    """The app's setting that names the study, where ``study_name`` refers to one."""
    raw: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    name = str(raw["study_name"])
    key = name.removeprefix("${").removesuffix("}")
    return key if name == f"${{{key}}}" and OmegaConf.select(config, key) is not None else None


def resume_command(config: DictConfig, name: str) -> str:
    """The command that resumes this sweep."""
    key, folder = name_key(config), str(config.hydra.sweep.dir)
    given = {key or "hydra.sweeper.study_name": name}
    if not (key and Path(folder).name == name):  # else the name gives the folder
        given["hydra.sweep.dir"] = as_word(folder)
    words = [word for word in _typed() if word.partition("=")[0] not in given]
    return shlex.join([*words, *(f"{key}={value}" for key, value in given.items())])


def _typed() -> list[str]:
    """This process's command. Of ``python -m MODULE``, Python keeps only the file's path."""
    program, *words = sys.argv
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec and spec.origin == program:
        return ["python", "-m", spec.name, *words]
    return ["python", program, *words]


def environment() -> dict[str, str]:
    """Command, versions and hardware, for whoever reads the results later."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "command": shlex.join(_typed()),
        "cpu": names[0] if names else platform.machine(),
        "cores": str(settings.count_cores()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("hydrasweep", "hydra-core", "optuna")},
    }


def about(plan: Plan, chosen: DictConfig, n_trials: int) -> dict[str, Any]:
    """The sweep as the parameters of its run."""
    described = {
        f"{part}.{key}": value
        for part in ("sampler", "pruner")
        for key, value in (chosen[part] or {}).items()
    }
    space = {f"space.{key}": space_text(d) for key, d in plan.space.distributions.items()}
    strata = {f"space.{plan.space.stratify}": ", ".join(plan.space.strata)}
    return {"n_trials": n_trials, **space, **(strata if plan.space.stratify else {}), **described}


def outcome(search: Studies, found: Sequence[Winner]) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of the sweep's run: counts, the best of each stratum, its winner."""
    states = search.states()
    metrics: dict[str, float] = {
        f"trials/{name.lower()}": states[name] for name in ("COMPLETE", "PRUNED", "FAIL")
    }
    tags = {
        f"best.{stratum.value or 'all'}": f"#{origin(trial)} {trial.values} {trial.params}"
        for stratum in search.strata
        for trial in results.best(stratum)[:1]
    }
    for winner in found:
        name = winner.stratum or "all"
        tags[f"winner.{name}"] = json.dumps(winner.record(None))
        metrics[f"confirm/{name}"] = winner.confirmed.mean
        metrics |= {f"{key}/{name}": score.mean for key, score in winner.recorded.items()}
    rows = [_winner_row(w) for w in found] or [
        _row(stratum, trial) for stratum in search.strata for trial in results.best(stratum)
    ]
    if rows:  # MLflow shows it at the head of the run's page
        lead = winners.lead(found, search.head.direction) if found else ""
        tags["mlflow.note.content"] = f"{lead}\n\n{_markdown(rows)}".strip()
    return metrics, tags


def describe(
    plan: Plan,
    config: DictConfig,
    n_trials: int,
    n_workers: int,
    estimates: Mapping[str, float],
    first: Sequence[str] = (),
) -> str:
    """What the sweep is going to do, ``first`` in its own words, and how long that would take."""
    chosen = plan.settings
    pruner = _class_name(chosen.pruner or {})
    if not chosen.resumable and pruner == "PromotionPruner":
        pruner = "SuccessiveHalvingPruner (to pause trials as PromotionPruner, the task function "
        pruner += "must be able to go on: hydra.sweeper.resumable=true)"
    launcher = _class_name(config.hydra.launcher).removesuffix("Launcher").lower()
    runs = f"{n_workers} worker{'s' * (n_workers > 1)} ({launcher})"
    if settings.is_local(config):
        runs = f"{n_workers} at once"
    elif (n := chosen.trials_per_worker) > 1:
        runs += f" with {n} at once each"
    named = zip(settings.directions(chosen), settings.objectives(chosen), strict=True)
    steps = f", after at most {chosen.max_steps} steps" if chosen.max_steps else ""
    lines = [
        f"Study {plan.name}: {n_trials} trials, {runs}, {_class_name(chosen.sampler)}, "
        f"pruner {pruner}",
        "  " + ", ".join(f"{direction} {name}" for direction, name in named) + steps,
        *(f"  {name}: {space_text(d)}" for name, d in plan.space.distributions.items()),
    ]
    if not plan.space.distributions and not plan.space.stratify:
        lines.append("  nothing is searched: all trials have the same settings")
    if chosen.leave_out:
        lines.append(f"  left out: {', '.join(chosen.leave_out)}")
    if plan.space.stratify:
        lines.append(f"  {plan.space.stratify}: {', '.join(plan.space.strata)}, with equal shares")
    lines += [f"  {line}" for line in first]
    lines.append(f"  storage: {storage.shown(plan.storage, Path(config.hydra.sweep.dir))}")
    checked = f", and {chosen.check} has tried it" if chosen.check else ""
    return "\n".join(
        [
            *lines,
            *_durations(plan, n_trials, n_workers, estimates),
            f"  checked: every corner of the space composes{checked}",
        ]
    )


def _durations(
    plan: Plan, n_trials: int, n_workers: int, estimates: Mapping[str, float]
) -> list[str]:
    """How long search and confirmation take, from estimates for a whole trial of each stratum."""
    chosen, lines = plan.settings, []
    pace = sum(estimates.values()) / max(1, len(estimates)) / n_workers
    unpruned = searching = n_trials * pace
    pruner = make_pruner(chosen.pruner, chosen.resumable)
    if isinstance(pruner, PromotionPruner) and (last := pruner.max_resource or chosen.max_steps):
        n_each = math.ceil(n_trials / len(plan.space.strata))
        searching *= pruner.n_steps(n_each, last) / max(1, n_each * last)
    if pace:
        each = ", ".join(f"{key} {as_duration(s)}".strip() for key, s in estimates.items())
        paused = f", pausing {as_duration(searching)}" if searching < unpruned else ""
        lines.append(
            f"  a whole trial: {each}; all of them unpruned: {as_duration(unpruned)}{paused}"
        )
    if settings.confirms(chosen):
        again = chosen.confirm
        n_seeds = len(plan.space.strata) * again.n_seeds
        bounds = [n_seeds * (n + settings.retrains(chosen)) for n in (1, again.top)]
        race = f"best {again.top} of each race for" if again.top > 1 else "best of each has"
        lines.append(
            f"  then the {race} {again.n_seeds} fresh seeds, and the winners get the final "
            f"settings: {' to '.join(dict.fromkeys(map(str, bounds)))} trainings"
        )
        if pace:
            times = [as_duration(searching + n * pace) for n in bounds]
            lines.append(f"  in all about {' to '.join(dict.fromkeys(times))}")
    return lines


def changes(known: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In what the settings of one class differ from those before; "" where they don't."""
    if (before := _class_name(known)) != (after := _class_name(now)):
        return f"{before} before, now {after}"
    keys = sorted(key for key in {*known, *now} if known.get(key) != now.get(key))
    return "; ".join(f"{key}={known.get(key)} before, now {now.get(key)}" for key in keys)


def _class_name(node: Mapping[str, Any] | DictConfig) -> str:
    return str(node.get("_target_", "none")).rpartition(".")[2]


def summary(search: Studies, found: Sequence[Winner], folder: Path, mlflow: str) -> str:
    """How the sweep ended: the best of each stratum, what pruning saved, who won, and where to
    go on from there; ``mlflow`` is the address of MLflow's store, "" without one."""
    best = [(stratum, trial) for stratum in search.strata for trial in results.best(stratum)]
    lines = [table("best trial", [_row(*row) for row in best])] if best else []
    lines.append(f"Trials: {counts(search)}")
    n_saved, seconds = results.saved(search.strata)
    if n_saved:
        lines.append(f"Pruning saved {n_saved} steps, {as_duration(seconds)} of work")
    if found:
        lines.append("\nOn fresh seeds, mean ± standard deviation:")
        lines.append(table("winner", [_winner_row(winner) for winner in found]))
    for winner in found:
        if winner.n_failed:
            lines.append(f"{winner.stratum or 'The winner'} failed on {winner.n_failed} seeds")
    if lead := winners.lead(found, search.head.direction) if found else "":
        lines.append(lead)
    return "\n".join([*lines, *_pointers(folder, mlflow)])


def counts(studies: Studies) -> str:
    """How many trials there are of each state."""
    return ", ".join(f"{n} {name}" for name, n in sorted(studies.states().items()))


def _pointers(folder: Path, mlflow: str) -> list[str]:
    """Where results are, and the commands that go on from them."""
    shown = {
        "Results": folder,
        "Report": folder / "report.html",
        "MLflow": folder / "mlflow.html",
    }
    lines = {name: _link(path) for name, path in shown.items() if path.exists()}
    if mlflow and "MLflow" in lines and not mlflow.startswith("http"):
        lines["MLflow"] += f", while this runs: mlflow ui --backend-store-uri {mlflow}"
    if command := winners.rerun(folder):
        lines["Winner again"] = command
    return [f"{name:14}{value}" for name, value in lines.items()]


def _link(path: Path) -> str:
    """A path, which can be clicked where the terminal knows links (OSC 8)."""
    text = os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        return text
    return f"\x1b]8;;{path.resolve().as_uri()}\x1b\\{text}\x1b]8;;\x1b\\"


def redirect(address: str) -> str:
    """A page that leads to another."""
    return f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">\n'


def _row(stratum: Stratum, trial: FrozenTrial) -> dict[str, str]:
    values = ", ".join(number(value) for value in trial.values)
    row = {"": stratum.label(trial), "value": values, "steps": str(n_steps(trial))}
    return row | {name: short(value) for name, value in trial.params.items()}


def _winner_row(winner: Winner) -> dict[str, str]:
    pruned = f" (pruned after step {n_steps(winner.found)})" if winner.was_pruned else ""
    row = {
        "": winner.stratum or "all",
        "confirmed": str(winner.confirmed),
        "in the search": number(winner.searched) + pruned,
        **{name: score.brief() for name, score in winner.recorded.items()},
    }
    return row | {name: short(value) for name, value in winner.params.items()}


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in cells)
