"""What a worker makes of a trial's return value, and of failures."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apps import CONFIG, App, Ended
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hydrasweep.plan import Plan
from hydrasweep.space import Space
from hydrasweep.storage import close_storages
from hydrasweep.stratum import ERROR, WHERE, WHY
from hydrasweep.studies import Studies
from hydrasweep.worker import as_values, too_many_failures

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    backend = {"_target_": "optuna.storages.journal.JournalFileBackend"}
    settings = {
        "direction": "maximize",
        "sampler": {"_target_": "optuna.samplers.RandomSampler", "seed": 0},
        "pruner": None,
        "heartbeat": 15.0,
        "max_failures": None,
        "max_failure_rate": None,
        "resumable": False,
        "confirm": None,
    }
    storage = {
        "_target_": "optuna.storages.JournalStorage",
        "log_storage": {**backend, "file_path": f"{tmp_path}/journal"},
    }
    yield Plan(
        name="s",
        settings=OmegaConf.create(settings),
        space=Space.parse(["model=cnn,lenet5", "x=interval(0,1)"], "model"),
        storage=OmegaConf.create(storage),
        parent={},
    )
    close_storages()


def bearing(plan: Plan, **limits: Any) -> Plan:
    settings = OmegaConf.merge(plan.settings, limits)
    return replace(plan, settings=settings)  # type: ignore[arg-type]


Tried = Callable[..., Studies]


@pytest.fixture
def tried(plan: Plan) -> Tried:
    """``tried(1.0, None, "some error")`` gives studies of a COMPLETE, a PRUNED, a FAIL trial."""

    def made(*ends: Any) -> Studies:
        studies = plan.open()
        studies.fill(len(ends))
        for end in ends:
            taken = studies.take({})
            assert taken is not None
            stratum, trial = taken
            if isinstance(end, str):
                trial.set_user_attr(WHY, end)
                trial.set_user_attr(WHERE, f"{end.partition(':')[0]} app.py:{end[-1]}")
                stratum.study.tell(trial, state=TrialState.FAIL)
            elif end is None:
                stratum.study.tell(trial, state=TrialState.PRUNED)
            else:
                stratum.study.tell(trial, end)
        return studies

    return made


# What is returned


@pytest.mark.parametrize(
    ("value", "n", "values"),
    [
        (1, 1, [1.0]),
        (0.5, 1, [0.5]),
        (np.float32(0.5), 1, [0.5]),
        ("2", 1, [2.0]),
        ([0.5], 1, [0.5]),
        ((1, 2.5), 2, [1.0, 2.5]),
    ],
)
def test_numbers_are_taken_as_objectives(value: Any, n: int, values: list[float]) -> None:
    assert as_values(value, [MINIMIZE] * n) == values


@pytest.mark.parametrize(
    ("value", "n"),
    [
        (None, 1),
        ("abc", 1),
        (float("nan"), 1),
        ([1, 2], 1),
        (1.0, 2),
        ([1, float("nan")], 2),
        ([], 1),
        ({"a": 1}, 1),
    ],
)
def test_anything_else_is_refused_with_what_it_was(value: Any, n: int) -> None:
    with pytest.raises(ValueError, match=rf"must return {n} number\(s\)") as error:
        as_values(value, [MINIMIZE] * n)
    assert repr(value) in str(error.value)


def test_objective_may_be_infinitely_bad_and_not_infinitely_good() -> None:
    inf = math.inf
    assert as_values(inf, [MINIMIZE]) == [inf]
    assert as_values(-inf, [MAXIMIZE]) == [-inf]
    assert as_values([inf, -inf], [MINIMIZE, MAXIMIZE]) == [inf, -inf]
    for value, directions in ((-inf, [MINIMIZE]), (inf, [MAXIMIZE]), ([1, inf], [MAXIMIZE] * 2)):
        with pytest.raises(ValueError, match="no trial can beat") as error:
            as_values(value, directions)
        assert repr(value) in str(error.value)


def test_what_is_no_result_is_a_failure(app: Callable[..., App]) -> None:
    body = """
        if cfg.kind == "exit":
            sys.exit("no more")
        return {"no_number": math.nan, "nothing": None, "two": [1.0, 2.0], "a": 1}[cfg.kind]
    """
    words = {
        "no_number": "not nan",
        "nothing": "not None",
        "two": "1 number",
        "exit": "SystemExit: no more",
    }
    enqueue = ",".join(f"{{kind: {kind}}}" for kind in ("a", *words))
    done = app(body)(
        "kind=choice(a,no_number,nothing,two,exit)",
        f"hydra.sweeper.enqueue=[{enqueue}]",
        "hydra.sweeper.n_trials=5",
    )
    assert done.code == 0, done.err
    for trial in done.trials():
        kind = trial.params["kind"]
        assert trial.state == (TrialState.COMPLETE if kind == "a" else TrialState.FAIL)
        assert words.get(kind, "") in trial.user_attrs.get(ERROR, "")
    assert {trial.params["kind"] for trial in done.trials()} == {"a", *words}


# How many failures are borne


def test_first_three_failing_alike_are_too_many(plan: Plan, tried: Tried) -> None:
    assert "the first 3 trials failed alike: Boom: 1" in too_many_failures(
        tried("Boom: 1", "Boom: 1", "Boom: 1"), plan
    )


@pytest.mark.parametrize(
    "ends",
    [
        ("E: 1", "E: 1", "E: 2"),
        ("E: 1", "E: 1", "F: 1"),
        ("E: 1", "E: 1", "E: 1", 0.5),
        ("E: 1", "E: 1", "E: 1", None),
        ("E: 1", "E: 1"),
    ],
)
def test_failures_among_others_or_of_several_kinds_are_borne(
    plan: Plan, tried: Tried, ends: tuple[Any, ...]
) -> None:
    assert too_many_failures(tried(*ends), plan) == ""


def test_max_failures_are_borne_and_one_more_is_not(plan: Plan, tried: Tried) -> None:
    studies = tried(0.5, "E: 1", "E: 2", 0.5)
    assert too_many_failures(studies, bearing(plan, max_failures=2)) == ""
    assert "2 trials failed, and max_failures=1" in too_many_failures(
        studies, bearing(plan, max_failures=1)
    )
    assert too_many_failures(studies, bearing(plan, max_failures=0))


def test_max_failure_rate_is_a_share_of_the_finished(plan: Plan, tried: Tried) -> None:
    studies = tried(0.5, "E: 1", "E: 2", None)
    studies.fill(100)
    assert too_many_failures(studies, bearing(plan, max_failure_rate=0.5)) == ""
    reason = too_many_failures(studies, bearing(plan, max_failure_rate=0.4))
    assert "2 of 4 trials failed" in reason


@pytest.mark.parametrize("limit", [{"max_failures": 3}, {"max_failure_rate": 1.0}])
def test_limit_that_was_set_is_the_only_one(
    plan: Plan, tried: Tried, limit: dict[str, float]
) -> None:
    studies = tried("Boom: 1", "Boom: 1", "Boom: 1")
    assert too_many_failures(studies, plan)
    assert too_many_failures(studies, bearing(plan, **limit)) == ""


def test_trials_that_are_tried_again_are_no_failures(plan: Plan, tried: Tried) -> None:
    studies = tried(0.5, "E: 1")
    studies.fill(3)
    taken = studies.take({})
    assert taken is not None
    studies.requeue(taken[0], taken[1].number, "it was interrupted", counts=False)
    assert too_many_failures(studies, bearing(plan, max_failures=1)) == ""
    assert "1 trials failed" in too_many_failures(studies, bearing(plan, max_failures=0))


# Failures in whole sweeps


def test_failing_trial_fails_alone_with_its_traceback(app: Callable[..., App]) -> None:
    body = """
        if cfg.x < 0:
            raise RuntimeError(f"{cfg.x} is negative")
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    for trial in done.trials():
        if trial.params["x"] < 0:
            assert trial.state == TrialState.FAIL
            assert "in task" in trial.user_attrs[ERROR]
            assert f"RuntimeError: {trial.params['x']} is negative" in trial.user_attrs[ERROR]
            assert "is negative" in done.log(f"{trial.number:03d}")
        else:
            assert trial.state == TrialState.COMPLETE
            assert trial.value == trial.params["x"]
    assert done.states().count("FAIL") == 2
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize("error", ["RuntimeError('no such thing')", "RuntimeError(f'no {cfg.x}')"])
def test_first_three_failing_alike_end_the_sweep(app: Callable[..., App], error: str) -> None:
    """By the line that raises them; what they say may hold a number."""
    done = app(f"raise {error}")()
    assert done.code == 1
    assert sorted(done.states()) == ["FAIL"] * 3 + ["WAITING"]
    assert "the first 3 trials failed alike: RuntimeError: no " in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize("limit", ["max_failures=4", "max_failure_rate=1.0"])
