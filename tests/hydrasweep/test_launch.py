"""Workers that a launcher starts: how they share trials, and their deaths."""

import os
import re
from itertools import pairwise
from typing import Any

import pytest
from optuna.trial import TrialState

from hydrasweep.liveness import OWNER

TWO = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")


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
def test_trials_of_a_killed_worker_are_repeated(app):
    """The first trial kills its worker: the parent of the server that is its own parent."""
    body = """
        import psutil
        if cfg.x > 0.5 and not os.path.exists("killed"):
            open("killed", "w").close()
            psutil.Process().parent().parent().kill()
            time.sleep(60)
        return cfg.x
    """
    done = app(body)(*TWO, fresh=True, code=0)
    assert "TerminatedWorkerError" in done.out
    assert done.states() == ["COMPLETE"] * 4
    assert done.lost()
    assert TrialState.RUNNING not in {trial.state for trial in done.study().trials}
    assert "Traceback" not in done.out + done.err


@pytest.mark.slow
def test_worker_of_a_launcher_runs_several_trials_at_once_and_obeys_n_jobs(app):
    body = """
        import psutil
        hydrasweep.record(worker=psutil.Process().parent().parent().pid)
        meet(4)
        return cfg.x
    """
    done = app(body)(
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.trials_per_worker=2",
        fresh=True, code=0,
    )  # fmt: skip
    assert "2 workers (joblib) with 2 at once each" in done.out
    assert done.states() == ["COMPLETE"] * 4
    assert len({row["worker"] for row in done.table()}) == 2


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
