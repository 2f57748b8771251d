"""What workers do with return values, failures and output of task functions."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from apps import CONFIG, SQLITE
from omegaconf import OmegaConf
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hydrasweep.plan import Plan
from hydrasweep.space import Space
from hydrasweep.storage import close_storages
from hydrasweep.stratum import ERROR, WHERE, WHY
from hydrasweep.worker import as_values, too_many_failures

MINIMIZE, MAXIMIZE = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE

# Return values


@pytest.mark.parametrize(
    ("value", "values"),
    [
        (1, [1.0]),
        (0.5, [0.5]),
        (np.float32(0.5), [0.5]),
        ("2", [2.0]),
        ([0.5], [0.5]),
        ((1, 2.5), [1.0, 2.5]),
    ],
)
def test_numbers_are_objectives(value, values):
    assert as_values(value, [MINIMIZE] * len(values)) == values


@pytest.mark.parametrize("value", [None, "abc", math.nan, [1, 2], [], {"a": 1}])
def test_other_values_are_refused_with_what_was_expected(value):
    for wrong, n in ((value, 1), (1.0, 2), ([1, math.nan], 2)):
        with pytest.raises(ValueError, match=f"{n} number") as error:
            as_values(wrong, [MINIMIZE] * n)
        assert repr(wrong) in str(error.value)


def test_objective_may_be_infinitely_bad_but_not_infinitely_good():
    inf = math.inf
    assert as_values(inf, [MINIMIZE]) == [inf]
    assert as_values(-inf, [MAXIMIZE]) == [-inf]
    assert as_values([inf, -inf], [MINIMIZE, MAXIMIZE]) == [inf, -inf]
    for value, directions in ((-inf, [MINIMIZE]), (inf, [MAXIMIZE]), ([1, inf], [MAXIMIZE] * 2)):
        with pytest.raises(ValueError, match="inf") as error:
            as_values(value, directions)
        assert repr(value) in str(error.value)


def test_diverged_trial_is_the_worst_one_also_in_the_report(app):
    task = app("return math.inf if cfg.x > 0.7 else -math.inf if cfg.x < -0.5 else cfg.x")
    done = task("hydra.sweeper.report=true", code=0)
    (failed,) = (t for t in done.trials() if t.state == TrialState.FAIL)
    assert "-inf" in failed.user_attrs[WHY]
    assert next(trial.value for trial in done.trials() if trial.values) == math.inf
    assert math.isfinite(done.study().best_value)
    assert (done.folder / "sweep" / "report.html").exists()


# The number of failures that a sweep accepts


@pytest.fixture
def plan(tmp_path):
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
    journal = {"_target_": "optuna.storages.journal.JournalFileBackend"}
    storage = {
        "_target_": "optuna.storages.JournalStorage",
        "log_storage": {**journal, "file_path": f"{tmp_path}/journal"},
    }
    yield Plan(
        name="s",
        settings=OmegaConf.create(settings),
        space=Space.parse(["model=cnn,lenet5", "x=interval(0,1)"], "model"),
        storage=OmegaConf.create(storage),
        parent={},
    )
    close_storages()


def ran(plan, *ends):
    """Studies with a trial for each end: a value, None if it is pruned, and "Boom: 1" if it failed
    with a Boom that line 1 raised. Many other trials have not begun."""
    studies = plan.open()
    studies.fill(100)
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


def reason(studies, plan, **limits):
    """Why a sweep with these limits is to stop."""
    settings = OmegaConf.merge(plan.settings, limits)
    return too_many_failures(studies, replace(plan, settings=settings))


@pytest.mark.parametrize(
    ("ends", "limits", "text"),
    [
        # Without a limit three equal failures are too many, before any trial ends otherwise.
        (("E: 1", "E: 1", "E: 1"), {}, "E: 1"),
        (("E: 1", "E: 1", "E: 2"), {}, ""),
        (("E: 1", "E: 1", "F: 1"), {}, ""),
        (("E: 1", "E: 1", "E: 1", 0.5), {}, ""),
        (("E: 1", "E: 1", "E: 1", None), {}, ""),
        (("E: 1", "E: 1"), {}, ""),
        # A limit is the largest number, or the largest share of the finished trials.
        ((0.5, "E: 1", "E: 2", 0.5), {"max_failures": 2}, ""),
        ((0.5, "E: 1", "E: 2", 0.5), {"max_failures": 1}, "max_failures=1"),
        ((0.5, "E: 1", "E: 2", 0.5), {"max_failures": 0}, "max_failures=0"),
        ((0.5, "E: 1", "E: 2", None), {"max_failure_rate": 0.5}, ""),
        ((0.5, "E: 1", "E: 2", None), {"max_failure_rate": 0.4}, "2 of 4"),
        # A limit that is set is the only one.
        (("E: 1", "E: 1", "E: 1"), {"max_failures": 3}, ""),
        (("E: 1", "E: 1", "E: 1"), {"max_failure_rate": 1.0}, ""),
    ],
)
def test_failures_that_are_too_many_stop_the_sweep(plan, ends, limits, text):
    found = reason(ran(plan, *ends), plan, **limits)
    assert bool(found) == bool(text)
    assert text in found


def test_requeued_trials_do_not_count_as_failures(plan):
    studies = ran(plan, 0.5, "E: 1")
    taken = studies.take({})
    assert taken is not None
    studies.requeue(taken[0], taken[1].number, "it was interrupted", counts=False)
    assert reason(studies, plan, max_failures=1) == ""
    assert "max_failures=0" in reason(studies, plan, max_failures=0)


# Failures in whole sweeps


def test_failing_trials_fail_alone_and_keep_the_error(app):
    """A trial fails by any error, and by a return value that is not a number."""
    body = """
        if cfg.kind in ("RuntimeError", "GeneratorExit", "Own"):
            raise {**vars(builtins), "Own": Own}[cfg.kind](f"{cfg.x} is wrong")
        if cfg.kind == "SystemExit":
            sys.exit(f"{cfg.x} is wrong")
        return {"nan": math.nan, "None": None, "list": [1.0, 2.0], "a": 1}[cfg.kind]
    """
    errors = ("RuntimeError", "GeneratorExit", "Own", "SystemExit")
    values = {"nan": "nan", "None": "None", "list": "[1.0, 2.0]"}
    kinds = [f"'{kind}'" for kind in ("a", *errors, *values)]
    done = app(body, more="import builtins\nclass Own(BaseException): pass")(
        f"kind=choice({','.join(kinds)})",
        f"hydra.sweeper.enqueue=[{','.join(f'{{kind: {kind}}}' for kind in kinds)}]",
        f"hydra.sweeper.n_trials={len(kinds)}",
        code=0,
    )
    assert "Traceback" not in done.out + done.err
    assert done.states() == ["COMPLETE"] + ["FAIL"] * len(kinds[1:])
    for trial in done.trials()[1:]:
        kind, kept = trial.params["kind"], [trial.user_attrs[ERROR]]
        if kind in errors:
            kept.append(done.log(f"{trial.number:03d}"))
        for text in kept:
            assert values.get(kind, f"{kind}: {trial.params['x']} is wrong") in text
            assert kind in values or "in task" in text
    assert {trial.params["kind"] for trial in done.trials()} == {"a", *errors, *values}


def test_first_three_equal_failures_end_the_sweep(app):
    """Failures are equal if the same line raises them: their messages may hold numbers."""
    done = app("raise RuntimeError(f'no {cfg.x}')")(code=1)
    assert sorted(done.states()) == ["FAIL"] * 3 + ["WAITING"]
    assert "RuntimeError: no " in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.out + done.err


def test_more_failures_than_max_failures_end_the_sweep(app):
    done = app('raise RuntimeError(f"{cfg.x}")')("hydra.sweeper.max_failures=1", code=1)
    for text in ("max_failures=1", "RuntimeError: "):
        assert text in done.err
    assert sorted(done.states()) == ["FAIL"] * 2 + ["WAITING"] * 2


def test_outage_stops_the_sweep_and_fails_no_trial(app, tmp_path):
    body = """
        if cfg.x < 0 and not os.path.exists("repaired"):
            raise OSError(28, "No space left")
        return cfg.x
    """
    task = app(body)
    done = task(code=1)
    assert done.err.startswith("Error: ")
    assert "No space left" in done.err
    assert "python app.py -m hydra.sweeper.study_name=s" in done.err
    assert "Traceback" not in done.out + done.err
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    (tmp_path / "repaired").touch()
    done = task(code=0)
    assert done.states() == ["COMPLETE"] * 4


def test_clock_that_is_set_back_does_no_harm(app):
    body = """
        import psutil
        from optuna.storages.journal import _storage as storage
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
    done = app(body, more=more)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert min(float(row["duration_s"]) for row in done.table()) >= 0
    assert any(t.duration.total_seconds() < 0 for t in done.trials() if t.duration)


