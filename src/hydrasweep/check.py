"""Before a sweep's first trial: its parts are made, its corners composed and tried."""

import itertools
import shlex
import statistics
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, open_dict

from hydrasweep import api, settings
from hydrasweep.compose import Composer, flat
from hydrasweep.errors import (
    WANTS_TRACEBACK,
    Outage,
    UserError,
    is_outage,
    root_cause,
    without_password,
)
from hydrasweep.plan import Plan
from hydrasweep.processes import Processes
from hydrasweep.server import App
from hydrasweep.space import as_word
from hydrasweep.stratum import make_pruner, make_sampler
from hydrasweep.studies import Studies
from hydrasweep.trials import FINAL, MARK, SEARCH, SweepTrial

CALIBRATED = f"{MARK}calibrated"  # of a study: overrides that suit the machine it was begun on
MAX_COMPOSED = 100  # combinations of config groups; files of others are read in the trials
N_PROPOSED = 12  # more than samplers choose at random before they begin


@dataclass(frozen=True)
class Corner:
    """A config at a corner of the search space, which a process tries."""

    config: DictConfig
    words: Sequence[str]  # the overrides that it was composed with
    phase: str


@dataclass(frozen=True)
class Answer:
    """What a function of the app returned in another process; or its ``error``."""

    value: Any = None
    error: UserError | None = None


def try_corners(
    plan: Plan,
    config: DictConfig,
    composer: Composer,
    processes: Processes,
    meanwhile: Callable[[], None],
) -> dict[str, float]:
    """Compose each stratum at the corners of the space and try it in another process; return the
    seconds that a trial of each is estimated to take, where the check can tell.

    Raises:
        UserError: naming the corner and what is wrong with it.
    """
    _try_parts(plan)
    corners: dict[str, list[Corner]] = {}
    for stratum in plan.space.strata:
        # The largest values first: what works with them, a check may spare the others.
        points = reversed([*plan.space.corners()])
        words = [plan.space.overrides(stratum, point) for point in points]
        corners[stratum] = [_corner(each, SEARCH, config, composer) for each in words]
        for point in itertools.islice(_choices(plan, composer), MAX_COMPOSED):
            composer.compose(plan.space.overrides(stratum, point), "check", 0)
    final = []
    if settings.confirms(plan.settings):  # what would else be found wrong at the end
        final = [_corner([*words[0], *plan.settings.confirm.final], FINAL, config, composer)]
    chosen = plan.settings
    if not chosen.check and not chosen.calibrate:
        meanwhile()
        return dict.fromkeys(plan.space.strata, 0.0)
    tried = [*itertools.chain(*corners.values()), *final]
    answer = processes.call(
        _try, plan.name, tried, chosen.check, chosen.calibrate, meanwhile=meanwhile
    )
    seconds = iter(_value(answer))
    return {
        stratum: statistics.fmean(itertools.islice(seconds, len(corners[stratum])))
        for stratum in corners
    }


def _try_parts(plan: Plan) -> None:
    try:
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


def _corner(words: Sequence[str], phase: str, config: DictConfig, composer: Composer) -> Corner:
    try:
        trial = composer.compose(words, label="check", number=0)
    except Exception as error:
        raise _refusal(error, words) from error
    with open_dict(trial):
        trial.hydra.runtime.output_dir = str(config.hydra.sweep.dir)
    return Corner(trial, words, phase)


def _refusal(error: Exception, words: Sequence[str]) -> UserError:
    if is_outage(error):
        return Outage(without_password(str(error)))
    told = str(error) if isinstance(error, UserError) else root_cause(error)
    return UserError(f"{told}\nThis was found in trying: {shlex.join(words)}" if words else told)


def _value(answer: Answer) -> Any:
    if answer.error:
        raise answer.error
    return answer.value


def _try(
    app: App, sweep: str, corners: Sequence[Corner], check: str | None, calibrate: str | None
) -> Answer:
    """Have the app check the corners; return the seconds that each is estimated to take."""
    del app
    seconds = []
    words: Sequence[str] = ()
    try:
        if calibrate:
            try:
                get_method(calibrate)
            except Exception as error:
                raise UserError(f"hydra.sweeper.calibrate: {error}") from error
        for corner in corners:
            if not check:
                break
            words = corner.words
            HydraConfig.instance().set_config(corner.config)
            api.set_current(SweepTrial.outside(sweep=sweep, phase=corner.phase, name="check"))
            seconds.append(float(get_method(check)(_job(corner.config))))
    except Exception as error:
        if WANTS_TRACEBACK:
            traceback.print_exc()
        return Answer(error=_refusal(error, words))
    return Answer(seconds or [0.0] * len(corners))


def _job(config: DictConfig) -> DictConfig:
    """The config as the task function gets it."""
    job = config.copy()
    with open_dict(job):
        del job["hydra"]
    return job


def _choices(plan: Plan, composer: Composer) -> Iterator[dict[str, Any]]:
    """Points of the space with every combination of choices of config groups, whose files are
    read now, and no more while trials run."""
    first, groups = next(plan.space.corners()), {}
    for name, distribution in plan.space.distributions.items():
        if composer.is_group(name.lstrip("+")):
            groups[name] = getattr(distribution, "choices", [first[name]])
    for chosen in itertools.product(*groups.values()):
        yield first | dict(zip(groups, chosen, strict=True))


def calibrate(plan: Plan, search: Studies, composer: Composer, processes: Processes) -> Plan:
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
                chosen = _calibrated(plan, stratum.value, composer, processes)
                words = [f"{key}={as_word(value)}" for key, value in chosen.items()]
                stratum.study.set_user_attr(CALIBRATED, words)
            found[stratum.value] = words
    return replace(plan, space=replace(plan.space, calibrated=found))


def _calibrated(
    plan: Plan, stratum: str, composer: Composer, processes: Processes
) -> Mapping[str, Any]:
    words = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
    configs = [_job(composer.compose(each, label="check", number=0)) for each in words]
    found: Mapping[str, Any] = _value(processes.call(_measure, plan.settings.calibrate, configs))
    return found


def _measure(app: App, calibrate: str, configs: Sequence[DictConfig]) -> Answer:
    """Have the app choose the settings that suit the machine."""
    del app
    try:
        return Answer(dict(get_method(calibrate)(configs)))
    except UserError as error:
        return Answer(error=error)
    except Exception as error:
        if is_outage(error):
            return Answer(error=Outage(without_password(str(error))))
        given = f"hydra.sweeper.calibrate={calibrate}"
        return Answer(error=UserError(f"{given}: {root_cause(error)}"))


def composed(plan: Plan, stratum: str, composer: Composer) -> dict[str, str]:
    """The settings of a stratum's trials, as they are at the corners of the space."""
    words = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
    configs = [flat(composer.compose(each, label="check", number=0)) for each in words]
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for key, value in itertools.chain(*(config.items() for config in configs)):
        found[key][value] = None
    return {key: " or ".join(values) for key, values in found.items()}
