"""Faults of the machine: what was finished is kept, a sentence says what to do, nothing hangs.

Kills and interruptions of a single training are in test_train.py, those of sweeps in
test_sweep.py, stores that fail in mnist/test_recording.py, and damaged files beside what reads
them.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from application import (
    REPOSITORY,
    Script,
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
from test_sweep import (
    ALONE,
    SWEEP,
    TWO,
    Sweep,
    assert_kept,
    assert_whole,
    start,
    wait_until,
    workers_of,
)

LEAN = ("artifacts=false", "score_test=false")
LONG = ("epochs=50", "data.n_train=1000", *LEAN)


def mount(*arguments: object) -> None:
    command = shutil.which("mount")
    done = command and subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True
    )
    if not done or done.returncode:
        pytest.skip(f"may not mount file systems: {done.stderr.strip() if done else 'no mount'}")


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Make ``folder`` a disk of its own; gives what changes its size."""
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield lambda size: mount("-o", f"remount,size={size}", folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nobody write below ``folder``, root included."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("--bind", folder, folder)
    try:
        mount("-o", "remount,bind,ro", folder)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


Done = subprocess.CompletedProcess[str]


def after(
    line: str, act: Callable[["subprocess.Popen[str]"], object], root: Path, *arguments: str
) -> Done:
    """A training or a sweep, for which ``act`` is done when it has printed ``line``."""
    process = subprocess.Popen(
        command_line("train.py", *arguments),
        cwd=root,
        env=environment(root),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for shown in process.stdout:
            if re.search(line, shown):
                act(process)
                break
        errors = process.stderr.read()
    return Done(process.args, process.returncode, "", errors)


def assert_told(done: Done, words: str) -> None:
    """One sentence says what is wrong and how to resume, and the exit code is 1."""
    assert re.fullmatch(f"Error: .*{words}.* To resume: python .*\n", done.stderr), done.stderr
    assert "Traceback" not in done.stdout
    assert done.returncode == 1


def resume(root: Path, done: Done) -> Done:
    """Run the command that an ended one gave."""
    _, *words = shlex.split(done.stderr.partition("To resume: ")[2])
    done = subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


# A disk that is full


@pytest.mark.slow
def test_checkpoint_on_a_full_disk_keeps_the_last_one(
    script: Script, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    with disk(folder, "1500k") as resize:  # one checkpoint has room, and a second beside it has not
        done = script("train.py", "epochs=3", *LEAN, f"hydra.run.dir={folder}")
        assert_told(done, r"last\.pt can't be written \(No space left on device\)")
        assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 1
        assert steps(folder) == [1, 2]
        assert not list(folder.glob(".*.tmp"))
        client = client_of(root)
        (run,) = runs_of(client)
        assert run.info.status == "FAILED"
        resize("8m")
        resume(root, done)
        assert steps(folder) == [1, 2, 3]
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "place"), [("200k", ".cache"), ("30m", "data")])
def test_data_on_a_full_disk_are_read_once_there_is_room(
    script: Script, root: Path, tmp_path: Path, size: str, place: str
) -> None:
    folder = tmp_path / "data"
    with disk(folder, size) as resize:
        if place == "data":  # no room to unpack in
            raw = folder / "MNIST" / "raw"
            raw.mkdir(parents=True)
            for archive in (REPOSITORY / "data" / "MNIST" / "raw").glob("*.gz"):
                shutil.copy(archive, raw)
        else:
            write_digits(folder, n_train=150)
        few = (f"paths.data={folder}", "data.n_train=90", "data.n_val=9", "epochs=1", *LEAN)
        done = script("train.py", *few)
        assert_told(done, f"{folder}.*No space left on device")
        assert not list(folder.rglob("*.tmp"))
        resize("200m")
        resume(root, done)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_full_store_keeps_results_until_there_is_room(root: Path, tmp_path: Path) -> None:
    small, folder = tmp_path / "small", tmp_path / "run"
    with disk(small, "4m") as resize:
        shutil.copy(root / "mlflow.db", small)

        def fill(_: object) -> None:
            (small / "rest").write_bytes(bytes(shutil.disk_usage(small).free))

        done = after("epoch  2/30", fill, small, "epochs=30", *LEAN, f"hydra.run.dir={folder}")
        assert_told(done, "full.*Nothing is lost")
        assert steps(folder) == list(range(1, 31))
        resize("40m")
        resume(small, done)
        client = client_of(small)
        (run,) = runs_of(client)
        assert run.info.status == "FINISHED"
        assert epochs_of(client, run) == list(range(1, 31))


@pytest.mark.slow
def test_sweep_on_a_full_disk_resumes_once_there_is_room(script: Script, root: Path) -> None:
    few = ("epochs=1", "checkpoint=false", "hydra.sweeper.n_trials=12")
    arguments = (*SWEEP, ALONE, "study=full", *few)
    sweep = Sweep(root, "full")
    with disk(root / "outputs", "1000k") as resize:
        done = script("train.py", *arguments)
        assert done.returncode == 1
        assert "No space left" in done.stderr or "is full" in done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        finished = {k: t for k, t in sweep.trials().items() if t.state == TrialState.COMPLETE}
        assert 0 < len(finished) < 12
        assert {run.info.status for run in sweep.runs()[0]} == {"FAILED"}
        resize("20m")
        assert "study=full" in done.stderr.partition("To resume: ")[2]
        done = script("train.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert_kept(finished, sweep.trials())
        assert_whole(sweep, 12)


# Folders that can't be written


@pytest.mark.parametrize("arguments", [("epochs=1",), ("-m", "model=cnn,lenet5"), SWEEP], ids=str)
def test_read_only_outputs_are_refused_at_once(
    script: Script, root: Path, arguments: tuple[str, ...]
) -> None:
    with read_only(root / "outputs"):
        done = script("train.py", *arguments)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"Error: .*Read-only file system: '{root / 'outputs'}.*\n",
        done.stderr,
    )
    assert runs_of(client_of(root)) == []


@pytest.mark.slow
def test_read_only_mlruns_lose_nothing(script: Script, root: Path) -> None:
    with read_only(root / "mlruns"):
        done = script("train.py", "epochs=2", "score_test=false")
    assert_told(done, "Read-only.*Nothing is lost")
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FAILED"
    resume(root, done)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == [1, 2]
    assert {"config.yaml", "model.pt"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_sweep_on_read_only_mlruns_resumes_once_they_can_be_written(
    script: Script, root: Path
) -> None:
    with read_only(root / "mlruns"):
        arguments = (*SWEEP, ALONE, "epochs=1", "study=kept", "hydra.sweeper.n_trials=3")
        done = script("train.py", *arguments)
    assert_told(done, "Read-only")
    resume(root, done)
    assert_whole(Sweep(root, "kept"), 3)


@pytest.mark.slow
def test_read_only_store_is_told_before_training(
    script: Script, root: Path, tmp_path: Path
) -> None:
    with read_only(root):
        done = script("train.py", "epochs=1", *LEAN, f"hydra.run.dir={tmp_path / 'run'}")
    assert_told(done, r"mlflow\.db can't be used: .*point MLFLOW_TRACKING_URI.*Read-only")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    resume(root, done)


# Files that are damaged


@pytest.mark.slow
def test_data_cut_short_are_told_and_training_resumes_once_they_are_whole(
    script: Script, root: Path, tmp_path: Path
) -> None:
    images = write_digits(tmp_path / "data", n_train=150) / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    images.write_bytes(whole[:-100])
    few = (f"paths.data={tmp_path / 'data'}", "data.n_train=90", "data.n_val=9", "epochs=1")
    done = script("train.py", *few, *LEAN)
    assert_told(done, "train-images-idx3-ubyte.*delete it and run again")
    images.write_bytes(whole)
    resume(root, done)


@pytest.mark.slow
def test_data_cut_short_stop_a_sweep_which_resumes_once_they_are_whole(
    root: Path, tmp_path: Path
) -> None:
    data, output, sweep = tmp_path / "data", tmp_path / "output.txt", Sweep(root, "cut")
    images = write_digits(data, n_train=900) / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    arguments = (f"paths.data={data}", "study=cut", "hydra.sweeper.n_trials=12", "epochs=3")
    process = start(root, *arguments, output=output)
    wait_until(lambda: re.search("COMPLETE|PRUNED", output.read_text()), process)
    images.write_bytes(whole[:-100])
    worker = next(w for w in workers_of(process) if "LokyProcess" in " ".join(w.cmdline()))
    worker.kill()  # whoever lives on has the images in memory
    assert process.wait() == 1
    shown = output.read_text()
    assert "Traceback" not in shown
    assert re.search("the sweep was stopped: data=mnist.*To resume: python .*study=cut", shown)
    finished = sweep.ended()
    assert {trial.state for trial in finished.values()} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert 0 < len(finished) < 12
    images.write_bytes(whole)
    assert start(root, *arguments, output=output).wait() == 0
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 12)


@pytest.mark.slow
def test_checkpoint_cut_short_is_told_and_training_begins_anew_without_it(
    script: Script, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    settings = ("epochs=2", *LEAN, f"hydra.run.dir={folder}")
    assert script("train.py", *settings).returncode == 0
    state = folder / "last.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    done = subprocess.run(
        [sys.executable, REPOSITORY / "src" / "train.py", f"resume={folder}"],
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"Error: the checkpoint .*last\.pt can't be read.*\n", done.stderr)
    assert "delete it, and resume= begins anew" in done.stderr
    state.unlink()
    done.stderr = f"To resume: python {REPOSITORY / 'src' / 'train.py'} resume={folder}"
    resume(root, done)
    assert steps(folder) == [1, 2]
    assert [run.info.status for run in runs_of(client_of(root))] == ["FINISHED"]


# Signals and standard output


def interrupt(process: "subprocess.Popen[str]", output: Path, pause: float) -> None:
    """Press Ctrl-C again and again, until it is said how to resume."""
    while process.poll() is None and "To resume: " not in output.read_text():
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(pause)


def test_impatient_ctrl_c_does_not_disturb_the_end(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command_line("train.py", *LONG),
            cwd=tmp_path,
            env=environment(root),
            text=True,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    wait_until(lambda: "epoch  2/50" in output.read_text(), process)
    interrupt(process, output, 0.01)
    assert process.wait() == 130
    shown = output.read_text()
    assert "python src/train.py resume=" in shown
    assert "Traceback" not in shown
    assert [run.info.status for run in runs_of(client_of(root))] == ["KILLED"]


@pytest.mark.slow
def test_impatient_ctrl_c_does_not_disturb_the_end_of_a_sweep(root: Path, tmp_path: Path) -> None:
    output, sweep = tmp_path / "output.txt", Sweep(root, "impatient")
    process = start(root, "study=impatient", "hydra.sweeper.n_trials=60", output=output)
    wait_until(lambda: "COMPLETE" in output.read_text(), process)
    interrupt(process, output, 0.05)
    assert process.wait() == 130
    shown = output.read_text()
    assert "Traceback" not in shown
    assert "study=impatient" in shown.partition("To resume: ")[2]
    states = {trial.state for trial in sweep.all_trials().values()}
    assert TrialState.COMPLETE in states
    assert TrialState.RUNNING not in states
    parents, children = sweep.runs()
    assert "RUNNING" not in {run.info.status for run in parents + children}


def close_output(process: "subprocess.Popen[str]") -> None:
    """Go away as ``| head`` does."""
    assert process.stdout is not None
    process.stdout.close()


def test_closed_output_ends_a_training_which_resumes_by_the_command_shown(root: Path) -> None:
    done = after("epoch 1/6", close_output, root, "epochs=6", "data.n_train=1000", *LEAN)
    assert_told(done, r"the output can't be written \(Broken pipe\)")
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FAILED"
    resume(root, done)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [ALONE, TWO])
def test_closed_output_ends_a_sweep_which_resumes_by_the_command_shown(
    root: Path, workers: str
) -> None:
    arguments = (*SWEEP, workers, "study=piped", "hydra.sweeper.n_trials=9")
    done = after("COMPLETE|PRUNED", close_output, root, *arguments)
    assert_told(done, r"the output can't be written \(Broken pipe\)")
    sweep = Sweep(root, "piped")
    finished = sweep.ended()
    assert 0 < len(finished) < 9
    resume(root, done)
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 9)