FAST_RETRIES = """
import hydrasweep.launch
import hydrasweep.worker

hydrasweep.launch.MAX_BARREN_LAUNCHES = 2
hydrasweep.worker.OUTAGE_SECONDS = 0.01
"""


def test_trials_are_requeued_when_the_storage_fails_for_a_moment(app):
    body = """
        trial = hydrasweep.trial()
        calls = {0: (trial.storage, "set_trial_intermediate_value"), 1: (trial.study, "tell")}
        owner, name = calls.get(trial.number, (None, ""))
        def fail(*args, **kwargs):
            delattr(owner, name)
            raise optuna.exceptions.StorageInternalError("no answer")
        if owner:
            setattr(owner, name, fail)
        hydrasweep.report(cfg.x, 1)
        return cfg.x
    """
    done = app(body, more=FAST_RETRIES)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert [trial.number for trial in done.lost()] == [0, 1]
    assert all(t.params in [trial.params for trial in done.trials()] for t in done.lost())


def test_storage_that_cannot_be_written_ends_the_sweep(app):
    body = """
        def fail(*args, **kwargs):
            raise optuna.exceptions.StorageInternalError("no room")
        hydrasweep.trial().storage.set_trial_intermediate_value = fail
        hydrasweep.report(cfg.x, 1)
    """
    done = app(body, more=FAST_RETRIES)(code=1)
    assert "no room" in done.err
    assert "Traceback" not in done.err


