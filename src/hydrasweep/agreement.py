"""What a study was begun with, and whether a further start agrees with it."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import json_to_distribution

from hydrasweep.errors import UserError
from hydrasweep.space import as_text
from hydrasweep.studies import Studies
from hydrasweep.trials import MARK

Record = Mapping[str, str]

# Names of a study's user attributes.
SPACE = f"{MARK}space"  # what is searched
CONFIG = f"{MARK}config"  # the composed config of its first trial, without what may change


def agree(
    studies: Studies, record: Record, configs: Mapping[str, Record], may_change: Sequence[str] = ()
) -> None:
    """Record with every stratum what is searched, and its config by ``configs``, or compare with
    what is recorded, but for keys that are in ``may_change`` or below one that is.

    Raises:
        UserError: it differs; the message shows how.
    """
    storage = studies.head._storage
    with studies.lock:
        for name in optuna.get_all_study_names(storage):  # of other strata too
            if name == studies.name or name.startswith(f"{studies.name}/"):
                known = optuna.load_study(study_name=name, storage=storage).user_attrs
                _refuse_difference(studies.name, known.get(SPACE, record), record)
        for stratum in studies.strata:
            now = configs[stratum.value]
            known = stratum.study.user_attrs.get(CONFIG, now)
            known, now = (
                {k: v for k, v in each.items() if not _is_below(k, may_change)}
                for each in (known, now)
            )
            _refuse_difference(studies.name, known, now, is_config=True)
        for stratum in studies.strata:
            stratum.study.set_user_attr(SPACE, dict(record))
            stratum.study.set_user_attr(CONFIG, dict(configs[stratum.value]))


def _refuse_difference(study: str, known: Record, record: Record, is_config: bool = False) -> None:
    names = sorted(key for key in {*known, *record} if known.get(key) != record.get(key))
    if names:
        told = {key: [_in_words(each.get(key)) for each in (known, record)] for key in names}
        lines = (f"  {key}: was {was}, now {now}" for key, (was, now) in told.items())
        way = "Take another name, or leave them as they were"
        if is_config:
            way += "; a setting that changes no result may differ if it is named in "
            way += f"hydra.sweeper.may_change=[{names[0]}]"
        raise UserError("\n".join([f"study {study} exists with other settings:", *lines, way]))


def _in_words(recorded: str | None) -> str:
    """What is recorded of a setting, or of a range that is searched."""
    if recorded is None:
        return "not there"
    try:
        return as_text(json_to_distribution(recorded))
    except (ValueError, TypeError, KeyError):  # no range
        return recorded


def _is_below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
