"""Faults of the machine: finished work is kept, the error says how to resume, nothing hangs.

Kills and interruptions of a single training are in test_train.py, stores that fail in
test_recording.py, and damaged files beside the tests of what reads them.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import application
import psutil
import pytest
import torch
from application import (
    REPOSITORY,
    client_of,
    command_line,
    environment,
    epochs_of,
    runs_of,
    server,
    write_digits,
)
from mlflow import MlflowClient
from optuna.trial import TrialState
from sweeps import (
    ALONE,
    MODELS,
    SWEEP,
    TWO,
    UNCONFIRMED,
    Sweep,
    assert_kept,
    assert_whole,
    history,
)

from hydrasweep.trials import CONFIRM, FINAL, PHASES

LEAN = ("artifacts=false", "score_test=false")
LONG = ("epochs=50", "data.n_train=1000", *LEAN)


def mount(*arguments):
    command = shutil.which("mount")
    done = command and subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True
    )
    if not done or done.returncode:
        pytest.skip(f"cannot mount file systems: {done.stderr.strip() if done else 'no mount'}")


@contextmanager
def disk(folder, size):
    """Make ``folder`` a disk of its own; yield a function that changes its size."""
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield lambda size: mount("-o", f"remount,size={size}", folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder):
    """Forbid everybody, root included, to write below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def steps(folder):
    return [epoch["step"] for epoch in history(folder)]


def start(root, *arguments):
    words = command_line("train.py", *arguments)
    return application.start(words, cwd=root, env=environment(root))