def test_failures_alike_within_the_limit_that_was_set_end_nothing(
    app: Callable[..., App], limit: str
) -> None:
    done = app("raise RuntimeError('no such thing')")(f"hydra.sweeper.{limit}")
    assert done.states() == ["FAIL"] * 4
    assert "failed alike" not in done.err


@pytest.mark.parametrize("error", ["GeneratorExit", "Own"])
def test_error_that_is_no_exception_of_pythons_fails_its_trial_alone(
    app: Callable[..., App], error: str
) -> None:
    body = f"""
        if cfg.x < 0:
            raise {error}("it ends here")
        return cfg.x
    """
    done = app(body, more="class Own(BaseException): pass")()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE", "FAIL"] * 2
    assert done.err == ""
    assert f"{error}: it ends here" in done.log("001")
    assert "in task" in done.log("001")


@pytest.mark.parametrize(("direction", "good"), [("minimize", "-"), ("maximize", "")])
def test_trial_that_diverged_is_the_worst_and_none_is_infinitely_good(
    app: Callable[..., App], direction: str, good: str
) -> None:
    task = app("return math.inf if cfg.x > 0.7 else -math.inf if cfg.x < -0.5 else cfg.x")
    done = task(f"hydra.sweeper.direction={direction}", "hydra.sweeper.report=true")
    assert done.code == 0, done.err
    (failed,) = (t for t in done.trials() if t.state == TrialState.FAIL)
    assert f"returned {good}inf, which no trial can beat" in failed.user_attrs[WHY]
    assert sum(math.isinf(trial.value) for trial in done.trials() if trial.values) == 1
    assert math.isfinite(done.study().best_value)


