"""Whether a process lives, however its machine's clock is set."""

import subprocess
import sys
import time

import psutil
import pytest

from hydrasweep.processes import SLACK, identity, is_dead


def test_process_lives_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        other.wait()
    assert not is_dead(identity())
    assert is_dead({**identity(), "pid": str(other.pid)})
    assert not is_dead({**identity(), "pid": str(other.pid), "host": "another-machine"})


def test_reused_pid_is_another_process() -> None:
    own = identity()
    time.sleep(2 * SLACK)  # the other begins later than this process by more than is rounded
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert is_dead({**own, "pid": str(other.pid)})
        other.communicate(b"\n")


@pytest.mark.parametrize("seconds", [-86400, -10, 10, 86400])
def test_setting_the_clock_kills_nobody(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    before = identity()
    # Linux derives the time at which the machine began from its clock, at each look.
    began = psutil._psplatform.boot_time
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: began() + seconds)
    assert not is_dead(before)
    assert identity() == before
