"""What workers do when trials fail, storages fail and trials take too long."""

import signal
import time
from dataclasses import replace

import pytest
from apps import SQLITE
from omegaconf import OmegaConf
from optuna.trial import TrialState

from hydrasweep.plan import Plan
from hydrasweep.space import Space
from hydrasweep.storage import close_storages
from hydrasweep.stratum import ERROR, RETRIES, WHERE, WHY
from hydrasweep.studies import MAX_RETRIES
from hydrasweep.worker import too_many_failures

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
    studies.requeue(taken[0], taken[1].number, "it was interrupted", counts=False, is_own=True)
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
    more = """
from datetime import datetime, timedelta
from itertools import count

import psutil
from optuna.storages.journal import _storage

hours = count()

class Earlier(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(hours=next(hours))

_storage.datetime = Earlier
psutil._psplatform.boot_time = lambda: 3600.0 * next(hours)
"""
    done = app("return cfg.x", more=more)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert min(float(row["duration_s"]) for row in done.table()) >= 0
    assert any(t.duration.total_seconds() < 0 for t in done.trials() if t.duration)


FAST_RETRIES = """
import hydrasweep.worker

hydrasweep.worker.OUTAGE_SECONDS = 0.01
"""


def test_trial_is_repeated_when_the_storage_fails_in_its_process(app):
    body = """
        trial = hydrasweep.trial()
        def fail(*args, **kwargs):
            raise optuna.exceptions.StorageInternalError("no answer")
        if trial.number == 0:
            trial.storage.set_trial_intermediate_value = fail
        hydrasweep.report(cfg.x, 1)
        return cfg.x
    """
    done = app(body, more=FAST_RETRIES)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    (lost,) = done.lost()
    assert (lost.number, lost.params) == (0, done.trials()[0].params)


def test_worker_tells_again_what_the_storage_did_not_take(app):
    more = """
from optuna.study import Study

tell = Study.tell

def fail_once(self, trial, *args, **kwargs):
    if self.study_name != "s":  # one in which the sampler is tried
        return tell(self, trial, *args, **kwargs)
    Study.tell = tell
    raise optuna.exceptions.StorageInternalError("no answer")

Study.tell = fail_once
"""
    done = app("return cfg.x", more=FAST_RETRIES + more)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert done.lost() == []


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


# Signs of life


def test_worker_gives_signs_of_life_of_all_its_trials(app):
    body = """
        trial = hydrasweep.trial()
        beats = lambda: trial.study.trials[trial.number].user_attrs.get("hydrasweep.beat", 0)
        until = time.monotonic() + 20
        while beats() < 3:
            assert time.monotonic() < until
            time.sleep(0.05)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.heartbeat=0.1", "hydra.sweeper.n_workers=2", code=0)
    assert done.states() == ["COMPLETE"] * 4


def test_process_of_a_trial_that_others_have_requeued_is_ended(app):
    body = """
        trial = hydrasweep.trial()
        if trial.number == 0:
            trial.study.tell(0, state=optuna.trial.TrialState.FAIL)
            time.sleep(60)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.heartbeat=0.1", code=0)
    assert done.states() == ["FAIL"] + ["COMPLETE"] * 3


# Signals and time limits


KINDS = ("SIGKILL", "SIGTERM", "SIGUSR2", "KeyboardInterrupt")


@pytest.mark.parametrize("kind", KINDS)
def test_trial_that_is_ended_from_outside_is_repeated(app, kind):
    """The kernel, a cluster or a library's KeyboardInterrupt may end a trial's process."""
    body = f"""
        if not os.path.exists("ended"):
            open("ended", "w").close()
            if "{kind}" == "KeyboardInterrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.{kind if kind in KINDS[:3] else "SIGTERM"})
            time.sleep(60)
        return cfg.x
    """
    done = app(body)(code=0)
    assert done.states() == ["COMPLETE"] * 4
    (lost,) = done.lost()
    assert (lost.number, lost.state) == (0, TrialState.FAIL)
    assert lost.params == done.trials()[0].params
    assert "Traceback" not in done.out + done.err


