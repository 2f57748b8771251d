"""What the starts of a sweep leave in its folder, and what is told by that."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from apps import App

from hydrasweep import starts
from hydrasweep.errors import Outage, UserError
from hydrasweep.liveness import identity

COMMAND = "python app.py -m 'x=interval(0, 1)' hydra.sweeper.n_trials=4 hydra.sweeper.study_name=s"


def kept(folder: Path, n: int = 0, **changes: object) -> starts.Start:
    """A start in a folder, by this process unless told otherwise."""
    with starts.recorded(folder, n, "s", COMMAND):
        pass
    start = replace(starts.read(folder)[n], **changes)
    (folder / starts.FOLDER / f"{n:03d}.json").write_text(json.dumps(asdict(start)))
    return start


def dead() -> dict[str, str]:
    """A process that has ended."""
    code = "import json; from hydrasweep.liveness import identity; print(json.dumps(identity()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("error", "how", "why"),
    [
        (None, starts.FINISHED, ""),
        (KeyboardInterrupt(), starts.INTERRUPTED, ""),
        (SystemExit(143), starts.INTERRUPTED, ""),
        (Outage("the disk is full"), starts.STOPPED, "the disk is full"),
        (OSError("at http://me:secret@host"), starts.STOPPED, "OSError: at http://host"),
    ],
)
def test_end_is_kept_with_what_ended_it(
    tmp_path: Path, error: BaseException | None, how: str, why: str
) -> None:
    seen = []
    with (
        pytest.raises(type(error)) if error else nullcontext(),
        starts.recorded(tmp_path, 0, "s", COMMAND),
    ):
        seen.append(starts.state(starts.last(tmp_path)))
        if error:
            raise error
    start = starts.last(tmp_path)
    assert start is not None
    assert seen == [starts.RUNNING]
    assert (start.how, start.why, starts.state(start)) == (how, why, how)
    assert not start.may_run
    assert starts.processes(tmp_path) == []


def test_process_that_died_is_told_from_one_that_lives_and_one_of_another_machine(
    tmp_path: Path,
) -> None:
    assert starts.state(starts.last(tmp_path)) == "unknown"
    own, other = identity(), {**identity(), "host": "elsewhere"}
    for process, state, told in (
        (own, "running", [f"process {own['pid']}"]),
        (other, "running on elsewhere?", [f"process {own['pid']} on elsewhere"]),
        (dead(), "killed", []),
    ):
        kept(tmp_path, process=process, ended=None, how=starts.KILLED)
        assert starts.state(starts.last(tmp_path)) == state
        assert starts.processes(tmp_path) == told


def test_of_several_starts_one_that_runs_counts_then_the_last_that_ended(tmp_path: Path) -> None:
    kept(tmp_path, 0, ended=30.0, how=starts.FINISHED)
    kept(tmp_path, 1, began=10.0, ended=20.0, how=starts.INTERRUPTED)
    assert starts.state(starts.last(tmp_path)) == "finished"
    kept(tmp_path, 2, began=5.0, ended=None)
    assert starts.state(starts.last(tmp_path)) == "running"


def test_command_is_resumed_where_it_was_given_with_the_overrides_of_now(tmp_path: Path) -> None:
    start = kept(tmp_path)
    assert starts.resuming(tmp_path) == (
        start.cwd,
        ["app.py", "-m", "x=interval(0, 1)", "hydra.sweeper.n_trials=4",
         "hydra.sweeper.study_name=s"],
    )  # fmt: skip
    _, words = starts.resuming(tmp_path, ["hydra.sweeper.n_trials=9", "+y=1"])
    assert words[-3:] == ["hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=9", "+y=1"]
    assert "hydra.sweeper.n_trials=4" not in words


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    with pytest.raises(UserError, match="no sweep whose command is known"):
        starts.resuming(folder)
    kept(folder, ended=None)
    with pytest.raises(UserError, match=r"its sweep is running \(process \d+\)"):
        starts.resuming(folder)
    kept(folder, ended=None, process={**identity(), "host": "elsewhere"})
    assert starts.resuming(folder)  # one may join another machine's
    kept(folder)
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"is not where its sweep ran, {folder}, .* move it back"):
        starts.resuming(moved)


def test_app_that_is_started_as_a_module_is_resumed_as_one(
    app: Callable[..., App], tmp_path: Path
) -> None:
    app("return cfg.x")
    package = tmp_path / "inner"
    package.mkdir()
    (package / "values.py").write_text("FACTOR = 2\n")
    text = (tmp_path / "app.py").read_text()
    text = text.replace('config_path="conf"', f"config_path={str(tmp_path / 'conf')!r}")
    body = "from inner import values\n    return cfg.x * values.FACTOR"
    (package / "app.py").write_text(textwrap.dedent(text.replace("return cfg.x", body)))
    (package / "__init__.py").touch()
    words = [sys.executable, "-m", "inner.app", "-m"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cwd, words = starts.resuming(tmp_path / "sweep", ["hydra.sweeper.n_trials=5"])
    assert words[:3] == ["-m", "inner.app", "-m"]
    done = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "sweep" / "trials.csv").read_text().splitlines()) == 1 + 5
