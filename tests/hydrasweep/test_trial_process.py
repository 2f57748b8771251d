"""What the process of a trial does: its return value, its output and its log."""

import math

import numpy as np
import pytest
from apps import CONFIG
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hydrasweep.stratum import WHY
from hydrasweep.trial_process import as_values

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


# Output, child processes and logs


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


@pytest.mark.parametrize(
    "asks", ["input('go on? ')", "breakpoint()", "sys.stdin.buffer.read(1)[0]"]
)
def test_trial_that_waits_for_a_person_fails_at_once(app, asks):
    done = app(f"{asks}\nreturn cfg.x")("hydra.sweeper.n_trials=1", code=1)
    (trial,) = done.trials()
    assert trial.state == TrialState.FAIL
    assert "IndexError" in trial.user_attrs[WHY] or "standard input" in trial.user_attrs[WHY]


RANKS = """
import multiprocessing

def rank(call):
    try:
        {"report": lambda: hydrasweep.report(0.5, 1), "record": lambda: hydrasweep.record(a=1.0),
         "trial": hydrasweep.trial}[call]()
    except RuntimeError as error:
        sys.exit(17)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("call", ["report", "record", "trial"])
def test_only_the_process_of_the_trial_reports(app, method, call):
    body = f"""
        process = multiprocessing.get_context("{method}").Process(target=rank, args=("{call}",))
        process.start()
        process.join()
        assert process.exitcode == 17, process.exitcode
        assert not hydrasweep.report(cfg.x, 1)
        return cfg.x
    """
    done = app(body, more=RANKS)("hydra.sweeper.n_trials=1", fresh=True, code=0)
    assert done.trials()[0].intermediate_values == {1: done.trials()[0].params["x"]}


def test_log_begins_with_the_first_byte_and_has_each_line_once(app, tmp_path):
    """Also what the app's callbacks print."""
    config = CONFIG.replace("hydra:\n", "hydra:\n  callbacks: {own: {_target_: own.Own}}\n", 1)
    (tmp_path / "own.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Own(Callback):\n"
        "    def on_job_start(self, config, **kwargs):\n"
        "        print('before', flush=True)\n"
        "    def on_job_end(self, config, **kwargs):\n"
        "        print('after', flush=True)\n"
    )
    body = "import logging\nlogging.getLogger().info('inside')\nreturn cfg.x"
    done = app(body, config)("hydra.sweeper.n_trials=2", fresh=True, code=0)
    for name in ("000", "001"):
        before, inside, after = done.log(name).splitlines()
        assert (before, after) == ("before", "after")
        assert "inside" in inside
    assert "before" not in done.out
