"""A report that is rewritten while its sweep runs, and no longer."""

import os
import signal
import time
from collections.abc import Callable

import pytest
from apps import fork
from planted import plant, searched

from hydrasweep import page, starts, watch

RELOADS = "location.reload()"


def run_sweep(folder, events):
    """A process that is a sweep until it is told to end."""
    begun, ended = events
    with starts.recorded(folder, 0, "s", "python app.py"):
        begun.set()
        ended.wait(60)


@pytest.mark.parametrize("end", ["finished", "killed", "interrupted"])
def test_page_reloads_itself_until_the_sweep_or_the_watch_ends(
    tmp_path,
    monkeypatch,
    capsys,
    end,
):
    folder, pages = plant(tmp_path / "s", {"": searched(2)}), []
    events = begun, ended = fork.Event(), fork.Event()
    process = fork.Process(target=run_sweep, args=(folder, events), daemon=True)
    process.start()
    assert begun.wait(60)
    ends: dict[str, Callable[[], object]] = {
        "finished": ended.set,
        "killed": process.kill,
        "interrupted": lambda: os.kill(os.getpid(), signal.SIGINT),  # of the watch
    }
    write = page.write

    def noted(*arguments):
        path = write(*arguments)
        pages.append(path.read_text())
        if len(pages) == 3:
            monkeypatch.setattr(watch, "SECONDS", 60.0)  # the end is noticed before that
            ends[end]()
            if end != "interrupted":
                process.join(60)
        return path

    monkeypatch.setattr(page, "write", noted)
    for name, seconds in (("SECONDS", 0.01), ("REST", 0.0), ("POLL_SECONDS", 0.01)):
        monkeypatch.setattr(watch, name, seconds)
    started = time.monotonic()
    assert watch.watch([folder]) == folder / "report.html"
    assert time.monotonic() - started < 60
    *before, last = pages
    assert len(before) == 3
    assert all(RELOADS in text for text in before)
    assert RELOADS not in last
    assert capsys.readouterr().out.count(str(folder / "report.html")) == 1
    process.kill()
    process.join()


def test_sweep_that_does_not_run_is_reported_once(tmp_path):
    one, two = (plant(tmp_path / name, {"": searched(2)}) for name in ("one", "two"))
    assert RELOADS not in watch.watch([one]).read_text()
    assert watch.watch([one, two]) == tmp_path / "compare-one-two.html"
