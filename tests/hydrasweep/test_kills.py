"""Sweeps whose processes are killed at random moments end as if nothing had happened."""

import random
import subprocess
import sys
import time

import psutil
import pytest
from apps import CONFIG

N_KILLS = 20
BODY = """
    for step in range(1, 4):
        time.sleep(0.03)
        hydrasweep.report(cfg.x + step, step)
    return cfg.x * cfg.y
"""
GRID = (
    "hydra/sweeper/sampler=grid",
    "x=range(0,8)",
    "y=range(0,8)",
    "hydra/sweeper/storage=sqlite",
)


def processes(main):
    """Return the sweep's processes by their kind, as far as they run now: of the servers those
    that run trials."""

    def children(parents):
        found = [child for parent in parents for child in parent.children()]
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    workers = [each for each in children([main]) if "loky" in " ".join(each.cmdline())]
    trials = children(children(workers or [main]))
    servers = [each.parent() for each in trials]
    found = {"main": [main], "server": servers, "trial": trials}
    return found | {"worker": [each.parent() for each in servers]}


def kill_one(pid, kind, moment):
    """Kill a process of a kind a moment after there is one; return whether that was possible."""
    main, until = psutil.Process(pid), time.monotonic() + 20
    while time.monotonic() < until:
        try:
            if found := processes(main)[kind]:
                time.sleep(moment)
                found[0].kill()
                return True
        except psutil.NoSuchProcess:  # it has ended, as trials do
            if not main.is_running():
                return False
        time.sleep(0.005)
    return False


def values(done):
    return sorted((t.params["x"], t.params["y"], t.value) for t in done.trials())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n_workers"),
    [("main", 1), ("server", 1), ("trial", 1), ("trial", 3), ("server", 3), ("worker", 2)],
)
def test_sweep_of_killed_processes_has_each_trial_once_with_its_value(
    app, tmp_path, kind, n_workers
):
    task = app(BODY, CONFIG + "z: 0\n", more="import hydrasweep.studies\n"
               "hydrasweep.studies.MAX_RETRIES = 20")  # fmt: skip
    launcher = ["hydra/launcher=joblib"] if kind == "worker" else []
    words = (*GRID, f"hydra.sweeper.n_workers={n_workers}", *launcher)

    def start():
        command = [sys.executable, "app.py", "-m", *words]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)

    moments, n_kills = random.Random(0), 0
    process = start()
    while n_kills < N_KILLS:
        if process.poll() is not None:
            process = start()
        n_kills += kill_one(process.pid, kind, moments.uniform(0, 0.15))
        if kind == "main":
            process.wait(20)
    process.wait(200)
    done = task(*words, fresh=True, code=0)
    assert done.states() == ["COMPLETE"] * 64
    assert values(done) == [(x, y, x * y) for x in range(8) for y in range(8)]
    assert len(done.table()) == 64
    assert all(trial.state.is_finished() for trial in done.study().trials)
