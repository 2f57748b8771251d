"""Whole sweeps of tiny apps, each run as a process of its own, through Hydra's command line."""

import csv
import importlib.util
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.search.queue import DROPPED, ERROR, OWNER

fork = multiprocessing.get_context("fork")

APP = """
import hydra
import hydrasweep.search
import math
import optuna
import os
import signal
import sys
import time

@hydra.main(config_path="conf", config_name="config")
def task(cfg):
{body}

{more}

if __name__ == "__main__":
    hydrasweep.search.register()
    task()
"""
CONFIG = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: random
hydra:
  sweep:
    dir: sweep
  sweeper:
    sampler:
      seed: 0
    study_name: s
    n_trials: 6
    params:
      x: interval(-1.0, 1.0)
x: 0.0
y: 0.0
kind: a
"""
# The configs of upstream's examples, as they stand in its repository.
SPHERE = """
defaults:
  - override hydra/sweeper: optuna
  - override hydra/sweeper/sampler: tpe

hydra:
  sweeper:
    sampler:
      seed: 123
    direction: minimize
    study_name: sphere
    storage: null
    n_trials: 20
    n_jobs: 1
    max_failure_rate: 0.0
    params:
      x: range(-5.5, 5.5, step=0.5)
      y: choice(-5 ,0 ,5)

x: 1
y: 1
z: 1

# if true, simulate a failure by raising an exception
error: false
"""
CUSTOM = """
defaults:
  - override hydra/sweeper: optuna

hydra:
  sweeper:
    sampler:
      seed: 123
    direction: minimize
    study_name: custom-search-space
    storage: null
    n_trials: 20
    n_jobs: 1

    params:
      x: range(-5.5, 5.5, 0.5)
      y: choice(-5, 0, 5)
    # `custom_search_space` should be a dotpath pointing to a
    # callable that provides search-space configuration logic:
    custom_search_space: app.configure

x: 1
y: 1
z: 100
max_z_difference_from_x: 0.5
"""
CONFIGURE = """
def configure(cfg, trial):
    x_value = trial.params["x"]
    trial.suggest_float(
        "z",
        x_value - cfg.max_z_difference_from_x,
        x_value + cfg.max_z_difference_from_x,
    )
    trial.suggest_float("+w", 0.0, 1.0)
