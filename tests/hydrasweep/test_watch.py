"""A report that is kept fresh: while its sweep runs, and no longer."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import plant, searched

from hydrasweep import page, starts, storage, watch

RELOADS = "location.reload()"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``running(end)`` watches a sweep until its page was written three times, then ends it, or
    the watch, by ``end(process)``; gives the pages that were seen, the last one as it stays."""

    def watched(end: Callable[[Any], object]) -> list[str]:
        folder, seen = plant(tmp_path / "s", {"": searched()}), []
        (folder / starts.FOLDER).mkdir()
        code = (
            "import sys; from pathlib import Path; from hydrasweep import starts\n"
            f"with starts.recorded(Path({str(folder)!r}), 0, 's', 'python app.py'):\n"
            "    print('begun', flush=True); sys.stdin.read()"
        )
        write, pipe = page.write, subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"

            def noted(*arguments: Any) -> Path:
                path = write(*arguments)
                seen.append(path.read_text())
                if len(seen) == 3:
                    end(process)
                return path

            monkeypatch.setattr(page, "write", noted)
            monkeypatch.setattr(watch, "SECONDS", 0.01)
            monkeypatch.setattr(watch, "REST", 0.0)
            assert watch.watch([folder]) == folder / "report.html"
            process.kill()
        storage.close_storages()
        return seen

    return watched


def test_page_reloads_itself_until_the_sweep_has_ended(
    running: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    *before, last = running(lambda process: process.communicate(b""))
    assert len(before) == 3
    assert all(RELOADS in text for text in before)
    assert RELOADS not in last
    assert capsys.readouterr().out.count("kept fresh until the sweep ends") == 1


def test_sweep_that_is_killed_ends_its_watch(running: Callable[..., list[str]]) -> None:
    def kill(process: Any) -> None:
        process.kill()
        process.wait()

    *before, last = running(kill)
    assert RELOADS in before[-1]
    assert RELOADS not in last


def test_ctrl_c_leaves_a_page_that_reloads_no_more(running: Callable[..., list[str]]) -> None:
    *before, last = running(lambda _: signal.raise_signal(signal.SIGINT))
    assert RELOADS in before[-1]
    assert RELOADS not in last


def test_sweep_that_does_not_run_is_reported_once(tmp_path: Path) -> None:
    one, two = (plant(tmp_path / name, {"": searched()}) for name in ("one", "two"))
    assert RELOADS not in watch.watch([one]).read_text()
    assert watch.watch([one, two]) == tmp_path / "compare-one-two.html"
    storage.close_storages()
