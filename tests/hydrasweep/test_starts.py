"""The starts of a sweep: what they keep in its folder, and how it is resumed."""

import json
import os
import runpy
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from apps import fork

from hydrasweep import starts
from hydrasweep.errors import Outage, UserError
from hydrasweep.liveness import identity

COMMAND = "python app.py -m 'x=interval(0, 1)' hydra.sweeper.n_trials=4 hydra.sweeper.study_name=s"


def kept(folder, n=0, **changes):
    """A start in a folder, by default of this process."""
    with starts.recorded(folder, n, "s", COMMAND):
        pass
    start = replace(starts.read(folder)[n], **changes)
    (folder / starts.FOLDER / f"{n:03d}.json").write_text(json.dumps(asdict(start)))
    return start


def dead():
    """The identity of a process that has ended."""
    reader, writer = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: writer.send(identity()))
    process.start()
    process.join()
    return dict(reader.recv())


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
def test_end_of_a_start_is_kept_with_its_reason(tmp_path, error, how, why):
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


def test_state_depends_on_whether_the_process_lives_and_where(tmp_path):
    assert starts.state(starts.last(tmp_path)) == "unknown"
    own, other = identity(), {**identity(), "host": "elsewhere"}
    for process, state, shown in (
        (own, "running", [own["pid"]]),
        (other, "running on elsewhere", [own["pid"], "elsewhere"]),
        (dead(), "killed", []),
    ):
        kept(tmp_path, process=process, ended=None, how=starts.KILLED)
        assert starts.state(starts.last(tmp_path)).startswith(state)
        found = starts.processes(tmp_path)
        assert len(found) == bool(shown)
        assert all(part in found[0] for part in shown)


def test_state_is_that_of_the_running_start_or_the_last_that_ended(tmp_path):
    kept(tmp_path, 0, ended=30.0, how=starts.FINISHED)
    kept(tmp_path, 1, began=10.0, ended=20.0, how=starts.INTERRUPTED)
    assert starts.state(starts.last(tmp_path)) == "finished"
    kept(tmp_path, 2, began=5.0, ended=None)
    assert starts.state(starts.last(tmp_path)) == "running"


def test_resumed_command_has_its_directory_and_the_new_overrides(tmp_path):
    start = kept(tmp_path)
    assert starts.resuming(tmp_path) == (
        start.cwd,
        ["app.py", "-m", "x=interval(0, 1)", "hydra.sweeper.n_trials=4",
         "hydra.sweeper.study_name=s"],
    )  # fmt: skip
    _, words = starts.resuming(tmp_path, ["hydra.sweeper.n_trials=9", "+y=1"])
    assert words[-3:] == ["hydra.sweeper.study_name=s", "hydra.sweeper.n_trials=9", "+y=1"]
    assert "hydra.sweeper.n_trials=4" not in words


def test_folder_that_cannot_be_resumed_is_refused(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    with pytest.raises(UserError, match=str(folder)):
        starts.resuming(folder)
    kept(folder, ended=None)
    with pytest.raises(UserError, match=rf"{folder}:.*\b{os.getpid()}\b"):
        starts.resuming(folder)
    kept(folder, ended=None, process={**identity(), "host": "elsewhere"})
    assert starts.resuming(folder)  # several machines may work on a sweep
    kept(folder)
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=rf"{moved}:.* {folder}\b"):
        starts.resuming(moved)


def python_m(folder, module, *arguments):
    """The exit code of ``python -m MODULE ARGUMENTS``."""

    def run():
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    process = fork.Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def test_app_that_is_started_as_a_module_is_resumed_as_one(app, tmp_path):
    app("from inner import values\nreturn cfg.x * values.FACTOR")
    package = tmp_path / "inner"
    package.mkdir()
    (package / "values.py").write_text("FACTOR = 2\n")
    (package / "__init__.py").touch()
    text = (tmp_path / "app.py").read_text()
    text = text.replace('config_path="conf"', f"config_path={str(tmp_path / 'conf')!r}")
    (package / "app.py").write_text(text)
    assert python_m(tmp_path, "inner.app", "-m") == 0
    cwd, (option, *words) = starts.resuming(tmp_path / "sweep", ["hydra.sweeper.n_trials=5"])
    assert (option, words[:2]) == ("-m", ["inner.app", "-m"])
    assert python_m(Path(cwd), *words) == 0
    assert len((tmp_path / "sweep" / "trials.csv").read_text().splitlines()) == 1 + 5
