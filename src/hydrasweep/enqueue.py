"""What a sweep tries first: settings that are listed, and the best of earlier studies.

These are chosen once, when the sweep begins, and kept with its study.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hydrasweep import results, storage
from hydrasweep.agreement import SPACE
from hydrasweep.errors import UserError
from hydrasweep.plan import Plan
from hydrasweep.settings import directions
from hydrasweep.space import Space, as_key, as_word
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import MARK

ENQUEUED = f"{MARK}enqueued"  # a study's user attribute: what it has taken, by source and stratum
MAX_NAMES = 20  # that are told


@dataclass(frozen=True)
class Source:
    """An entry of ``enqueue`` that names a study: so many of its best settings."""

    study: str
    best: int

    def __str__(self) -> str:
        return f"hydra.sweeper.enqueue={{study: {self.study}, best: {self.best}}}"


@dataclass(frozen=True)
class First:
    """Settings that a sweep tries first, by stratum, and what is said of them."""

    settings: Mapping[str, Sequence[Mapping[str, Any]]]
    told: Sequence[str]
    source: Source | None = None  # None: they are listed

    def remember(self, search: Studies) -> None:
        """Keep with the study what it takes from another, unless that is kept."""
        if self.source is None:
            return
        with search.lock:
            kept = search.head.user_attrs.get(ENQUEUED, {})
            search.head.set_user_attr(ENQUEUED, {str(self.source): self.settings, **kept})


def first(plan: Plan, folder: Path) -> list[First]:
    """What each entry of ``enqueue`` has a sweep in ``folder`` try first.

    Raises:
        UserError: settings are not in the space, or a study can't be taken from.
    """
    entries: Any = OmegaConf.to_container(plan.settings.enqueue)
    listed, sources = _split([plan.space.as_point(entry) for entry in entries], plan.space)
    if not plan.settings.custom_search_space:  # which knows more names
        plan.space.check(listed)
    given = {value: plan.space.of_stratum(listed, value) for value in plan.space.strata}
    told = [f"first: {len(listed)} listed in hydra.sweeper.enqueue"] if listed else []
    return [First(given, told), *(_take(source, plan, folder) for source in sources)]


def _split(entries: Sequence[Any], space: Space) -> tuple[list[Any], list[Source]]:
    """The entries that are settings, and those that name a study."""
    listed, sources = [], []
    for entry in entries:
        names = set(entry) if isinstance(entry, dict) else set()
        if "study" not in names or names - {"study", "best"} or names & space.distributions.keys():
            listed.append(entry)
            continue
        source = Source(str(entry["study"]), entry.get("best", 0))
        if type(source.best) is not int or source.best < 1:
            raise UserError(f"{source}: best must be 1 or more")
        sources.append(source)
    return listed, sources


def _take(source: Source, plan: Plan, folder: Path) -> First:
    """What a sweep takes from another study: the same whenever it is started."""
    try:
        with storage.in_words():
            own = _in_storage(plan.storage, plan.name)
            head = min(own, key=lambda stratum: stratum.value, default=None)
            kept = head.study.user_attrs.get(ENQUEUED, {}) if head else {}
            if str(source) in kept:
                given = kept[str(source)]
                told = f"{_count(source, given, plan.space)}, taken when this sweep began"
                return First(given, [told], source)
            return _fitting(source, _strata(source, plan, folder), plan)
    finally:
        storage.close_storages()


def _in_storage(node: DictConfig, name: str) -> list[Stratum]:
    """The strata of a study in a storage, where there is one."""
    if not storage.exists(node):
        return []
    storage.prepare(node)
    opened = storage.open_storage(node)
    return [
        Stratum(full.partition("/")[2], optuna.load_study(study_name=full, storage=opened))
        for full in optuna.get_all_study_names(opened)
        if full.partition("/")[0] == name
    ]


def _strata(source: Source, plan: Plan, folder: Path) -> list[Stratum]:
    """The strata of a study: of the one in the sweep's own storage, or of the sweep in a folder,
    which is given by its path or has the study's name where this sweep's has its own."""
    from hydrasweep import page  # only a sweep that takes from a folder has to read one

    if source.study == plan.name:
        raise UserError(f"{source}: it is this study")
    if "/" in source.study:
        return page.read(Path(source.study)).search.strata
    if found := _in_storage(plan.storage, source.study):
        return found
    beside = _beside(folder, plan.name)
    if source.study in beside:
        return page.read(beside[source.study]).search.strata
    names = sorted({*beside, *_names(plan.storage)} - {plan.name})
    known = ", ".join(names[-MAX_NAMES:])
    raise UserError(
        f"{source}: there is no study {source.study} in this sweep's storage or beside its folder; "
        f"there are: {known or 'none'}. Elsewhere, study is the path of a sweep's folder"
    )


def _names(node: DictConfig) -> set[str]:
    """Of the studies in a storage, each with all its strata and phases."""
    full = optuna.get_all_study_names(storage.open_storage(node)) if storage.exists(node) else []
    return {re.split("[/@]", name)[0] for name in full}


def _beside(folder: Path, name: str) -> dict[str, Path]:
    """The folders of sweeps, by what they have in place of this sweep's ``name``."""
    if name not in folder.parts:
        return {}
    i = len(folder.parts) - 1 - folder.parts[::-1].index(name)
    base, rest = Path(*folder.parts[:i]), folder.parts[i + 1 :]
    found = {path.name: path.joinpath(*rest) for path in base.glob("*/")}
    return {key: path for key, path in found.items() if (path / "multirun.yaml").exists()}