"""


@dataclass
class Ended:
    """How a command ended, and the folder that it ran in."""

    code: int | None
    out: str
    err: str
    folder: Path

    def study(self, name: str = "s") -> Study:
        (path,) = self.folder.rglob("study.db")
        return optuna.load_study(study_name=name, storage=f"sqlite:///{path}")

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        return [t for t in self.study(name).trials if DROPPED not in t.user_attrs]

    def states(self, name: str = "s") -> list[str]:
        """Those still to begin as WAITING."""
        states = [trial.state.name for trial in self.trials(name)]
        return states + ["WAITING"] * (self.study(name).user_attrs.get("n_trials", 0) - len(states))


App = Callable[..., Ended]


def run(folder: Path, arguments: tuple[str, ...], fresh: bool = False) -> Ended:
    """``python app.py -m ARGUMENTS``.

    But for the time that imports take, unless ``fresh``, which joblib's workers need.
    """
    out, err = folder / "out.txt", folder / "err.txt"
    if fresh:
        done = subprocess.run(
            [sys.executable, "app.py", "-m", *arguments], cwd=folder, capture_output=True, text=True
        )
        return Ended(done.returncode, done.stdout, done.stderr, folder)

    def body() -> None:
        for path, fd in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        warnings.simplefilter("default")
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = ["app.py", "-m", *arguments]
        try:
            runpy.run_path("app.py", run_name="__main__")
        finally:
            sys.stdout.flush()

    process = fork.Process(target=body)
    process.start()
    process.join()
    return Ended(process.exitcode, out.read_text(), err.read_text(), folder)


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., App]:
    """``app(body)`` writes an app with that task function and gives the command that runs it."""

    def written(body: str, config: str = CONFIG, more: str = "") -> App:
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "config.yaml").write_text(config)
        text = APP.format(body=textwrap.indent(textwrap.dedent(body), "    "), more=more)
        (tmp_path / "app.py").write_text(text)
        return lambda *arguments, fresh=False: run(tmp_path, arguments, fresh)

    return written


# Upstream's examples


def test_upstreams_sphere_example_finds_the_minimum(app: Callable[..., App]) -> None:
    sphere = """
        x: float = cfg.x
        y: float = cfg.y

        if cfg.get("error", False):
            raise RuntimeError("cfg.error is True")

        return x**2 + y**2
    """
    done = app(sphere, SPHERE)()
    assert done.code == 0, done.err
    (path,) = done.folder.rglob("optimization_results.yaml")
    found: Any = OmegaConf.load(path)
    study = done.study("sphere")
    assert done.states("sphere") == ["COMPLETE"] * 20
    assert found.name == "optuna"
    assert found.best_params == study.best_params
    assert found.best_value == study.best_value == min(t.value for t in study.trials)
    assert found.best_value <= 0.25


def test_upstreams_failing_example_ends_with_its_error(app: Callable[..., App]) -> None:
    done = app('raise RuntimeError("cfg.error is True")', SPHERE)("hydra.job.chdir=true", "~z")
    assert done.code == 1
    assert "RuntimeError: cfg.error is True" in done.err
    assert done.states("sphere").count("FAIL") == 1


def test_upstreams_custom_search_space_example(app: Callable[..., App]) -> None:
    task = app("return cfg.w**2 + cfg.x**2 + cfg.y**2 + cfg.z**2", CUSTOM, CONFIGURE)
    done = task("hydra/sweeper/sampler=random", "max_z_difference_from_x=0.3")
    assert done.code == 0, done.err
    assert done.states("custom-search-space") == ["COMPLETE"] * 20
    for trial in done.trials("custom-search-space"):
        params = trial.params
        assert abs(params["x"] - params["z"]) <= 0.3
        assert 0 <= params["+w"] <= 1
        squares = [params[name] ** 2 for name in ("x", "y", "z", "+w")]
        assert trial.value == pytest.approx(sum(squares))


def test_worker_warms_up_once_before_its_first_trial(app: Callable[..., App]) -> None:
    warm_up = """
def warm_up(cfg):
    with open("warm.txt", "a") as file:
        file.write(cfg.kind)