def test_worker_continues_after_another_process_ended_its_trial(app):
    body = """
        from optuna.storages import JournalStorage, journal
        storage = JournalStorage(journal.JournalFileBackend("sweep/study.journal"))
        study = optuna.load_study(study_name="s", storage=storage)
        if len(study.trials) == 3:
            study.tell(2, state=optuna.trial.TrialState.FAIL)
        return cfg.x
    """
    done = app(body)(code=0)
    assert done.states() == ["COMPLETE"] * 2 + ["FAIL", "COMPLETE"]
    assert ERROR not in done.trials()[2].user_attrs


@pytest.mark.slow
def test_storage_that_is_locked_for_long_stops_the_sweep(app, tmp_path):
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
    task = app(body, more=FAST_RETRIES)
    storage = (SQLITE, "hydra.sweeper.storage.url='sqlite:///sweep/study.db?timeout=0.1'")
    done = task(*storage, code=1)
    assert done.err.startswith("Error: hydra.sweeper.storage")
    assert "OperationalError: database is locked" in done.err
    assert len(done.err.splitlines()) == 1
    assert done.states().count("COMPLETE") < 4
    (tmp_path / "let_go").touch()
    time.sleep(1)
    done = task(*storage, code=0)
    assert done.states() == ["COMPLETE"] * 4


# Output, child processes and logs of trials


WRITES = """
    import ctypes
    import logging
    logging.getLogger(__name__).info("logs %s", cfg.x)
    print("prints", cfg.x)
    print("complains", cfg.x, file=sys.stderr)
    os.write(1, b"by its number\\n")
    os.system("echo by a shell; echo a shell complains >&2")
    ctypes.CDLL(None).printf(b"in C\\n")
    if os.fork() == 0:
        if cfg.x < 0:
            raise RuntimeError("the child's")
        return 7.0
    os.wait()
    return cfg.x
"""


def check_logs(done):
    """Output of trials is in their logs and not on the screen, which has a line for each trial.
    Child processes that return from the task function have ended there."""
    assert done.code == 0, done.err
    assert len(done.study().trials) == 4
    assert done.out.count("4 COMPLETE") == 1
    events = [line for line in done.out.splitlines() if " 0 steps " in line]
    assert [line.split()[2] for line in events] == ["COMPLETE"] * 4
    for trial in done.trials():
        log, x = done.log(f"{trial.number:03d}"), trial.params["x"]
        assert trial.value == x
        assert ("RuntimeError: the child's" in log) == (x < 0)
        for text in ("by its number", "by a shell", "a shell complains", "in C"):
            assert log.count(text) == 1, log
            assert text not in done.out + done.err
        for text in (f"logs {x}", f"prints {x}", f"complains {x}"):
            assert log.count(text) == 1, log
            assert text not in done.out + done.err


def test_output_of_trials_and_their_children_goes_to_the_trials_logs(app):
    done = app(WRITES, main="task(); print('after')")()
    check_logs(done)
    assert done.out.startswith("Study s: 4 trials")
    assert done.out.endswith("after\n")


@pytest.mark.slow
def test_output_of_trials_in_workers_goes_to_the_trials_logs(app):
    workers = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")
    check_logs(app(WRITES)(*workers, fresh=True))


def test_logging_that_an_app_configures_stays_as_it_is(app):
    """Here to a file of another name beside the console, as in many templates."""
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
    done = app(body, config)("hydra.sweeper.n_trials=2", code=0)
    for trial in done.trials():
        own = done.folder / "sweep" / f"{trial.number:03d}" / "own.log"
        assert own.read_text().count(f"logs {trial.params['x']}") == 1
