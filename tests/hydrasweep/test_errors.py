"""How a process ends: with one message, an exit code, and its environment as it was."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydrasweep import Outage, UserError, errors, plain_exit
from hydrasweep.errors import SIGNALS, is_outage, root_cause, signals_as_exceptions

RESUME = "python app.py"

# Messages


def test_outage_is_an_error_of_a_disk_or_a_store():
    full, read_only, broken = (OSError(e, "") for e in (errno.ENOSPC, errno.EROFS, errno.EIO))
    for outage in (Outage("no answer"), full, read_only, broken):
        assert is_outage(outage)
    for other in (UserError("x=1"), OSError(errno.ENOENT, ""), RuntimeError("no space left")):
        assert not is_outage(other)


def test_root_cause_is_one_line_without_a_password():
    error = RuntimeError("failed")
    error.__cause__ = OSError("no answer of http://me:secret@host/x\nfor a minute")
    assert root_cause(error) == "OSError: no answer of http://host/x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("at http://me:p@ss/w@host:5000, twice", "at http://host:5000, twice"),
        ("http://host/a", "http://host/a"),
        ("a // b@c", "a // b@c"),
    ],
)
def test_addresses_are_shown_without_user_and_password(text, shown):
    assert errors.without_password(text) == shown


# Exits


def ended(error, resume=None):
    """The exit code, or the message, that an error ends in."""
    with pytest.raises(SystemExit) as end, plain_exit(resume):
        raise error
    return end.value.code


@pytest.mark.parametrize(
    ("error", "message", "resumes"),
    [
        (UserError("x=1: must be 2"), "x=1: must be 2", False),
        (Outage("the disk is full"), "the disk is full", True),
        (OSError(errno.ENOSPC, "No space", "/data"), "[Errno 28] No space: '/data'", True),
        (FileNotFoundError(errno.ENOENT, "No file", "/data"), "[Errno 2] No file: '/data'", False),
    ],
)
def test_error_of_the_user_or_a_disk_is_one_message(error, message, resumes):
    assert ended(error) == f"Error: {message}"
    shown = ended(error, RESUME)
    assert shown.startswith(f"Error: {message}")
    assert shown.endswith(RESUME) == resumes


def test_error_of_a_config_is_shown_with_its_cause():
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True)
    assert ended(raised.value).startswith("Error: Interpolation key 'b' not found")


@pytest.mark.parametrize(
    ("error", "code", "texts"),
    [
        (ZeroDivisionError("by zero"), 1, ["Traceback", "ZeroDivisionError: by zero"]),
        (KeyboardInterrupt(), 130, [RESUME]),
        (SystemExit(3), 3, []),
    ],
)
def test_bug_shows_its_traceback_and_an_interruption_how_to_resume(capsys, error, code, texts):
    assert ended(error, RESUME) == code
    shown = capsys.readouterr().err
    assert bool(shown) == bool(texts)
    for text in texts:
        assert text in shown
    assert ended(error) == code
    assert RESUME not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("becomes", [None, AttributeError])
def test_signal_ends_the_process_also_if_a_library_raises_another_error(signum, code, becomes):
    before = [signal.getsignal(each) for each in SIGNALS]
    closed = []

    def work():
        try:
            os.kill(os.getpid(), signum)
            time.sleep(10)
        except BaseException:
            if becomes:
                raise becomes from None
            raise
        finally:
            os.kill(os.getpid(), signum)  # a second signal must not interrupt the clean-up
            closed.append(True)

    with pytest.raises(SystemExit) as end, plain_exit():
        work()
    assert end.value.code == code
    assert closed == [True]
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_swallowed_signal_is_raised_at_the_next_check():
    def work():
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        errors.raise_received()

    with pytest.raises(KeyboardInterrupt), signals_as_exceptions():
        work()
    with signals_as_exceptions():
        errors.raise_received()  # the signal has had its effect


def test_signal_that_a_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with plain_exit():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN


def test_exits_may_be_nested():
    handler = signal.getsignal(signal.SIGTERM)
    with plain_exit():
        outer = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit, match=r"failed.*again"), plain_exit("again"):
            raise Outage("failed")
        assert signal.getsignal(signal.SIGTERM) == outer
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert signal.getsignal(signal.SIGTERM) == handler


def test_exit_works_in_a_thread_which_cannot_set_handlers():
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(ended(UserError("no"))))
    thread.start()
    thread.join()
    assert ends == ["Error: no"]


@pytest.mark.parametrize("full_error", [None, "0", "1"])
def test_environment_and_output_are_restored(full_error, tmp_path):
    code = """
import os, sys
from hydrasweep import UserError, plain_exit
sys.stdout.reconfigure(encoding="ascii", errors="strict")
before = dict(os.environ)
try:
    with plain_exit():
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
        print("3 ± 1")
        raise UserError("no")
except SystemExit as end:
    print(end.code)
except UserError:
    print("traceback")
print(os.environ == before, sys.stdout.errors)
"""
    env = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    env |= {"HYDRA_FULL_ERROR": full_error} if full_error else {}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    end = "traceback" if full_error == "1" else "Error: no"
    assert done.stdout.splitlines() == ["3 ? 1", end, "True strict"]


def test_closed_output_is_reported_in_one_line():
    code = """
from hydrasweep import plain_exit
with plain_exit(resume="python app.py"):
    for i in range(100_000):
        print("line", i)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 1
    assert err == "Error: [Errno 32] Broken pipe\n"
