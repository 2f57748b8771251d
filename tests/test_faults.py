"""Faults of the machine: what was finished is kept, a sentence says what to do, nothing hangs.

Kills and interruptions of a single training are in test_train.py, those of sweeps in
test_sweep.py, stores that fail in test_tracking.py, and damaged files beside what reads them.
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
from conftest import (
    REPOSITORY,
    Compose,
    Script,
    at_line,
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
from test_sweep import ALONE, SWEEP, TWO, Sweep, assert_whole, start, wait_until, workers_of

from hydrasweep import config
from hydrasweep.errors import Outage
from train import train

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


# A disk that is full


def test_checkpoint_on_a_full_disk_keeps_the_last_one(
    compose: Compose, root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    cfg = compose("epochs=3", *LEAN)
    with disk(folder, "1m") as resize:  # one checkpoint has room, and a second beside it has not
        with pytest.raises(Outage, match=r"last\.pt can't be written \(No space left on device\)"):
            train(cfg, folder)
        assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 1
        assert steps(folder) == [1, 2]
        assert not list(folder.glob(".*.tmp"))
        client = client_of(root)
        (run,) = runs_of(client)
        assert run.info.status == "FAILED"
        resize("8m")
        train(cfg, folder)
        assert steps(folder) == [1, 2, 3]
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert epochs_of(client, run) == [1, 2, 3]


@pytest.mark.parametrize(("size", "place"), [("200k", ".cache"), ("30m", "data")])
def test_data_on_a_full_disk_are_read_once_there_is_room(
    compose: Compose, tmp_path: Path, size: str, place: str
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
        data = config.build(compose(f"paths.data={folder}", "data.n_train=90", "data.n_val=9").data)
        with pytest.raises(Outage, match="No space left on device") as told:
            data.development()
        assert str(folder) in str(told.value)
        assert not list(folder.rglob("*.tmp"))
        resize("200m")
        assert len(data.development()[0].labels) == 90


def test_full_store_keeps_results_until_there_is_room(
    compose: Compose, root: Path, output_dir: Path, tmp_path: Path
) -> None:
    cfg = compose(f"paths.root={tmp_path / 'small'}", "epochs=4", *LEAN)
    with disk(tmp_path / "small", "4m") as resize:
        shutil.copy(root / "mlflow.db", tmp_path / "small")

        def fill() -> None:
            rest = shutil.disk_usage(tmp_path / "small").free
            (tmp_path / "small" / "rest").write_bytes(bytes(rest))

        with at_line("epoch 2/4", fill), pytest.raises(Outage, match=r"full.*Nothing is lost"):
            train(cfg, output_dir)
        assert steps(output_dir) == [1, 2, 3, 4]
        resize("40m")
        train(cfg, output_dir)
        client = client_of(tmp_path / "small")
        (run,) = runs_of(client)
        assert run.info.status == "FINISHED"
        assert epochs_of(client, run) == [1, 2, 3, 4]


@pytest.mark.slow
def test_sweep_on_a_full_disk_goes_on_once_there_is_room(script: Script, root: Path) -> None:
    arguments = (*SWEEP, ALONE, "epochs=1", "study=full", "hydra.sweeper.n_trials=12")
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
        assert "study=full" in done.stderr.partition("To go on: ")[2]
        done = script("train.py", *arguments)
        assert done.returncode == 0, done.stderr
        assert finished.items() <= sweep.trials().items()
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
        r"Error: hydra\.(run|sweep)\.dir=.* can't be written \(Read-only file system\): .*\n",
        done.stderr,
    )
    assert runs_of(client_of(root)) == []


def test_read_only_mlruns_lose_nothing(compose: Compose, root: Path, output_dir: Path) -> None:
    cfg = compose("epochs=2", "score_test=false")
    with read_only(root / "mlruns"), pytest.raises(Outage, match=r"Read-only.*Nothing is lost"):
        train(cfg, output_dir)
    client = client_of(root)
    (run,) = runs_of(client)
    assert run.info.status == "FAILED"
    assert steps(output_dir) == [1, 2]
    train(cfg, output_dir)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert {"config.yaml", "model.pt"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


# Signals and standard output


def test_impatient_ctrl_c_does_not_disturb_the_end(root: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command_line("train.py", *LONG),
        cwd=tmp_path,
        env=environment(root),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch  2/50" in line:
                break
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "python src/train.py resume=" in errors
    assert "Traceback" not in errors
    assert [run.info.status for run in runs_of(client_of(root))] == ["KILLED"]


@pytest.mark.slow
def test_impatient_ctrl_c_does_not_disturb_the_end_of_a_sweep(root: Path, tmp_path: Path) -> None:
    output, sweep = tmp_path / "output.txt", Sweep(root, "impatient")
    process = start(root, "study=impatient", "hydra.sweeper.n_trials=60", output=output)
    wait_until(lambda: re.search("COMPLETE|PRUNED", output.read_text()), process)
    while process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    assert process.returncode == 130
    assert "Traceback" not in output.read_text()
    states = {trial.state for trial in sweep.all_trials().values()}
    assert TrialState.COMPLETE in states
    assert TrialState.RUNNING not in states
    parents, children = sweep.runs()
    assert "RUNNING" not in {run.info.status for run in parents + children}


def output_closed_after(line: str, root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and errors of a run whose reader goes away, as in ``| head``."""
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
                break
        process.stdout.close()
        errors = process.stderr.read()
    return process.returncode, errors