def test_output_without_unicode_is_no_fault(script: Script) -> None:
    done = script("train.py", "epochs=1", "tracking=none", *LEAN, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^val +accuracy", done.stdout, re.MULTILINE)
    assert done.stderr == ""


# Kills


@pytest.mark.slow
def test_sweep_whose_parent_is_killed_alone_ends_its_workers_and_resumes(
    root: Path, tmp_path: Path, script: Script
) -> None:
    arguments = ("study=orphaned", "hydra.sweeper.n_trials=9", "epochs=3")
    output, sweep = tmp_path / "output.txt", Sweep(root, "orphaned")
    process = start(root, *arguments, output=output)
    wait_until(lambda: re.search("COMPLETE|PRUNED", output.read_text()), process)
    workers = workers_of(process)  # and joblib's own helper
    assert len(workers) >= 2
    process.kill()
    process.wait()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    finished = sweep.ended()
    done = script("train.py", *SWEEP, TWO, *arguments)
    assert done.returncode == 0, done.stderr
    assert_kept(finished, sweep.trials())
    assert_whole(sweep, 9)


@pytest.mark.slow
def test_mlflow_server_that_is_killed_stops_a_sweep_which_resumes(
    root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "remote"
    folder.mkdir()
    arguments = command_line(
        "train.py", *SWEEP, ALONE, "study=remote", "hydra.sweeper.n_trials=6", "epochs=8"
    )
    sweep = Sweep(root, "remote")
    with server(folder) as (port, kill):
        env = environment(root, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        process = subprocess.Popen(
            arguments, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if re.search("COMPLETE|PRUNED", line):
                    kill()
                    break
            shown, errors = process.communicate()
    assert process.returncode == 1
    assert "the sweep was stopped: MLflow" in errors
    assert "study=remote" in errors.partition("To resume: ")[2]
    assert "Traceback" not in shown + errors
    finished = sweep.ended()
    assert 0 < len(finished) < 6
    assert TrialState.FAIL not in {trial.state for trial in finished.values()}

    with server(folder) as (port, _):
        env = environment(root, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        done = subprocess.run(arguments, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        runs = runs_of(MlflowClient(env["MLFLOW_TRACKING_URI"]))
    assert_kept(finished, sweep.trials())
    assert len(sweep.trials()) == 6
    assert "RUNNING" not in {run.info.status for run in runs}
    ended = [run for run in runs if run.info.status == "FINISHED"]
    assert len(ended) == 1 + 6


# Several at once


@pytest.mark.slow
def test_two_sweeps_and_a_training_start_at_once_from_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    raw = root / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (REPOSITORY / "data" / "MNIST" / "raw").glob("*.gz"):
        shutil.copy(archive, raw)
    own = f"paths.data={root / 'data'}"
    output = tmp_path / "output.txt"
    sweeps = [
        start(root, own, f"study={name}", "hydra.sweeper.n_trials=3", output=output)
        for name in ("one", "two")
    ]
    training = subprocess.Popen(
        [*command_line("train.py", "epochs=2", *LEAN), own],
        env=environment(root),
        stdout=subprocess.DEVNULL,
    )
    codes = [process.wait() for process in (*sweeps, training)]
    assert codes == [0, 0, 0], output.read_text()
    runs = runs_of(client_of(root))
    assert [run.info.status for run in runs] == ["FINISHED"] * len(runs)
    assert len(runs) == 2 * (1 + 3) + 1
    for name in ("one", "two"):
        trials = Sweep(root, name).trials().values()
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