"""
    task = app('return len(open("warm.txt").read())', more=warm_up)
    done = task("hydra.sweeper.warm_up=app.warm_up", "kind=abc")
    assert done.code == 0, done.err
    assert [trial.value for trial in done.trials()] == [3.0] * 6


def test_several_objectives_end_in_a_pareto_front(app: Callable[..., App]) -> None:
    done = app("return cfg.x, cfg.y")(
        "hydra.sweeper.direction=[minimize,maximize]", "y=interval(0,1)", "hydra.job.chdir=true"
    )
    assert done.code == 0, done.err
    found: Any = OmegaConf.load(done.folder / "sweep" / "optimization_results.yaml")
    values = [tuple(trial.values) for trial in done.trials()]
    front = [
        (x, y)
        for x, y in values
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in values)
    ]
    assert sorted(map(tuple, (s["values"] for s in found.solutions))) == sorted(front)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["cmaes", "gp", "nsgaii", "qmc"])
def test_upstreams_samplers_work_by_name(app: Callable[..., App], sampler: str) -> None:
    if sampler == "cmaes" and not importlib.util.find_spec("cmaes"):
        pytest.skip("the package cmaes is not installed")
    few = {"gp": ("hydra.sweeper.sampler.n_startup_trials=3",)}.get(sampler, ())
    done = app("return cfg.x**2 + cfg.y**2")(
        f"hydra/sweeper/sampler={sampler}", "y=interval(0,1)", "hydra.sweeper.n_trials=5", *few
    )
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 5
    assert len({trial.params["x"] for trial in done.trials()}) == 5


def test_grid_tries_each_point_once_and_goes_on_where_it_was(app: Callable[..., App]) -> None:
    grid = ("hydra/sweeper/sampler=grid", "x=0.5,1.5,2.5", "kind=a,b")
    task = app("time.sleep(0.3)\nreturn cfg.x")
    done = task(*grid, "hydra.sweeper.timeout=1")
    assert done.code == 0, done.err
    assert done.states().count("WAITING") > 0
    done = task(*grid)
    points = sorted((t.params["x"], t.params["kind"]) for t in done.trials())
    assert points == [(x, kind) for x in (0.5, 1.5, 2.5) for kind in "ab"]


# Failures


def test_failing_trial_fails_alone_with_its_traceback(app: Callable[..., App]) -> None:
    body = """
        if cfg.x < 0:
            raise RuntimeError(f"{cfg.x} is negative")
        return cfg.x
    """
    done = app(body)("hydra.sweeper.n_trials=10")
    assert done.code == 0, done.err
    for trial in done.trials():
        if trial.params["x"] < 0:
            assert trial.state == TrialState.FAIL
            assert "in task" in trial.user_attrs[ERROR]
            assert f"RuntimeError: {trial.params['x']} is negative" in trial.user_attrs[ERROR]
            log = done.folder / "sweep" / f"{trial.number:03d}" / "app.log"
            assert "is negative" in log.read_text()
        else:
            assert trial.state == TrialState.COMPLETE
            assert trial.value == trial.params["x"]
    assert 0 < done.states().count("FAIL") < 10
    assert "Traceback" not in done.out + done.err


def test_first_three_failing_alike_end_the_sweep(app: Callable[..., App]) -> None:
    done = app('raise RuntimeError("no such thing")')("hydra.sweeper.n_trials=9")
    assert done.code == 1
    assert sorted(done.states()) == ["FAIL"] * 3 + ["WAITING"] * 6
    assert "the first 3 trials failed alike: RuntimeError: no such thing" in done.err
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.out + done.err


def test_max_failures_end_the_sweep(app: Callable[..., App]) -> None:
    done = app('raise RuntimeError(f"{cfg.x}")')("hydra.sweeper.max_failures=1")
    assert done.code == 1
    assert "2 trials failed, and max_failures=1; the last with RuntimeError: " in done.err
    assert sorted(done.states()) == ["FAIL"] * 2 + ["WAITING"] * 4


@pytest.mark.parametrize("outage", ["OSError(28, 'No space left')", "errors.Outage('no store')"])
def test_outage_stops_the_sweep_and_blames_no_trial(
    app: Callable[..., App], tmp_path: Path, outage: str
) -> None:
    body = f"""
        from hydrasweep import errors
        if cfg.x < 0 and not os.path.exists("repaired"):
            raise {outage}
        return cfg.x
    """
    task = app(body)
    done = task()
    assert done.code == 1
    assert re.search(r"the sweep was stopped: .*no .*To go on: python app\.py", done.err, re.I)
    assert "Traceback" not in done.out + done.err
    n_done = done.states().count("COMPLETE")
    assert done.states().count("WAITING") == 6 - n_done
    assert n_done < 6
    (tmp_path / "repaired").touch()
    done = task()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6


def test_clock_that_is_set_back_ends_nothing(app: Callable[..., App]) -> None:
    body = """
        import psutil
        from optuna.storages._rdb import storage
        if cfg.x < 0:
            psutil._psplatform.boot_time = lambda: 0.0
            storage.datetime = Earlier
        return cfg.x
    """
    more = """
from datetime import datetime, timedelta

