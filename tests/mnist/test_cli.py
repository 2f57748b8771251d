"""How a process ends. Signals and messages: tests/test_train.py, tests/test_faults.py."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from mnist import cli

class Torn:
    def __del__(self):
        print("torn apart")

with cli.prompt_end():
    kept = Torn()
    atexit.register(print, "closed")
    print("done", end=" ")
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code", "output"),
    [
        ("pass", 0, "done closed\n"),
        ("sys.exit(3)", 3, "done closed\ntorn apart\n"),
        ("1 / 0", 1, "done closed\ntorn apart\n"),
    ],
)
def test_finished_process_ends_after_its_exit_handlers(end: str, code: int, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, output)
    assert ("ZeroDivisionError" in done.stderr) == (end == "1 / 0")