def test_max_failures_end_the_sweep(app: Callable[..., App]) -> None:
    done = app('raise RuntimeError(f"{cfg.x}")')("hydra.sweeper.max_failures=1")
    assert done.code == 1
    assert "2 trials failed, and max_failures=1; the last with RuntimeError: " in done.err
    assert sorted(done.states()) == ["FAIL"] * 2 + ["WAITING"] * 2


def test_outage_stops_the_sweep_and_blames_no_trial(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        if cfg.x < 0 and not os.path.exists("repaired"):
            raise OSError(28, "No space left")
        return cfg.x
    """
    task = app(body)
    done = task()
    assert done.code == 1
    assert "Error: the sweep was stopped: " in done.err
    assert ". To resume: python app.py -m hydra.sweeper.study_name=s" in done.err
    assert "Traceback" not in done.out + done.err
    n_done = done.states().count("COMPLETE")
    assert done.states().count("WAITING") == 4 - n_done
    assert n_done < 4
    (tmp_path / "repaired").touch()
    done = task()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 4


def test_clock_that_is_set_back_ends_nothing(app: Callable[..., App]) -> None:
    body = """
        import psutil
        from optuna.storages._rdb import storage
        if cfg.x < 0:
            psutil._psplatform.boot_time = lambda: 0.0
            storage.datetime = Earlier
        return cfg.x
    """
    more = """
from datetime import datetime, timedelta

class Earlier(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(hours=1)
"""
    done = app(body, more=more)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 4
    assert min(float(row["duration_s"]) for row in done.table()) >= 0
    assert any(t.duration.total_seconds() < 0 for t in done.trials() if t.duration)


@pytest.mark.parametrize("call", ["storage.set_trial_intermediate_value", "study.tell"])
def test_storage_that_fails_for_a_moment_blames_no_trial(
    app: Callable[..., App], call: str
) -> None:
    owner, _, name = call.partition(".")
    body = f"""
        owner = hydrasweep.trial().{owner}
        def fail(*args, **kwargs):
            del owner.{name}
            raise optuna.exceptions.StorageInternalError("no answer")
        if cfg.x < 0 and not os.path.exists("failed"):
            open("failed", "w").close()
            owner.{name} = fail
        hydrasweep.report(cfg.x, 1)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 4
    (lost,) = done.lost()
    assert lost.params in [trial.params for trial in done.trials()]


def test_storage_that_refuses_to_write_for_good_ends_the_sweep(app: Callable[..., App]) -> None:
    body = """
        def fail(*args, **kwargs):
            raise optuna.exceptions.StorageInternalError("no room")
        hydrasweep.trial().storage.set_trial_intermediate_value = fail
        hydrasweep.report(cfg.x, 1)
    """
    more = """
import hydrasweep.launch
import hydrasweep.worker

hydrasweep.launch.MAX_BARREN_LAUNCHES = 2
hydrasweep.worker.OUTAGE_SECONDS = 0.1
"""
    done = app(body, more=more)()
    assert done.code == 1
    assert "no room" in done.err
    assert "Traceback" not in done.err


def test_worker_goes_on_after_a_trial_that_others_took_for_lost(app: Callable[..., App]) -> None:
    body = """
        study = optuna.load_study(study_name="s", storage="sqlite:///sweep/study.db")
        if len(study.trials) == 3:
            study.tell(2, state=optuna.trial.TrialState.FAIL)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 2 + ["FAIL", "COMPLETE"]
    assert ERROR not in done.trials()[2].user_attrs


@pytest.mark.slow
def test_storage_that_fails_for_a_while_hangs_nothing(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        import subprocess
        if cfg.x < 0 and not os.path.exists("locked"):
            open("locked", "w").close()
            holder = [sys.executable, "hold.py"]
            subprocess.Popen(holder, stdout=subprocess.PIPE).stdout.readline()
        return cfg.x
    """
    (tmp_path / "hold.py").write_text(
        "import pathlib, sqlite3, time\n"
        "connection = sqlite3.connect('sweep/study.db')\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('held', flush=True)\n"
        "while not pathlib.Path('let_go').exists():\n"
        "    time.sleep(0.1)\n"
    )
    task = app(body)
    storage = "hydra.sweeper.storage='sqlite:///sweep/study.db?timeout=0.1'"
    done = task(storage)
    assert done.code == 1
    assert done.err.startswith("Error: hydra.sweeper.storage failed (OperationalError: database is")
    assert len(done.err.splitlines()) == 1
    assert done.states().count("COMPLETE") < 4
    (tmp_path / "let_go").touch()
    time.sleep(1)
    done = task(storage)
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 4


# What a trial prints and logs


def test_output_of_a_trial_goes_to_its_log_and_not_to_the_screen(app: Callable[..., App]) -> None:
    body = """
        import logging
        logging.getLogger(__name__).info("logs %s", cfg.x)
        print("prints", cfg.x)
        print("complains", cfg.x, file=sys.stderr)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    shown = done.out + done.err
    assert not {word for word in ("logs", "prints", "complains") if f"{word} " in shown}
    for trial in done.trials():
        log = done.log(f"{trial.number:03d}")
        for word in ("logs", "prints", "complains"):
            assert log.count(f"{word} {trial.params['x']}") == 1, log


OTHER_OUTPUT = """
    import ctypes
    os.write(1, b"by its number\\n")
    os.system("echo by a shell; echo complains >&2")
    ctypes.CDLL(None).printf(b"in C\\n")
    print("prints")
    return cfg.x
"""


def check_other_output(done: Ended) -> None:
    assert done.code == 0, done.err
    events = [line for line in done.out.splitlines() if " 0 steps " in line]
    assert [line.split()[2] for line in events] == ["COMPLETE"] * 2
    for trial in done.trials():
        log = done.log(f"{trial.number:03d}")
        for word in ("by its number", "by a shell", "complains", "in C", "prints"):
            assert log.count(word) == 1, log
            assert word not in done.out + done.err


def test_output_of_subprocesses_and_c_goes_to_the_trials_log(app: Callable[..., App]) -> None:
    """The plan comes before the trials, and what is said of them comes to the screen."""
    done = app(OTHER_OUTPUT, main="task(); print('after')")("hydra.sweeper.n_trials=2")
    check_other_output(done)
    assert done.out.startswith("Study s: 2 trials")
    assert done.out.endswith("after\n")


@pytest.mark.slow
def test_output_of_subprocesses_and_c_in_a_worker_goes_to_the_trials_log(
    app: Callable[..., App],
) -> None:
    words = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "hydra.sweeper.n_trials=2")
    check_other_output(app(OTHER_OUTPUT)(*words, fresh=True))


FORK = """
    if os.fork() == 0:
        if cfg.x < 0:
            raise RuntimeError("the child's")
        return 7.0
    os.wait()
    return cfg.x
"""


def check_children_that_return(done: Ended) -> None:
    assert done.code == 0, done.err
    assert [trial.value for trial in done.trials()] == [t.params["x"] for t in done.trials()]
    assert len(done.study().trials) == 4
    assert done.out.count("Trials: 4 COMPLETE") == 1
    for trial in done.trials():
        told = "RuntimeError: the child's" in done.log(f"{trial.number:03d}")
        assert told == (trial.params["x"] < 0)


def test_child_that_comes_back_from_the_task_function_ends(app: Callable[..., App]) -> None:
    check_children_that_return(app(FORK)())


@pytest.mark.slow
def test_child_of_a_worker_that_comes_back_from_the_task_function_ends(
    app: Callable[..., App],
) -> None:
    words = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")
    check_children_that_return(app(FORK)(*words, fresh=True))


def test_apps_own_logging_is_left_as_it_set_it(app: Callable[..., App]) -> None:
    """A file of another name beside the console, as in templates with a logging of their own."""
    body = """
        import logging
        logging.getLogger(__name__).info("logs %s", cfg.x)
        return cfg.x
    """
    config = CONFIG.replace(
        "hydra:\n",
        "hydra:\n  job_logging:\n    handlers:\n"
        "      file: {filename: '${hydra.runtime.output_dir}/own.log'}\n",
    )
    done = app(body, config)("hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    for trial in done.trials():
        own = done.folder / "sweep" / f"{trial.number:03d}" / "own.log"
        assert own.read_text().count(f"logs {trial.params['x']}") == 1