class Earlier(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(hours=1)
"""
    done = app(body, more=more)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6
    with (done.folder / "sweep" / "trials.csv").open() as file:
        assert min(float(row["duration_s"]) for row in csv.DictReader(file)) >= 0
    assert any(t.duration.total_seconds() < 0 for t in done.trials() if t.duration)


@pytest.mark.slow
def test_storage_that_fails_for_a_while_hangs_nothing(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        import subprocess
        if cfg.x < 0 and not os.path.exists("locked"):
            open("locked", "w").close()
            holder = [sys.executable, "hold.py"]
            subprocess.Popen(holder, stdout=subprocess.PIPE).stdout.readline()
        return cfg.x
    """
    (tmp_path / "hold.py").write_text(
        "import sqlite3, time\n"
        "connection = sqlite3.connect('sweep/study.db')\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('held', flush=True)\n"
        "time.sleep(4)\n"
    )
    task = app(body)
    storage = "hydra.sweeper.storage='sqlite:///sweep/study.db?timeout=0.1'"
    done = task(storage)
    assert done.code == 1
    assert done.err.startswith("Error: hydra.sweeper.storage failed (OperationalError: database is")
    assert len(done.err.splitlines()) == 1
    finished = done.states().count("COMPLETE")
    assert finished < 6
    time.sleep(5)  # until it is let go
    done = task(storage)
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6


@pytest.mark.parametrize("call", ["storage.set_trial_intermediate_value", "study.tell"])
def test_storage_that_fails_for_a_moment_blames_no_trial(
    app: Callable[..., App], call: str
) -> None:
    owner, _, name = call.partition(".")
    body = f"""
        from hydrasweep.search import trial
        owner = trial.current()._trial.{owner}
        def fail(*args, **kwargs):
            del owner.{name}
            raise optuna.exceptions.StorageInternalError("no answer")
        if cfg.x < 0 and not os.path.exists("failed"):
            open("failed", "w").close()
            owner.{name} = fail
        trial.current().report({{"x": cfg.x}}, ["x"], 1)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6
    (lost,) = (trial for trial in done.study().trials if DROPPED in trial.user_attrs)
    assert lost.params in [trial.params for trial in done.trials()]


def test_what_is_no_result_is_a_failure(app: Callable[..., App]) -> None:
    body = """
        if cfg.kind == "exit":
            sys.exit("no more")
        return {"no_number": math.nan, "nothing": None, "two": [1.0, 2.0], "a": 1}[cfg.kind]
    """
    words = {
        "no_number": "not nan",
        "nothing": "not None",
        "two": "1 number",
        "exit": "SystemExit: no more",
    }
    enqueue = ",".join(f"{{kind: {kind}}}" for kind in ("a", *words))
    done = app(body)(
        "kind=choice(a,no_number,nothing,two,exit)",
        f"hydra.sweeper.enqueue=[{enqueue}]",
        "hydra.sweeper.n_trials=5",
    )
    assert done.code == 0, done.err
    for trial in done.trials():
        kind = trial.params["kind"]
        assert trial.state == (TrialState.COMPLETE if kind == "a" else TrialState.FAIL)
        assert words.get(kind, "") in trial.user_attrs.get(ERROR, "")
    assert {trial.params["kind"] for trial in done.trials()} == {"a", *words}


def test_task_function_may_prune_in_optunas_way(app: Callable[..., App]) -> None:
    body = """
        if cfg.x < 0:
            raise optuna.TrialPruned
        return cfg.x
    """
    done = app(body)("hydra.sweeper.max_failures=0")
    assert done.code == 0, done.err
    for trial in done.trials():
        pruned = trial.params["x"] < 0
        assert trial.state == (TrialState.PRUNED if pruned else TrialState.COMPLETE)
    assert 0 < done.states().count("PRUNED") < 6


@pytest.mark.slow
def test_trial_that_kills_its_worker_fails_alone(app: Callable[..., App]) -> None:
    body = """
        time.sleep(1.5 if cfg.x < 0.5 else 0.5)  # joblib kills whoever works beside it
        if cfg.x > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return cfg.x
    """
    done = app(body)(
        "hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "x=interval(-1.0, 0.8)",
        "hydra.sweeper.enqueue=[{x: 0.75}, {x: 0.8}]", fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "A worker was lost (TerminatedWorkerError)" in done.out
    assert len(done.trials()) == 6
    for trial in done.trials():
        deadly = trial.params["x"] > 0.5
        assert trial.state == (TrialState.FAIL if deadly else TrialState.COMPLETE)
    assert "FAIL" in done.states()
    assert TrialState.RUNNING not in {trial.state for trial in done.study().trials}


@pytest.mark.slow
def test_workers_that_die_before_any_trial_ends_stop_the_sweep(
    app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--process-name' in sys.orig_argv:\n    os.kill(os.getpid(), 9)\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), path]))
    two = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2")
    task = app("return cfg.x")
    done = task(*two, fresh=True)
    assert done.code == 1
    assert re.match(r"Error: the workers were lost .*\. To go on: python app\.py", done.err)
    assert "Traceback" not in done.out + done.err
    assert done.states() == ["WAITING"] * 6
    (tmp_path / "sitecustomize.py").unlink()
    done = task(*two, fresh=True)
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6


def test_worker_goes_on_after_a_trial_that_others_took_for_lost(app: Callable[..., App]) -> None:
    body = """
        study = optuna.load_study(study_name="s", storage="sqlite:///sweep/study.db")
        if len(study.trials) == 3:
            study.tell(2, state=optuna.trial.TrialState.FAIL)
        return cfg.x
    """
    done = app(body)()
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 2 + ["FAIL"] + ["COMPLETE"] * 3
    assert ERROR not in done.trials()[2].user_attrs


# How much, and in which order


def test_no_trial_begins_after_the_timeout(app: Callable[..., App]) -> None:
    done = app("time.sleep(1.5)\nreturn cfg.x")("hydra.sweeper.timeout=2")
    assert done.code == 0, done.err
    assert 0 < done.states().count("COMPLETE") < 6
    assert set(done.states()) == {"COMPLETE", "WAITING"}


def test_enqueued_settings_are_tried_first(app: Callable[..., App]) -> None:
    done = app("return cfg.x")("hydra.sweeper.enqueue=[{x: 0.25},{x: -0.75}]")
    assert done.code == 0, done.err
    begun = sorted(done.trials(), key=lambda trial: trial.datetime_start)  # type: ignore[arg-type,return-value]
    assert [trial.value for trial in begun[:2]] == [0.25, -0.75]
    assert len(begun) == 6


def test_each_stratum_has_a_study_and_an_equal_share(app: Callable[..., App]) -> None:
    done = app("return cfg.x if cfg.kind == 'a' else cfg.x + 10")(
        "kind=choice(a,b,c)", "hydra.sweeper.stratify=kind"
    )
    assert done.code == 0, done.err
    for kind in "abc":
        assert done.states(f"s/{kind}") == ["COMPLETE"] * 2
        for trial in done.trials(f"s/{kind}"):
            assert trial.value == trial.params["x"] + (0 if kind == "a" else 10)
            assert trial.params.keys() == {"x"}
            assert (done.folder / "sweep" / f"{kind}-{trial.number:03d}").is_dir()
    with (done.folder / "sweep" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["kind"] for row in rows) == list("aabbcc")


def test_same_seed_gives_the_same_trials(app: Callable[..., App]) -> None:
    task = app("return cfg.x**2")
    params = []
    for folder in ("one", "two"):
        done = task(
            f"hydra.sweep.dir={folder}", "hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials=4"
        )
        study = optuna.load_study(
            study_name="s", storage=f"sqlite:///{done.folder}/{folder}/study.db"
        )
        params.append([trial.params for trial in study.trials])
    assert params[0] == params[1]
    assert len(params[0]) == 4


def test_output_of_a_trial_goes_to_its_log_and_not_to_the_screen(app: Callable[..., App]) -> None:
    done = app("print('trial of', cfg.x)\nreturn cfg.x")()
    assert "trial of" not in done.out + done.err
    for trial in done.trials():
        log = done.folder / "sweep" / f"{trial.number:03d}" / "app.log"
        assert log.read_text().count(f"trial of {trial.params['x']}") == 1


@pytest.mark.slow
def test_no_worker_waits_for_another(app: Callable[..., App]) -> None:
    lengths = [0.5, 3.0, 0.6, 2.5, 0.7, 2.0, 0.8, 1.5, 0.9, 1.0, 0.4, 2.9, 0.3, 2.4, 1.6]
    points = ",".join(f"{{x: {length}}}" for length in lengths)
    done = app("time.sleep(cfg.x)\nreturn cfg.x")(
        "hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "x=interval(0,3)",
        f"hydra.sweeper.n_trials={len(lengths)}", f"hydra.sweeper.enqueue=[{points}]",
        fresh=True,
    )  # fmt: skip
    assert done.code == 0, done.err
    spans: dict[str, list[tuple[Any, Any]]] = {}
    for trial in sorted(done.trials(), key=lambda trial: trial.datetime_start):  # type: ignore[arg-type,return-value]
        span = (trial.datetime_start, trial.datetime_complete)
        spans.setdefault(trial.user_attrs[OWNER]["pid"], []).append(span)
    assert len(spans) == 2
    both_began = max(of_one[0][0] for of_one in spans.values())
    none_left = max(of_one[-1][0] for of_one in spans.values())
    for of_one in spans.values():
        idle = sum(
            max(0.0, (min(later, none_left) - max(ended, both_began)).total_seconds())
            for (_, ended), (later, _) in pairwise(of_one)
        )
        assert idle <= 0.05 * (none_left - both_began).total_seconds()


def test_storages_address_is_in_no_file_and_no_output(
    app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRASWEEP_STORAGE", f"sqlite:///{tmp_path}/hunter2.db")
    node = "{_target_: hydrasweep.search.storage.database, url: '${oc.env:HYDRASWEEP_STORAGE}'}"
    done = app("return cfg.x")(f"hydra.sweeper.storage={node}")
    assert done.code == 0, done.err
    assert "hunter2" not in done.out + done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"hydra.yaml", "app.log", "hunter2.db"} <= {path.name for path in files}
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_journal_file_is_a_storage(app: Callable[..., App]) -> None:
    backend = "{_target_: optuna.storages.journal.JournalFileBackend, file_path: sweep/study.log}"
    node = f"{{_target_: optuna.storages.JournalStorage, log_storage: {backend}}}"
    task = app("return cfg.x")
    done = task(f"hydra.sweeper.storage={node}")
    assert done.code == 0, done.err
    with (done.folder / "sweep" / "trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["COMPLETE"] * 6
    assert "is finished: 6 trials" in task(f"hydra.sweeper.storage={node}").out


# Going on


def test_study_goes_on_by_its_name(app: Callable[..., App]) -> None:
    task = app("return cfg.x")
    first = task().trials()
    done = task()
    assert done.code == 0
    assert "Study s is finished: 6 trials." in done.out
    assert done.trials() == first
    done = task("hydra.sweeper.n_trials=8")
    assert done.trials()[:6] == first
    assert done.states() == ["COMPLETE"] * 8
    assert len({trial.params["x"] for trial in done.trials()}) == 8
    done = task("x=interval(-1.0, 2.0)")
    assert done.code == 1
    assert "study=s exists with another search space" in done.err
    assert '"high": 1.0' in done.err
    assert '"high": 2.0' in done.err
    done = task("hydra.sweeper.study_name=other", "x=interval(-1.0, 2.0)")
    assert done.states("other") == ["COMPLETE"] * 6
    assert done.states() == ["COMPLETE"] * 8


@pytest.mark.parametrize("becomes", ["raise", "raise AttributeError from None", "pass"])
def test_interrupted_sweep_goes_on_by_the_command_that_it_prints(
    app: Callable[..., App], becomes: str
) -> None:
    """Whatever a library makes of the interruption where that comes in the middle of its work."""
    body = f"""
        if cfg.x < 0 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                {becomes}
        return cfg.x
    """
    task = app(body, CONFIG.replace("dir: sweep", "dir: sweeps/${now:%H-%M-%S-%f}"))
    done = task()
    assert done.code == 130
    assert "KeyboardInterrupt" not in done.err
    n_done = done.states().count("COMPLETE")
    assert sorted(done.states()) == ["COMPLETE"] * n_done + ["WAITING"] * (6 - n_done)
    lost = [trial for trial in done.study().trials if DROPPED in trial.user_attrs]
    assert len(lost) == (becomes != "pass")
    words = shlex.split(done.err.partition("Stopped. To go on: ")[2])
    assert words[:3] == ["python", "app.py", "-m"]
    done = task(*words[3:])
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 6
    again = sorted(done.trials(), key=lambda trial: trial.datetime_start)[n_done]  # type: ignore[arg-type,return-value]
    assert [again.params] * len(lost) == [trial.params for trial in lost]


# What is refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.sweeper.study_name=../x", "study=../x: must be"),
        ("hydra.sweeper.study_name=a/b", "study=a/b: must be"),
        ("hydra.sweeper.study_name='a b'", "study=a b: must be"),
        ("hydra.sweeper.study_name='\"'", 'study=": must be'),
        ("hydra.sweeper.study_name=..", "study=..: must be"),
        ("hydra.sweeper.study_name=''", "study=: must be"),
        ("hydra.sweeper.enqueue=[{x: 5}]", "hydra.sweeper.enqueue={'x': 5}: x=5 is not in"),
        ("hydra.sweeper.study_name='-a'", "study=-a: must be"),
        ("+n_trials=3", "n_trials: a setting of the sweeper that stands at the top level"),
        ("hydra.n_trials=3", "n_trials"),
        ("hydra.sweeper.n_trails=3", "n_trails"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction=up: must be"),
        ("hydra.sweeper.direction=[minimize,up]", "hydra.sweeper.direction=up: must be"),
        ("hydra.sweeper.n_workers=0", "hydra.sweeper.n_workers=0: must be"),
        ("hydra.sweeper.n_trials=-1", "hydra.sweeper.n_trials=-1: must be"),
        ("hydra.sweeper.stratify=kind", "hydra.sweeper.stratify=kind: must be"),
        ("hydra/sweeper/sampler=tpee", "tpee"),
        ("+hydra.sweeper.sampler.sed=1", "hydra.sweeper.sampler: "),
        ("z=interval(0,1)", "z"),
        ("x=tag(log,interval(-1,1))", "x=tag(log,interval(-1,1)): can't be searched"),
        ("+hydra.sweeper.pruner._target_=optuna.pruners.NoSuchPruner", "NoSuchPruner"),
    ],
)
def test_wrong_setting_is_refused_before_anything_runs(
    app: Callable[..., App], override: str, words: str
) -> None:
    done = app("return cfg.x")(override, "hydra/launcher=joblib")
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err
    assert not list(done.folder.rglob("study.db"))


def test_zero_trials_show_the_plan_and_run_nothing(app: Callable[..., App]) -> None:
    done = app("return cfg.x")("hydra.sweeper.n_trials=0", "y=choice(1.0,2.0)")
    assert done.code == 0
    assert "x: -1 to 1" in done.out
    assert "y: one of 1.0, 2.0" in done.out
    assert not list(done.folder.rglob("study.db"))
