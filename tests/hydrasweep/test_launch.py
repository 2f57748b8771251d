"""Workers that a launcher launches: what they find, that none waits, and what their deaths cost."""

import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from apps import App
from optuna.trial import TrialState

from hydrasweep.launch import python_path
from hydrasweep.liveness import OWNER
from hydrasweep.stratum import RETRIES
from hydrasweep.studies import MAX_RETRIES

TWO = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")


def test_new_processes_find_what_this_one_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/some/where", *sys.path, "/some/where", os.__file__])
    found = python_path().split(os.pathsep)
    assert found[:2] == [str(tmp_path), "/some/where"]
    assert found.count("/some/where") == 1
    assert all(Path(path).is_absolute() for path in found)
    assert not [path for path in found if path.endswith("site-packages")]


def test_workers_share_the_trials_and_find_a_module_beside_the_app(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        import beside
        import pathlib
        me = pathlib.Path(f"worker-{os.getpid()}")
        me.touch()
        while len(list(me.parent.glob("worker-*"))) < 2:
            time.sleep(0.05)
        hydrasweep.record(pid=os.getpid())
        return beside.double(cfg.x)
    """
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    main = "before = dict(os.environ); task(); print('left', dict(os.environ) == before)"
    done = app(body, main=f"import joblib; {main}")(*TWO, fresh=True)
    assert done.code == 0, done.err
    assert "left True" in done.out
    assert [trial.value for trial in done.trials()] == [2 * t.params["x"] for t in done.trials()]
    assert len({row["pid"] for row in done.table()}) == 2
    assert "beside" not in done.out + done.err


@pytest.mark.slow
def test_no_worker_waits_for_another(app: Callable[..., App]) -> None:
    lengths = [0.5, 3.0, 0.6, 2.5, 0.7, 2.0, 0.8, 1.5, 0.9, 1.0, 0.4, 2.9, 0.3, 2.4, 1.6]
    points = ",".join(f"{{x: {length}}}" for length in lengths)
    done = app("time.sleep(cfg.x)\nreturn cfg.x")(
        *TWO, "x=interval(0,3)",
        f"hydra.sweeper.n_trials={len(lengths)}", f"hydra.sweeper.enqueue=[{points}]",
        fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    spans: dict[str, list[tuple[Any, Any]]] = {}
    for trial in sorted(done.trials(), key=lambda trial: trial.datetime_start):  # type: ignore[arg-type,return-value]
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
        # As batches they would wait a third of it.
        assert idle <= 0.15 * (none_left - both_began).total_seconds()


@pytest.mark.slow
def test_trial_that_kills_its_worker_fails_alone(app: Callable[..., App]) -> None:
    body = """
        time.sleep(1.5 if cfg.x < 0.5 else 0.5)  # joblib kills whoever works beside it
        if cfg.x > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return cfg.x
    """
    done = app(body)(
        *TWO, "x=interval(-1.0, 0.8)", "hydra.sweeper.n_trials=6",
        "hydra.sweeper.enqueue=[{x: 0.75}, {x: 0.8}]", fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "A worker was lost (TerminatedWorkerError)" in done.out
    assert len(done.trials()) == 6
    for trial in done.trials():
        deadly = trial.params["x"] > 0.5
        assert trial.state == (TrialState.FAIL if deadly else TrialState.COMPLETE)
    assert "FAIL" in done.states()
    assert TrialState.RUNNING not in {trial.state for trial in done.study().trials}


@pytest.mark.slow
def test_worker_that_is_killed_or_interrupted_once_costs_no_trial(app: Callable[..., App]) -> None:
    """By the kernel, by a cluster, or by a KeyboardInterrupt of a library's."""
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
    assert "A worker was lost" in done.out


@pytest.mark.slow
def test_workers_that_die_before_any_trial_ends_stop_the_sweep(
    app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--process-name' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), path]))
    task = app("return cfg.x")
    done = task(*TWO, fresh=True)
    assert done.code == 1
    assert re.match(r"Error: the workers were lost .*\. To resume: python app\.py", done.err)
    assert "Traceback" not in done.out + done.err
    assert done.states() == ["WAITING"] * 4
    (tmp_path / "sitecustomize.py").unlink()
    done = task(*TWO, fresh=True)
    assert done.code == 0, done.err
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
    ("owner", "name"),
    [("worker", "configure_log"), ("Studies", "take"), ("DefaultDialect", "do_rollback")],
)
def test_sweep_that_is_terminated_between_two_trials_ends_in_one_sentence(
    app: Callable[..., App], owner: str, name: str
) -> None:
    """Also while a connection goes back to SQLAlchemy's pool, and when a trial is just taken."""
    task = app("return cfg.x", more=BETWEEN.replace("OWNER", owner).replace("NAME", name))
    done = task()
    assert done.code == 143
    assert done.err.startswith("Terminated. To resume: python app.py -m ")
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.out
    assert done.states() == ["COMPLETE"] + ["WAITING"] * 3
    assert all(trial.user_attrs[RETRIES] == 0 for trial in done.trials()[1:])


def test_next_start_tells_which_trial_ended_the_process(app: Callable[..., App]) -> None:
    """The only worker is the sweep's own process, which can't tell of its end."""
    task = app("if cfg.x < 0: os._exit(3)\nreturn cfg.x")
    done = task()
    assert done.code == 3
    for _ in range(MAX_RETRIES):
        assert "RUNNING" in [trial.state.name for trial in done.trials()]
        done = task()
        (told,) = (line for line in done.out.splitlines() if " lost: " in line)
        assert told.endswith(" lost: its process died; its settings are tried again")
        assert done.code == 3
    done = task("hydra.sweeper.n_trials=3")
    (told,) = (line for line in done.out.splitlines() if " FAIL " in line)
    assert told.endswith(" FAIL its process died each time")
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE", "FAIL", "COMPLETE"]
    assert done.trials()[1].user_attrs[RETRIES] == MAX_RETRIES