# `python piped.py PIPE SCRIPT …` runs a script whose output goes into a named pipe.
PIPED = """
import os
import runpy
import sys

_, pipe, *sys.argv = sys.argv
os.dup2(os.open(pipe, os.O_WRONLY), 1)
sys.stdout = open(1, "w", closefd=False)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def close_output_after(line, root, *arguments):
    """Run train.py and stop reading its output after the line, as ``| head`` does."""
    script, pipe = root / "piped.py", root / "pipe"
    script.write_text(PIPED)
    os.mkfifo(pipe)
    words = [str(script), str(pipe), *command_line("train.py", *arguments)]
    process = application.start(words, cwd=root, env=environment(root))
    with pipe.open() as output:
        assert any(re.search(line, shown) for shown in output), process.done()
    return process.done()


def assert_resumable(done, *named):
    """The run ended with one error message, which names these and a command that resumes it."""
    message, found, command = done.stderr.partition("To resume: ")
    assert message.startswith("Error: "), done.stderr
    assert found
    assert command.startswith("python ")
    assert len(done.stderr.splitlines()) == 1
    for each in named:
        assert each in message
    assert "Traceback" not in done.stdout
    assert done.returncode == 1


def resume(root, done):
    """Run the command that an interrupted run has printed."""
    _, *words = shlex.split(done.stderr.partition("To resume: ")[2])
    words[0] = str(REPOSITORY / words[0])
    done = application.run(words, cwd=REPOSITORY, env=environment(root))
    assert done.returncode == 0, done.stderr


def statuses(root):
    return [run.info.status for run in runs_of(client_of(root))]


# Full disks


@pytest.mark.slow
def test_checkpoint_on_a_full_disk_keeps_the_last_one(script, root, tmp_path):
    folder = tmp_path / "small"
    with disk(folder, "1500k") as resize:  # room for one checkpoint, not for a second one
        done = script("train.py", "epochs=3", *LEAN, f"hydra.run.dir={folder}")
        assert_resumable(done, "last.pt", "No space left on device")
        assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 1
        assert steps(folder) == [1, 2]
        assert not list(folder.glob(".*.tmp"))
        assert statuses(root) == ["FAILED"]
        resize("8m")
        resume(root, done)
        assert steps(folder) == [1, 2, 3]
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "place"), [("200k", ".cache"), ("30m", "data")])
def test_data_on_a_full_disk_are_read_when_there_is_room(script, root, tmp_path, size, place):
    folder = tmp_path / "data"
    with disk(folder, size) as resize:
        if place == "data":  # no room to unpack the archives
            raw = folder / "MNIST" / "raw"
            raw.mkdir(parents=True)
            for archive in (REPOSITORY / "data" / "MNIST" / "raw").glob("*.gz"):
                shutil.copy(archive, raw)
        else:
            write_digits(folder, n_train=150)
        few = (f"paths.data={folder}", "data.n_train=90", "data.n_val=9", "epochs=1", *LEAN)
        done = script("train.py", *few)
        assert_resumable(done, str(folder), "No space left on device")
        assert not list(folder.rglob("*.tmp"))
        resize("200m")
        resume(root, done)
    assert statuses(root) == ["FINISHED"]


@pytest.mark.slow
def test_results_are_kept_while_the_store_is_full(root, tmp_path):
    small, folder = tmp_path / "small", tmp_path / "run"
    with disk(small, "4m") as resize:
        shutil.copy(root / "mlflow.db", small)
        process = start(small, "epochs=30", *LEAN, f"hydra.run.dir={folder}")
        process.until_printed("epoch  2/30")
        (small / "rest").write_bytes(bytes(shutil.disk_usage(small).free))
        done = process.done()
        assert_resumable(done, "full", str(folder))
        assert steps(folder) == list(range(1, 31))
        resize("40m")
        resume(small, done)
        (run,) = runs_of(client_of(small))
        assert run.info.status == "FINISHED"
        assert epochs_of(client_of(small), run) == list(range(1, 31))


@pytest.mark.slow
def test_sweep_on_a_full_disk_resumes_when_there_is_room(script, root):
    few = ("epochs=1", "checkpoint=false", "hydra.sweeper.n_trials=12")
    sweep = Sweep(root, "full")
    with disk(root / "outputs", "900k") as resize:
        done = script("train.py", *UNCONFIRMED, ALONE, "study=full", *few)
        assert done.returncode == 1
        assert "No space left" in done.stderr or "is full" in done.stderr
        assert "study=full" in done.stderr.partition("To resume: ")[2]
        assert "Traceback" not in done.stdout + done.stderr
        finished = {k: t for k, t in sweep.trials().items() if t.state == TrialState.COMPLETE}
        assert 0 < len(finished) < 12
        assert {run.info.status for run in sweep.runs()[0]} == {"FAILED"}
        resize("20m")
        resume(root, done)
        assert_kept(finished, sweep.trials())
        assert_whole(sweep, 12)


# Folders that cannot be written


@pytest.mark.parametrize(
    "arguments", [("epochs=1",), ("-m", "model=cnn,lenet5"), (*UNCONFIRMED, ALONE)], ids=str
)
def test_read_only_outputs_are_refused_before_training(script, root, arguments):
    with read_only(root / "outputs"):
        done = script("train.py", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert f"Read-only file system: '{root / 'outputs'}" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert statuses(root) == []


@pytest.mark.slow
def test_nothing_is_lost_while_mlruns_is_read_only(script, root):
    few = ("epochs=1", "model=choice(baseline,cnn)", "study=kept", "hydra.sweeper.n_trials=3")
    with read_only(root / "mlruns"):
        single = script("train.py", "epochs=2", "score_test=false")
        sweep = script("train.py", *UNCONFIRMED, ALONE, *few)
    assert_resumable(single, "Read-only", str(root / "outputs"))
    assert_resumable(sweep, "Read-only")
    resume(root, single)
    client = client_of(root)
    (run,) = (run for run in runs_of(client) if run.data.tags.get("architecture") == "lenet5")
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == [1, 2]
    assert {"config.yaml", "model.pt"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    resume(root, sweep)
    assert_whole(Sweep(root, "kept"), 3)


@pytest.mark.slow
def test_read_only_store_is_reported_before_training(script, root, tmp_path):
    with read_only(root):
        done = script("train.py", "epochs=1", *LEAN, f"hydra.run.dir={tmp_path / 'run'}")
    assert_resumable(done, "mlflow.db", "MLFLOW_TRACKING_URI", "Read-only")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    resume(root, done)


# Damaged files


@pytest.mark.slow
def test_truncated_data_stop_trainings_and_sweeps_until_they_are_whole(script, root, tmp_path):
    images = write_digits(tmp_path / "data", n_train=900) / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    own = f"paths.data={tmp_path / 'data'}"
    unchecked = ("hydra.sweeper.check=null", "hydra.sweeper.calibrate=null")
    sweep = script(
        "train.py", *UNCONFIRMED, ALONE, own, *unchecked, "study=cut", "hydra.sweeper.n_trials=3"
    )
    assert_resumable(sweep, images.name)
    assert "study=cut" in sweep.stderr
    assert TrialState.COMPLETE not in {t.state for t in Sweep(root, "cut").all_trials().values()}
    single = script("train.py", own, "epochs=1", "tracking=none", *LEAN)
    assert_resumable(single, images.name, "delete it")
    images.write_bytes(whole)
    resume(root, sweep)
    assert_whole(Sweep(root, "cut"), 3)
    resume(root, single)


@pytest.mark.slow
def test_truncated_checkpoint_is_refused_and_without_it_training_begins_anew(
    script, root, tmp_path
):
    folder = tmp_path / "run"
    assert script("train.py", "epochs=2", *LEAN, f"hydra.run.dir={folder}").returncode == 0
    state = folder / "last.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    words = [str(REPOSITORY / "src" / "train.py"), f"resume={folder}"]
    done = application.run(words, cwd=root, env=environment(root))
    assert done.returncode == 1
    assert re.fullmatch(r"Error: .*last\.pt.*delete it.*resume=.*\n", done.stderr)
    state.unlink()
    done = application.run(words, cwd=root, env=environment(root))
    assert done.returncode == 0, done.stderr
    assert steps(folder) == [1, 2]
    assert statuses(root) == ["FINISHED"]


# Signals and standard output


def interrupt(process, pause):
    """Press Ctrl-C again and again until the process says how to resume."""
    while process.poll() is None and "To resume: " not in process.err.read_text():
        process.send(signal.SIGINT)
        time.sleep(pause)
    done = process.done()
    assert done.returncode == 130
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_impatient_ctrl_c_does_not_disturb_the_end(root):
    process = start(root, *LONG)
    process.until_printed("epoch  2/50")
    done = interrupt(process, 0.01)
    assert "python src/train.py resume=" in done.stderr
    assert statuses(root) == ["KILLED"]


@pytest.mark.slow
def test_sweep_of_two_workers_resumes_after_an_impatient_ctrl_c(root):
    sweep = Sweep(root, "impatient")
    process = start(root, *UNCONFIRMED, TWO, "study=impatient", "hydra.sweeper.n_trials=8")
    process.until(lambda: re.search("COMPLETE|PRUNED", process.out.read_text()))
    done = interrupt(process, 0.05)
    assert "study=impatient" in done.stderr.partition("To resume: ")[2]
    finished = sweep.ended()
    assert 0 < len(finished) < 8
    assert "RUNNING" not in {trial.state.name for trial in sweep.all_trials().values()}
    assert {row["state"] for row in sweep.table()} <= {"COMPLETE", "PRUNED", "RUNNING"}
    assert "RUNNING" not in statuses(root)
    done.stderr = done.stderr.replace(TWO, ALONE)
    resume(root, done)
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 8)


def test_closed_output_ends_a_training_that_the_printed_command_resumes(root):
    done = close_output_after("epoch 1/6", root, "epochs=6", "data.n_train=1000", *LEAN)
    assert_resumable(done, "Broken pipe")
    assert statuses(root) == ["FAILED"]
    resume(root, done)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_closed_output_ends_a_sweep_that_the_printed_command_resumes(root):
    arguments = (*UNCONFIRMED, ALONE, "study=piped", "hydra.sweeper.n_trials=9")
    done = close_output_after("COMPLETE|PRUNED", root, *arguments)
    assert_resumable(done, "Broken pipe")
    sweep = Sweep(root, "piped")
    finished = sweep.ended()
    assert 0 < len(finished) < 9
    resume(root, done)
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 9)


def test_output_need_not_be_unicode(script):
    done = script("train.py", "epochs=1", "tracking=none", *LEAN, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^val +accuracy", done.stdout, re.MULTILINE)
    assert done.stderr == ""


# Kills


@pytest.mark.slow
def test_sweep_that_is_killed_in_each_phase_loses_nothing(root):
    sweep = Sweep(root, "killed")
    arguments = (*SWEEP, "study=killed", "hydra.sweeper.n_trials=6", "epochs=3",
                 "data.n_train=2400", "hydra.sweeper.registered_model=null",
                 r"hydra.sweeper.confirm.final=[score_test\=true]")  # fmt: skip

    process = start(root, *arguments, TWO)
    process.until(lambda: re.search("COMPLETE|PRUNED", process.out.read_text()))
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= 2  # a server, and trials
    os.kill(process.pid, signal.SIGKILL)  # alone: the others end with it
    assert process.wait() == -signal.SIGKILL
    assert psutil.wait_procs(others, timeout=60)[1] == []

    def n_complete(phase):
        trials = sweep.trials(phase).values()
        return sum(trial.state == TrialState.COMPLETE for trial in trials)

    for phase in PHASES:
        finished, n = sweep.ended(), n_complete(phase)
        process = start(root, *arguments, ALONE)
        process.until(lambda: n_complete(phase) > n)  # noqa: B023
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert_kept(finished, sweep.trials())
    finished, done = sweep.ended(), start(root, *arguments, ALONE).done()
    assert_kept(finished, sweep.trials())
    assert done.returncode == 0, done.stderr
    assert_whole(sweep, 6)
    for phase in (CONFIRM, FINAL):
        trials = sweep.trials(phase)
        assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
        seeds = [(name.partition("-")[0], trial.params["seed"]) for name, trial in trials.items()]
        assert sorted(seeds) == [(model, seed) for model in MODELS for seed in (1, 2)]
    assert [run.info.status for run in sweep.runs()[0]] == ["FINISHED"]


@pytest.mark.slow
def test_sweep_stops_when_the_mlflow_server_is_killed_and_resumes(root, tmp_path):
    folder = tmp_path / "remote"
    folder.mkdir()
    words = command_line(
        "train.py", *UNCONFIRMED, ALONE, "study=remote", "hydra.sweeper.n_trials=6"
    )
    sweep = Sweep(root, "remote")
    with server(folder) as (port, kill):
        env = environment(root, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        process = application.start(words, cwd=root, env=env)
        process.until(lambda: re.search("COMPLETE|PRUNED", process.out.read_text()))
        kill()
        done = process.done()
    assert_resumable(done, "MLflow")
    assert "study=remote" in done.stderr
    finished = sweep.ended()
    assert 0 < len(finished) < 6
    assert TrialState.FAIL not in {trial.state for trial in finished.values()}

    with server(folder) as (port, _):
        env = environment(root, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        done = application.run(words, cwd=root, env=env)
        assert done.returncode == 0, done.stderr
        ended = [run.info.status for run in runs_of(MlflowClient(env["MLFLOW_TRACKING_URI"]))]
    assert_kept(finished, sweep.trials())
    assert len(sweep.trials()) == 6
    assert "RUNNING" not in ended
    assert ended.count("FINISHED") == 1 + 6


# Several at once


@pytest.mark.slow
def test_two_sweeps_and_a_training_start_at_once_without_any_files(tmp_path):
    root = tmp_path / "root"
    raw = root / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (REPOSITORY / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, raw)
    own = f"paths.data={root / 'data'}"
    sweeps = [
        start(root, *UNCONFIRMED, ALONE, own, f"study={name}", "hydra.sweeper.n_trials=3")
        for name in ("one", "two")
    ]
    for process in (*sweeps, start(root, "epochs=2", *LEAN, own)):
        done = process.done()
        assert done.returncode == 0, done.stderr
    assert statuses(root) == ["FINISHED"] * (2 * (1 + 3) + 1)
    for name in ("one", "two"):
        assert_whole(Sweep(root, name), 3)