def test_trial_that_is_killed_each_time_fails_and_says_why(app):
    """As one that needs more memory than there is."""
    done = app("if cfg.x < 0: os.kill(os.getpid(), signal.SIGKILL)\nreturn cfg.x")(
        "hydra.sweeper.n_trials=2", code=0
    )
    assert done.states() == ["COMPLETE", "FAIL"]
    assert len(done.lost()) == MAX_RETRIES == done.trials()[1].user_attrs[RETRIES]
    (line,) = (line for line in done.out.splitlines() if " FAIL " in line)
    assert "SIGKILL" in line


QUIET = """
import faulthandler

faulthandler.disable()  # pytest's
"""


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os._exit(3)", "exit code 3"),
        ("os._exit(0)", "exit code 0"),
    ],
)
def test_trial_whose_process_crashes_fails_alone(app, how, why):
    done = app(f"if cfg.x < -0.5: {how}\nreturn cfg.x", more=QUIET)(
        "hydra.sweeper.n_workers=2", code=0
    )
    assert sorted(done.states()) == ["COMPLETE"] * 3 + ["FAIL"]
    (failed,) = (trial for trial in done.trials() if trial.state == TrialState.FAIL)
    assert why in failed.user_attrs[WHY]
    assert done.lost() == []


CATCHES = {
    "returns": "return cfg.x",
    "exits": "sys.exit(1)",
    "raises": "raise RuntimeError",
    "prunes": "raise optuna.TrialPruned",
}


@pytest.mark.parametrize("how", CATCHES)
def test_trial_that_was_interrupted_is_repeated_whatever_its_task_function_does(app, how):
    body = f"""
        if cfg.x < 0 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            try:
                end_sweep(signal.SIGINT)
            except KeyboardInterrupt:
                {CATCHES[how]}
        return cfg.x
    """
    task = app(body)
    done = task(code=130)
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    done = task(code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert [trial.user_attrs[RETRIES] for trial in done.trials()[1:2]] == [0]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_running_trials_get_the_signal_and_can_save_their_state(app, tmp_path, name):
    """All of them, also one that handles the signal itself."""
    body = f"""
        def save(signum, frame):
            open(f"saved-{{hydrasweep.trial().number}}", "w").write(signal.Signals(signum).name)
            sys.exit(1)
        signal.signal(signal.{name}, save)
        meet(2)
        if hydrasweep.trial().number == 0:
            end_sweep(signal.{name})
        time.sleep(60)
    """
    done = app(body)("hydra.sweeper.n_workers=2", code=128 + signal.Signals[name])
    assert [(tmp_path / f"saved-{i}").read_text() for i in range(2)] == [name] * 2
    assert done.states() == ["WAITING"] * 4


IGNORES = """
    def ignore(signum, frame):
        open("ignored", "w").close()
    for each in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, ignore)
    until = time.monotonic() + 60
    while time.monotonic() < until and cfg.x < -0.5:
        try:
            time.sleep(60)
        except BaseException:
            pass
    return cfg.x
"""


def test_trial_that_ignores_signals_is_ended_at_its_time_limit(app):
    done = app(IGNORES)("hydra.sweeper.trial_timeout=1.5", "hydra.sweeper.grace_period=0.5", code=0)
    assert done.states() == ["COMPLETE"] * 3 + ["FAIL"]
    why = done.trials()[3].user_attrs[WHY]
    assert "trial_timeout=1.5" in why
    assert (done.folder / "ignored").exists()
    assert 1.5 <= float(done.table()[3]["duration_s"]) < 30


def test_interrupted_sweep_ends_after_the_grace_period(app):
    body = IGNORES.replace("    until =", "    if cfg.x < -0.5: os.kill(MAIN, 2)\n    until =")
    began = time.monotonic()
    done = app(body)("hydra.sweeper.grace_period=0.5", code=130)
    assert time.monotonic() - began < 30
    assert done.states() == ["COMPLETE"] * 3 + ["WAITING"]


def test_trial_may_use_the_alarm_and_end_itself_by_it(app):
    body = """
        def beat(signum, frame):
            raise ValueError("my own alarm")
        signal.signal(signal.SIGALRM, beat)
        signal.alarm(1)
        time.sleep(20)
    """
    done = app(body)("hydra.sweeper.trial_timeout=30", "hydra.sweeper.n_trials=1", code=1)
    assert "my own alarm" in done.trials()[0].user_attrs[WHY]
