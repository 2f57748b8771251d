"""Before a sweep's first trial: its parts are made, its corners composed and tried."""

import itertools
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, open_dict

from hydrasweep import api, settings
from hydrasweep.compose import Composer, flat
from hydrasweep.errors import UserError, is_outage, root_cause
from hydrasweep.plan import Plan
from hydrasweep.space import as_word
from hydrasweep.stratum import make_pruner, make_sampler
from hydrasweep.studies import Studies
from hydrasweep.trials import FINAL, MARK, SEARCH, SweepTrial

CALIBRATED = f"{MARK}calibrated"  # of a study: overrides that suit the machine it was begun on
MAX_COMPOSED = 100  # combinations of config groups; files of others are read in the trials
N_PROPOSED = 12  # more than samplers choose at random before they begin


def try_corners(plan: Plan, config: DictConfig, composer: Composer) -> dict[str, float]:
    """Compose each stratum at the corners of the space and try it; give the seconds that
    a trial of each is estimated to take, where the check can tell.

    Raises:
        UserError: naming the corner and what is wrong with it.
    """
    try:
        part = "calibrate"
        if plan.settings.calibrate:
            get_method(plan.settings.calibrate)
        part = "pruner"
        pruner = make_pruner(plan.settings.pruner, plan.settings.resumable)
        part = "sampler"
        sampler = make_sampler(plan.settings.sampler)
        names = settings.directions(plan.settings)
        study = optuna.create_study(sampler=sampler, pruner=pruner, directions=names)  # type: ignore[arg-type]
        for _ in range(N_PROPOSED):  # what a sampler needs, some only import then
            study.tell(study.ask(dict(plan.space.distributions)), [0.0] * len(names))
    except Exception as error:  # of its class or of Hydra's
        raise UserError(f"hydra.sweeper.{part}: {error}") from error
    estimates: dict[str, float] = {}
    for stratum in plan.space.strata:
        # The largest values first: what works with them, a check may spare the others.
        values = reversed([*plan.space.corners()])
        corners = [plan.space.overrides(stratum, corner) for corner in values]
        seconds = [_try(words, plan, SEARCH, config, composer) for words in corners]
        estimates[stratum] = sum(seconds) / len(seconds)
        for point in itertools.islice(_choices(plan, composer), MAX_COMPOSED):
            composer.compose(plan.space.overrides(stratum, point), "check", 0)
    if settings.confirms(plan.settings):  # what would else be found wrong at the end
        words = [*corners[0], *plan.settings.confirm.final]
        _try(words, plan, FINAL, config, composer)
    return estimates


def _choices(plan: Plan, composer: Composer) -> Iterator[dict[str, Any]]:
    """Points of the space with every combination of choices of config groups, whose files are
    read now, and no more while trials run."""
    first, groups = next(plan.space.corners()), {}
    for name, distribution in plan.space.distributions.items():
        if composer.is_group(name.lstrip("+")):
            groups[name] = getattr(distribution, "choices", [first[name]])
    for chosen in itertools.product(*groups.values()):
        yield first | dict(zip(groups, chosen, strict=True))


def _try(
    words: Sequence[str], plan: Plan, phase: str, config: DictConfig, composer: Composer
) -> float:
    """Compose a trial and have it checked; give the seconds that it is estimated to take."""
    outer = HydraConfig.instance().cfg
    try:
        trial = composer.compose(words, label="check", number=0)
        if not plan.settings.check:
            return 0.0
        with open_dict(trial):
            trial.hydra.runtime.output_dir = str(config.hydra.sweep.dir)
        HydraConfig.instance().set_config(trial)
        job = trial.copy()
        with open_dict(job):
            del job["hydra"]
        api.set_current(SweepTrial.outside(sweep=plan.name, phase=phase, name="check"))
        return float(get_method(plan.settings.check)(job))
    except Exception as error:
        if is_outage(error):
            raise
        told = str(error) if isinstance(error, UserError) else root_cause(error)
        raise UserError(f"{told}\nThis was found in trying: {shlex.join(words)}") from error
    finally:
        api.set_current(None)
        HydraConfig.instance().cfg = outer


def calibrate(plan: Plan, search: Studies, composer: Composer) -> Plan:
    """The plan with the settings that suit the machine on which its study was begun.

    Raises:
        UserError: they can't be told.
    """
    if not plan.settings.calibrate:
        return plan
    found = {}
    with search.lock:  # of several starts, one measures
        for stratum in search.strata:
            words = stratum.study.user_attrs.get(CALIBRATED)
            if words is None:
                chosen = _calibrated(plan, stratum.value, composer)
                words = [f"{key}={as_word(value)}" for key, value in chosen.items()]
                stratum.study.set_user_attr(CALIBRATED, words)
            found[stratum.value] = words
    return replace(plan, space=replace(plan.space, calibrated=found))


def _calibrated(plan: Plan, stratum: str, composer: Composer) -> Mapping[str, Any]:
    words = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
    configs = [composer.compose(each, label="check", number=0) for each in words]
    for config in configs:
        with open_dict(config):
            del config["hydra"]
    try:
        return dict(get_method(plan.settings.calibrate)(configs))
    except Exception as error:
        if is_outage(error) or isinstance(error, UserError):
            raise
        given = f"hydra.sweeper.calibrate={plan.settings.calibrate}"
        raise UserError(f"{given}: {root_cause(error)}") from error


def composed(plan: Plan, stratum: str, composer: Composer) -> dict[str, str]:
    """The settings of a stratum's trials, as they are at the corners of the space."""
    words = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
    configs = [flat(composer.compose(each, label="check", number=0)) for each in words]
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for key, value in itertools.chain(*(config.items() for config in configs)):
        found[key][value] = None
    return {key: " or ".join(values) for key, values in found.items()}
