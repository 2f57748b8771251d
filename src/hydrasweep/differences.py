"""In what two sweeps differ: what they were started with, and what came of it."""

import os
from collections.abc import Mapping
from dataclasses import replace

from omegaconf import OmegaConf

from hydrasweep import output, page, results, winners
from hydrasweep.compose import flat
from hydrasweep.errors import UserError
from hydrasweep.plots import Sweep
from hydrasweep.stratum import Stratum
from hydrasweep.tables import as_duration, number, short, table
from hydrasweep.trials import recorded, seconds

TOLD_BY_THE_SPACE = ("settings.overrides", "settings.sweeper.params")


def compare(first: Sweep, second: Sweep) -> str:
    """The settings and the results that are not the same, in two tables.

    Raises:
        UserError: they are one sweep.
    """
    if first.folder.samefile(second.folder):
        raise UserError(f"{first.folder}: is compared with itself")
    sweeps = first, second
    names = [sweep.name for sweep in sweeps]
    if first.name == second.name:
        names = [os.path.relpath(sweep.folder) for sweep in sweeps]
    told = [
        _table(title, dict(zip(names, map(of, sweeps), strict=True))) or f"No {title} differs."
        for title, of in (("setting", _settings), ("result", _results))
    ]
    heads = [sweep.search.head.directions for sweep in sweeps]
    if first.objectives != second.objectives or heads[0] != heads[1]:
        told.append("They search for different things: their values can't be compared.")
    elif first.winners and second.winners:
        direction = heads[0][0]
        best = [winners.overall(sweep.winners, direction) for sweep in sweeps]
        renamed = [replace(w, stratum=name) for w, name in zip(best, names, strict=True)]
        told.append(winners.lead(renamed, direction))
    return "\n".join(told)


def _table(title: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    """The rows in which the columns differ; "" if there are none."""
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [
        {"": key} | {name: column.get(key, "—") for name, column in columns.items()}
        for key in keys
        if len({column.get(key) for column in columns.values()}) > 1
    ]
    return table(title, rows) if rows else ""


def _settings(sweep: Sweep) -> dict[str, str]:
    """The app's settings and the sweeper's, what is searched, and what the sweep ran with.

    A setting whose value is the sweep's name is left out: it differs, and says nothing.
    """
    hydra = flat(OmegaConf.create({"settings": sweep.config.get("hydra", {})}))
    found = dict(sorted(flat(sweep.config).items()))
    for key, value in sorted(hydra.items()):
        if not key.startswith(TOLD_BY_THE_SPACE):
            found[key.replace("settings", "hydra", 1)] = value
    found |= {f"searched: {name}": text for name, text in page.space(sweep).items()}
    found |= {str(key): str(each) for key, each in sweep.versions.items() if key != "command"}
    return {
        key: page.masked(f"{key}: {value}").removeprefix(f"{key}: ")
        for key, value in found.items()
        if value != sweep.name
    }


def _results(sweep: Sweep) -> dict[str, str]:
    rows = [row for studies in sweep.phases.values() for row in studies.trials()]
    found = {
        **{f"trials, {phase}": output.counts(s) for phase, s in sweep.phases.items()},
        "time worked": as_duration(sum(seconds(trial) for _, trial in rows)),
    }
    for stratum in sweep.search.strata:
        for name, value in _best(sweep, stratum).items():
            found[f"{stratum.value}: {name}" if stratum.value else name] = value
    return found


def _best(sweep: Sweep, stratum: Stratum) -> dict[str, str]:
    """The winner of a stratum, or what the search found best; its settings last."""
    for winner in (w for w in sweep.winners if w.stratum == stratum.value):
        numbers = {name: score.brief() for name, score in winner.recorded.items()}
        told = {"confirmed": str(winner.confirmed), "in the search": number(winner.searched)}
        return told | numbers | {key: short(value) for key, value in winner.params.items()}
    best = results.best(stratum)
    if len(sweep.objectives) > 1:
        return {"trials on the front": str(len(best))}
    told = {}
    for trial in best:
        told = {"in the search": number(trial.values[0])}
        told |= {name: short(value) for name, value in recorded(trial).items()}
        told |= {key: short(value) for key, value in trial.params.items()}
    return told
