"""How many threads a training takes where nobody says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import joblib
import psutil
import pytest

from mnist import threads


@pytest.mark.parametrize(
    ("n_cores", "quota", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 0.6, 1),
        (2, 2, 2.0, 1),
        (2, 2, 5.0, 1),  # never none
        (64, 2, 40.0, 2),  # a container's quota on a large machine
        (64, 64, 40.0, 24),
        (4, 4, -0.1, 4),  # clocks that don't agree
    ],
)
def test_cores_that_others_use_are_left_to_them(
    n_cores: int, quota: int, others: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, own = iter((100.0, 110.0, 110.0)), iter((7.0, 16.0))
    work = iter((50.0, 50.0 + 9.0 + 10 * others))

    def cpu_times(percpu: bool = False) -> object:
        return range(n_cores) if percpu else Times(next(work), 1000.0)

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(joblib, "cpu_count", lambda: quota)
    monkeypatch.setattr(threads, "os", SimpleNamespace(times=lambda: Own(next(own))))
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    monkeypatch.setattr(threads, "time", clock)
    threads.look()
    assert threads.free_cores() == expected


class Times(tuple):  # type: ignore[type-arg]
    def __new__(cls, user: float, idle: float) -> "Times":
        times = super().__new__(cls, (user, idle))
        times.idle = idle
        return times


class Own:
    system = 0.0

    def __init__(self, user: float) -> None:
        self.user = user


@pytest.fixture
def busy() -> Iterator[None]:
    """As many busy processes as there are cores."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(psutil.cpu_count() or 1)]
    time.sleep(0.5)
    yield
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy")
def test_one_thread_is_left_beside_busy_neighbours() -> None:
    threads.look()
    time.sleep(0.5)
    assert threads.free_cores() == 1
