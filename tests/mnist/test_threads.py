"""The default number of threads of a training."""

import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import joblib
import psutil
import pytest

from mnist import threads

Times = namedtuple("Times", ["user", "idle"])


@pytest.mark.parametrize(
    ("n_cores", "quota", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 0.6, 1),
        (2, 2, 2.0, 1),
        (2, 2, 5.0, 1),  # at least one
        (64, 2, 40.0, 2),  # the quota of a container on a large machine
        (64, 64, 40.0, 24),
        (4, 4, -0.1, 4),  # the clocks differ slightly
    ],
)
def test_cores_that_other_processes_use_are_not_free(n_cores, quota, others, expected, monkeypatch):
    seconds, own = iter((100.0, 110.0, 110.0)), iter((7.0, 16.0))
    work = iter((50.0, 50.0 + 9.0 + 10 * others))

    def cpu_times(percpu=False):
        return range(n_cores) if percpu else Times(user=next(work), idle=1000.0)

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(joblib, "cpu_count", lambda: quota)
    times = SimpleNamespace(times=lambda: SimpleNamespace(user=next(own), system=0.0))
    monkeypatch.setattr(threads, "os", times)
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    monkeypatch.setattr(threads, "time", clock)
    threads.look()
    assert threads.free_cores() == expected


@pytest.fixture
def busy():
    """One busy process for each core."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(psutil.cpu_count() or 1)]
    time.sleep(0.5)
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy")
def test_one_core_is_free_if_other_processes_use_all():
    threads.look()
    time.sleep(0.5)
    assert threads.free_cores() == 1
