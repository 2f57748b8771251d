"""Workers of a launcher: what they import, how they share trials, and their deaths."""

import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from hydrasweep.launch import python_path
from hydrasweep.liveness import OWNER
from hydrasweep.stratum import RETRIES
from hydrasweep.studies import MAX_RETRIES

TWO = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")


def test_new_processes_can_import_what_this_one_can(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/some/where", *sys.path, "/some/where", os.__file__])
    found = python_path().split(os.pathsep)
    assert found[:2] == [str(tmp_path), "/some/where"]
    assert found.count("/some/where") == 1
    assert all(Path(path).is_absolute() for path in found)
    assert not [path for path in found if path.endswith("site-packages")]


@pytest.mark.slow
def test_workers_do_not_wait_for_each_other(app):
    lengths = [0.5, 3.0, 0.6, 2.5, 0.7, 2.0, 0.8, 1.5, 0.9, 1.0, 0.4, 2.9, 0.3, 2.4, 1.6]
    points = ",".join(f"{{x: {length}}}" for length in lengths)
    done = app("time.sleep(cfg.x)\nreturn cfg.x")(
        *TWO, "x=interval(0,3)",
        f"hydra.sweeper.n_trials={len(lengths)}", f"hydra.sweeper.enqueue=[{points}]",
        fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    spans: dict[str, list[tuple[Any, Any]]] = {}
    for trial in sorted(done.trials(), key=lambda trial: trial.datetime_start):
        span = (trial.datetime_start, trial.datetime_complete)
        spans.setdefault(trial.user_attrs[OWNER]["pid"], []).append(span)
    assert len(spans) == 2
    both_began = max(of_one[0][0] for of_one in spans.values())
    none_left = max(of_one[-1][0] for of_one in spans.values())
    for of_one in spans.values():
        idle = sum(
            max(0.0, (min(later, none_left) - max(ended, both_began)).total_seconds())
            for (_, ended), (later, _) in pairwise(of_one)
        )
        # In batches, workers would be idle for a third of the time.
        assert idle <= 0.15 * (none_left - both_began).total_seconds()


@pytest.mark.slow
def test_trial_that_kills_its_worker_fails_alone(app):
    body = """
        time.sleep(1.5 if cfg.x < 0.5 else 0.5)  # joblib kills the other worker, too
        if cfg.x > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return cfg.x
    """
    done = app(body, more="import hydrasweep.studies\nhydrasweep.studies.MAX_RETRIES = 1")(
        *TWO, "x=interval(-1.0, 0.8)", "hydra.sweeper.n_trials=6",
        "hydra.sweeper.enqueue=[{x: 0.75}, {x: 0.8}]", fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "TerminatedWorkerError" in done.out
    assert len(done.trials()) == 6
    for trial in done.trials():
        deadly = trial.params["x"] > 0.5
        assert trial.state == (TrialState.FAIL if deadly else TrialState.COMPLETE)
    assert "FAIL" in done.states()
    assert TrialState.RUNNING not in {trial.state for trial in done.study().trials}


@pytest.mark.slow
def test_trial_whose_worker_is_killed_or_interrupted_once_is_repeated(app):
    """The kernel, a cluster or a library's KeyboardInterrupt may end a worker."""
    body = """
        time.sleep(0.5)
        if cfg.kind != "none" and not os.path.exists(cfg.kind):
            open(cfg.kind, "w").close()
            if cfg.kind == "KeyboardInterrupt":
                raise KeyboardInterrupt
            os.kill(os.getpid(), getattr(signal, cfg.kind))
        return cfg.x
    """
    kinds = ("SIGKILL", "SIGTERM", "KeyboardInterrupt", "SIGUSR2")
    enqueue = ",".join(f"{{kind: {kind}}}" for kind in kinds)
    done = app(body)(
        *TWO, f"kind=choice(none,{','.join(kinds)})", f"hydra.sweeper.enqueue=[{enqueue}]",
        "hydra.sweeper.n_trials=8", fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 8
    assert {row["state"] for row in done.table()} == {"COMPLETE"}
    assert {t.params["kind"] for t in done.trials()} >= set(kinds)
    assert {t.state for t in done.study().trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert "Traceback" not in done.out + done.err
    assert len(done.lost()) >= len(kinds)
    assert "TerminatedWorkerError" in done.out


@pytest.mark.slow
def test_workers_that_die_before_any_trial_ends_stop_the_sweep(app, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--process-name' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), path]))
    task = app("return cfg.x")
    done = task(*TWO, fresh=True, code=1)
    assert re.match(r"Error: .*python app\.py", done.err)
    assert "Traceback" not in done.out + done.err
    assert done.states() == ["WAITING"] * 4
    (tmp_path / "sitecustomize.py").unlink()
    done = task(*TWO, fresh=True, code=0)
    assert done.states() == ["COMPLETE"] * 4


BETWEEN = """
import hydrasweep.worker as worker
import threading
from hydrasweep.studies import Studies
from sqlalchemy.engine.default import DefaultDialect

def prepare(*args, configure_log=worker.configure_log):
    worker.configure_log = configure_log
    function = OWNER.NAME

    def end(*args, **kwargs):
        result = function(*args, **kwargs)
        if threading.current_thread() is threading.main_thread():
            OWNER.NAME = function
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        return result

    OWNER.NAME = end
    worker.configure_log(*args)

worker.configure_log = prepare  # called after each trial
"""


@pytest.mark.parametrize(
    ("owner", "name", "storage"),
    [
        ("worker", "configure_log", "journal"),
        ("Studies", "take", "journal"),
        ("DefaultDialect", "do_rollback", "sqlite"),
    ],
)
def test_sweep_that_is_terminated_between_two_trials_ends_with_one_message(
    app, owner, name, storage
):
    """Also when a worker has just begun a trial, or returns a connection to SQLAlchemy's pool."""
    task = app("return cfg.x", more=BETWEEN.replace("OWNER", owner).replace("NAME", name))
    done = task(f"hydra/sweeper/storage={storage}", code=143)
    assert "python app.py -m " in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.out
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    assert all(trial.user_attrs[RETRIES] == 0 for trial in done.trials()[1:])


def test_trial_that_ends_the_process_each_time_fails(app):
    """The only worker is the sweep's own process, so the next start finds the trial."""
    task = app("if cfg.x < 0: os._exit(3)\nreturn cfg.x")
    done = task("hydra.sweeper.n_trials=2")
    for _ in range(MAX_RETRIES):
        assert done.code == 3
        assert "RUNNING" in done.states()
        done = task("hydra.sweeper.n_trials=2")
        (line,) = (line for line in done.out.splitlines() if " lost: " in line)
        assert "its process died" in line
    assert done.code == 3
    done = task("hydra.sweeper.n_trials=3", code=0)
    (line,) = (line for line in done.out.splitlines() if " FAIL " in line)
    assert "its process died" in line
    assert done.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert done.trials()[1].user_attrs[RETRIES] == MAX_RETRIES