def _fitting(source: Source, strata: Sequence[Stratum], plan: Plan) -> First:
    """The best settings of a study's strata, without those that don't fit the space.

    Where one of the two is stratified by what the other searches or has one value of, only trials
    with that value count.
    """
    was = [direction.name.lower() for direction in strata[0].study.directions]
    if was != (now := directions(plan.settings)):
        raise UserError(
            f"{source}: study {source.study} was to {', '.join(was)}, and this sweep is to "
            f"{', '.join(now)}"
        )
    space, key = plan.space, _stratified_by(strata, plan.space)
    trials = [(s.label(t), _settings((s, t), key, space)) for s, t in _ranked(strata)]
    fixed = dict([word.split("=", 1) for word in space.fixed if word.startswith(f"{key}=")])
    settings: dict[str, list[dict[str, Any]]] = {}
    misfits: dict[str, None] = {}
    for value in space.strata:
        asked = fixed | ({space.stratify: value} if space.stratify else {})
        best: dict[str, tuple[str, dict[str, Any]]] = {}
        for label, full in trials:
            params = {name: v for name, v in full.items() if name in space.distributions}
            words = {name: as_word(full.get(name, word)) for name, word in asked.items()}
            if params and words == asked:
                best.setdefault(as_key(params), (label, params))
        settings[value] = []
        for label, params in list(best.values())[: source.best]:
            wrong = [f"{name}={v}" for name, v in params.items() if not space.holds(name, v)]
            misfits |= dict.fromkeys([f"{', '.join(wrong)} of trial {label}"] if wrong else [])
            settings[value] += [] if wrong else [params]
    names = {name for _, full in trials for name in full}
    unknown = names - {*space.distributions, *fixed, space.stratify}
    told = [
        _count(source, settings, space),
        *(f"  left out, as it is not searched here: {name}" for name in sorted(unknown)),
        *(f"  not taken, as it is not in the space: {words}" for words in misfits),
    ]
    return First(settings, told, source)


def _ranked(strata: Sequence[Stratum]) -> list[results.Row]:
    """The complete trials, the best first; with several objectives those that none beats."""
    study = strata[0].study
    if len(study.directions) > 1:
        return [(stratum, trial) for stratum in strata for trial in results.best(stratum)]
    rows = [(stratum, trial) for stratum in strata for trial in stratum.trials()]
    complete = [row for row in rows if row[1].state == TrialState.COMPLETE]
    is_falling = study.direction == StudyDirection.MAXIMIZE
    return sorted(complete, key=lambda row: row[1].values[0], reverse=is_falling)


def _stratified_by(strata: Sequence[Stratum], space: Space) -> str | None:
    """What a study is stratified by: the list in its record of its space, if it has one."""
    record = strata[0].study.user_attrs.get(SPACE, {})
    lists = (key for key, text in record.items() if text[:1] == "[" and key[:6] != "hydra.")
    return next(lists, space.stratify) if strata[0].value else None


def _settings(row: results.Row, key: str | None, space: Space) -> dict[str, Any]:
    """What was searched, a stratum's word as the choice that it is in the space."""
    full = results.settings(row, key)
    choices = getattr(space.distributions.get(key or ""), "choices", ())
    return full | {str(key): choice for choice in choices if as_word(choice) == row[0].value}


def _count(source: Source, settings: Mapping[str, Sequence[Any]], space: Space) -> str:
    """How many settings are taken from where."""
    best = f"the best {source.best}"
    if space.stratify:
        counts = ", ".join(f"{value} {len(some)}" for value, some in settings.items())
        return f"first: {best} of each {space.stratify} of study {source.study}: {counts}"
    n = sum(map(len, settings.values()))
    return f"first: {best if n == source.best else f'{n} of {best}'} of study {source.study}"
