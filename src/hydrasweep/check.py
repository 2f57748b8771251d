"""Before a sweep's first trial: its parts are made, its corners composed and tried."""

import itertools
import shlex
import statistics
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig, open_dict

from hydrasweep import api, settings
from hydrasweep.compose import Composer, flat
from hydrasweep.errors import WANTS_TRACEBACK, UserError, is_outage, root_cause
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
    """Overrides at a corner of the search space."""

    words: Sequence[str]
    phase: str


@dataclass(frozen=True)
class Answer:
    """What a function of the app returned in another process; or its ``error``."""

    value: Any = None
    error: Exception | None = None


def try_corners(
    plan: Plan,
    config: DictConfig,
    composer: Composer,
    processes: Processes,
    meanwhile: Callable[[], None],
) -> dict[str, float]:
    """Compose each stratum at the corners of the space and try it in another process; return the
    seconds that a trial of each is estimated to take, where the check can tell. Do something else
    ``meanwhile``.

    Raises:
        UserError: naming the corner and what is wrong with it.
    """
    _try_parts(plan)
    points = [*plan.space.corners()][::-1]  # if large values work, a check may skip others
    corners = {
        stratum: [Corner(plan.space.overrides(stratum, point), SEARCH) for point in points]
        for stratum in plan.space.strata
    }
    final = []
    if settings.confirms(plan.settings):  # what would else be found wrong at the end
        words = corners[plan.space.strata[-1]][0].words
        final = [Corner([*words, *plan.settings.confirm.final], FINAL)]
    tried = [*itertools.chain(*corners.values()), *final]

    def compose() -> None:
        for corner in tried:
            try:
                composer.compose(corner.words, "check", 0)
            except Exception as error:
                raise _refusal(error, corner.words) from error
        for stratum in plan.space.strata:
            for point in itertools.islice(_choices(plan, composer), MAX_COMPOSED):
                composer.compose(plan.space.overrides(stratum, point), "check", 0)
        meanwhile()

    if not plan.settings.check and not plan.settings.calibrate:
        compose()
        return dict.fromkeys(plan.space.strata, 0.0)
    answer = processes.call(_try, plan.name, config, tried, meanwhile=compose)
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


def _refusal(error: Exception, words: Sequence[str]) -> Exception:
    if is_outage(error):
        return error
    told = str(error) if isinstance(error, UserError) else root_cause(error)
    return UserError(f"{told}\nThis was found in trying: {shlex.join(words)}")


def _value(answer: Answer) -> Any:
    if answer.error:
        raise answer.error
    return answer.value


def _try(app: App, sweep: str, config: DictConfig, corners: Sequence[Corner]) -> Answer:
    """Have the app check the corners; return the seconds that each is estimated to take."""
    composer, seconds = Composer(app.hydra_context.config_loader, config), []
    check, calibrate = config.hydra.sweeper.check, config.hydra.sweeper.calibrate
    try:
        if calibrate:
            get_method(calibrate)
    except Exception as error:
        return Answer(error=UserError(f"hydra.sweeper.calibrate: {error}"))
    for corner in corners if check else ():
        try:
            trial = composer.compose(corner.words, "check", 0)
            with open_dict(trial):
                trial.hydra.runtime.output_dir = str(config.hydra.sweep.dir)
            HydraConfig.instance().set_config(trial)
            api.set_current(SweepTrial.outside(sweep=sweep, phase=corner.phase, name="check"))
            seconds.append(float(get_method(check)(_job(trial))))
        except Exception as error:
            if WANTS_TRACEBACK:
                traceback.print_exc()
            return Answer(error=_refusal(error, corner.words))
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
    with search.lock:  # of several starts, one measures
        known: dict[str, Any] = {
            each.value: each.study.user_attrs.get(CALIBRATED) for each in search.strata
        }
        if new := [stratum for stratum in search.strata if known[stratum.value] is None]:
            configs = [_at_corners(plan, stratum.value, composer) for stratum in new]
            answer = processes.call(_measure, plan.settings.calibrate, configs)
            for stratum, chosen in zip(new, _value(answer), strict=True):
                words = [f"{key}={as_word(value)}" for key, value in chosen.items()]
                stratum.study.set_user_attr(CALIBRATED, words)
                known[stratum.value] = words
    return replace(plan, space=replace(plan.space, calibrated=known))


def _at_corners(plan: Plan, stratum: str, composer: Composer) -> list[DictConfig]:
    words = [plan.space.overrides(stratum, corner) for corner in plan.space.corners()]
    return [_job(composer.compose(each, label="check", number=0)) for each in words]


def _measure(app: App, calibrate: str, strata: Sequence[Sequence[DictConfig]]) -> Answer:
    """Have the app choose the settings that suit the machine, for each stratum."""
    del app
    try:
        return Answer([dict(get_method(calibrate)(configs)) for configs in strata])
    except Exception as error:
        if is_outage(error) or isinstance(error, UserError):
            return Answer(error=error)
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