def going_on(root: Path, errors: str) -> "subprocess.CompletedProcess[str]":
    """Run the command that an ended one gave."""
    _, *words = shlex.split(errors.partition("To go on: ")[2])
    return subprocess.run(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment(root),
        capture_output=True,
        text=True,
    )


def test_closed_output_ends_a_training_which_goes_on_by_the_command_shown(root: Path) -> None:
    code, errors = output_closed_after("epoch 1/6", root, "epochs=6", "data.n_train=1000", *LEAN)
    assert code == 1
    assert errors.startswith("Error: the output can't be written (Broken pipe). To go on: python ")
    assert len(errors.splitlines()) == 1
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FAILED"
    done = going_on(root, errors)
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert epochs_of(client_of(root), run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [ALONE, TWO])
def test_closed_output_ends_a_sweep_which_goes_on_by_the_command_shown(
    root: Path, workers: str
) -> None:
    code, errors = output_closed_after(
        "COMPLETE", root, *SWEEP, workers, "study=piped", "hydra.sweeper.n_trials=9"
    )
    assert code == 1
    assert "Error: the output can't be written (Broken pipe). To go on: python " in errors
    assert "Traceback" not in errors
    sweep = Sweep(root, "piped")
    finished = {k: t for k, t in sweep.trials().items() if t.state.is_finished()}
    assert 0 < len(finished) < 9
    done = going_on(root, errors)
    assert done.returncode == 0, done.stderr
    assert finished.items() <= sweep.trials().items()
    assert_whole(sweep, 9)


def test_output_without_unicode_is_no_fault(script: Script) -> None:
    done = script("train.py", "epochs=1", "tracking=none", *LEAN, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "val/accuracy" in done.stdout
    assert done.stderr == ""


# Kills


@pytest.mark.slow
def test_sweep_whose_parent_is_killed_alone_ends_its_workers_and_goes_on(
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
    finished = {k: t for k, t in sweep.trials().items() if t.state.is_finished()}
    done = script("train.py", *SWEEP, TWO, *arguments)
    assert done.returncode == 0, done.stderr
    assert finished.items() <= sweep.trials().items()
    assert_whole(sweep, 9)


@pytest.mark.slow
def test_mlflow_server_that_is_killed_stops_a_sweep_which_goes_on(
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
    assert "study=remote" in errors.partition("To go on: ")[2]
    assert "Traceback" not in shown + errors
    finished = {k: t for k, t in sweep.trials().items() if t.state.is_finished()}
    assert 0 < len(finished) < 6
    assert TrialState.FAIL not in {trial.state for trial in finished.values()}

    with server(folder) as (port, _):
        env = environment(root, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
        done = subprocess.run(arguments, env=env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        runs = runs_of(MlflowClient(env["MLFLOW_TRACKING_URI"]))
    assert finished.items() <= sweep.trials().items()
    assert len(sweep.trials()) == 6
    assert "RUNNING" not in {run.info.status for run in runs}
    ended = [run for run in runs if run.info.status in ("FINISHED", "KILLED")]
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
