"""How a process ends: in a sentence and with an exit code, and as it was found."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydrasweep import Outage, UserError, errors, plain_exit
from hydrasweep.errors import SIGNALS, is_outage, root_cause, signals_as_exceptions

# Words


def test_outage_is_what_a_disk_or_a_store_does() -> None:
    assert is_outage(Outage("no answer"))
    for number in (errno.ENOSPC, errno.EROFS, errno.EIO):
        assert is_outage(OSError(number, "a disk's"))
    assert not is_outage(UserError("x=1: must be 2"))
    assert not is_outage(OSError(errno.ENOENT, "no such file"))
    assert not is_outage(RuntimeError("no space left"))


def test_root_cause_is_the_first_of_a_chain_in_one_line_without_its_password() -> None:
    error: BaseException
    try:
        try:
            raise OSError("no answer of http://me:secret@host/x\nfor a minute")
        except OSError as cause:
            raise RuntimeError("failed") from cause
    except RuntimeError as failed:
        error = failed
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
def test_addresses_are_shown_without_their_password(text: str, shown: str) -> None:
    assert errors.without_password(text) == shown


# Exits


def ended(error: BaseException, resume: str | None = None) -> Any:
    """The code of the exit that an error ends in."""
    with pytest.raises(SystemExit) as end, plain_exit(resume):
        raise error
    return end.value.code


def test_users_error_is_one_sentence_and_an_outage_tells_how_to_resume() -> None:
    assert ended(UserError("x=1: must be 2"), "python app.py") == "Error: x=1: must be 2"
    words = "Error: the disk is full. To resume: python app.py"
    assert ended(Outage("the disk is full"), "python app.py") == words
    assert ended(Outage("the disk is full")) == "Error: the disk is full"
    full = ended(OSError(errno.ENOSPC, "No space left", "/data"), "python app.py")
    assert full.startswith("Error: [Errno 28] No space left: '/data'. To resume: ")
    missing = ended(FileNotFoundError(errno.ENOENT, "No such file", "/data"), "python app.py")
    assert missing == "Error: [Errno 2] No such file: '/data'"


def test_configs_error_is_told_with_its_cause() -> None:
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True)
    assert ended(raised.value).startswith("Error: Interpolation key 'b' not found")


def test_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(ZeroDivisionError("by zero")) == 1
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err


def test_interruption_tells_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt(), "python app.py") == 130
    assert capsys.readouterr().err == "\nStopped. To resume: python app.py\n"
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "\nStopped.\n"
    assert ended(SystemExit(3), "python app.py") == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("becomes", [None, AttributeError])
def test_signal_ends_the_process_whatever_a_library_makes_of_it(
    signum: signal.Signals, code: int, becomes: type[BaseException] | None
) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    closed = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signum)
            time.sleep(10)
        except BaseException:
            if becomes:
                raise becomes from None
            raise
        finally:
            os.kill(os.getpid(), signum)  # an impatient second one disturbs nothing
            closed.append(True)

    with pytest.raises(SystemExit) as end, plain_exit():
        work()
    assert end.value.code == code
    assert closed == [True]
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_signal_that_was_swallowed_is_raised_at_the_next_look() -> None:
    def work() -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        errors.raise_received()

    with pytest.raises(KeyboardInterrupt), signals_as_exceptions():
        work()
    with signals_as_exceptions():
        errors.raise_received()  # that one has ended what it was to end


def test_signal_that_a_shell_lets_be_ignored_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with plain_exit():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        assert signal.signal(signal.SIGINT, before) == signal.SIG_IGN


def test_exits_may_be_nested() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with plain_exit():
        outer = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit, match=r"inner\. To resume: inner"), plain_exit("inner"):
            raise Outage("inner")
        assert signal.getsignal(signal.SIGTERM) == outer
        assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert signal.getsignal(signal.SIGTERM) == handler


def test_thread_that_cannot_set_handlers_does_without() -> None:
    ends: list[Any] = []
    thread = threading.Thread(target=lambda: ends.append(ended(UserError("no"))))
    thread.start()
    thread.join()
    assert ends == ["Error: no"]


@pytest.mark.parametrize("wanted", [None, "0", "1"])
def test_environment_and_output_are_put_back(wanted: str | None, tmp_path: Path) -> None:
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
    print("a traceback is wanted")
print(os.environ == before, sys.stdout.errors)
"""
    env = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    env |= {"HYDRA_FULL_ERROR": wanted} if wanted else {}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = "a traceback is wanted" if wanted == "1" else "Error: no"
    assert done.stdout.splitlines() == ["3 ? 1", told, "True strict"]


def test_closed_output_is_no_traceback() -> None:
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
