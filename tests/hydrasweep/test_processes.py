"""Processes of trials: what they inherit, what they leave behind, and how they are started."""

import os
import sys
from pathlib import Path

import pytest

from hydrasweep.processes import python_path


def test_new_processes_can_import_what_this_one_can(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/some/where", *sys.path, "/some/where", os.__file__])
    found = python_path().split(os.pathsep)
    assert found[:2] == [str(tmp_path), "/some/where"]
    assert found.count("/some/where") == 1
    assert all(Path(path).is_absolute() for path in found)
    assert not [path for path in found if path.endswith("site-packages")]


# What a trial leaves behind


def test_trial_leaves_nothing_to_the_next_one(app):
    body = """
        assert "leaked" not in os.environ
        assert state["trials"] == 0
        assert os.getcwd() == start
        import psutil
        hydrasweep.record(memory=psutil.Process().memory_info().rss / 1e6)
        state["trials"] += 1
        os.environ["leaked"] = "1"
        os.chdir("/")
        os.umask(0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        optuna.logging.set_verbosity(optuna.logging.DEBUG)
        sys.modules["leaked"] = sys
        sys.path.clear()
        cycle = [bytearray(b"1" * 50_000_000)]
        cycle.append(cycle)
        return cfg.x
    """
    done = app(body, more="state = {'trials': 0}\nstart = os.getcwd()")(code=0)
    assert done.states() == ["COMPLETE"] * 4
    memory = [float(row["memory"]) for row in done.table()]
    assert max(memory) < min(memory) + 25


@pytest.mark.parametrize("isolate", ["true", "false"])
def test_trials_have_a_process_of_their_own_unless_they_share_one(app, isolate):
    body = "hydrasweep.record(pid=os.getpid())\nreturn cfg.x"
    done = app(body)(f"hydra.sweeper.isolate={isolate}", code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert len({row["pid"] for row in done.table()}) == (4 if isolate == "true" else 1)
    assert ("isolate=false" in done.out) == (isolate == "false")
    for trial in done.trials():
        assert (done.folder / "sweep" / f"{trial.number:03d}" / "app.log").exists()


def test_trials_that_share_processes_run_in_as_many_as_there_are_slots(app):
    body = """
        hydrasweep.record(pid=os.getpid())
        meet(2)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.isolate=false", "hydra.sweeper.n_workers=2", code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert len({row["pid"] for row in done.table()}) == 2


THREAD = """
import threading

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""


def test_app_with_a_thread_runs_its_trials_in_forks_of_a_new_process(app):
    """Forking a process with threads is not safe: its app is sent to a new one."""
    task = app("hydrasweep.record(pid=os.getpid())\nreturn twice(cfg.x)", more=THREAD +
               "def twice(x):\n    return 2 * x")  # fmt: skip
    done = task(code=0)
    assert [trial.value for trial in done.trials()] == [2 * t.params["x"] for t in done.trials()]
    assert len({row["pid"] for row in done.table()}) == 4


def test_trials_share_a_process_where_forking_is_never_safe(app, tmp_path):
    (tmp_path / "starts.py").write_text(f"import time\n{THREAD}")
    body = "hydrasweep.record(pid=os.getpid())\nreturn cfg.x"
    (tmp_path / "checks.py").write_text("import starts\ndef check(cfg): return 0.0")
    done = app(body)("hydra.sweeper.check=checks.check", code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert len({row["pid"] for row in done.table()}) == 1
    assert "threads" in done.out


@pytest.mark.parametrize("dies", ["the server", "the process of the trial"])
def test_worker_goes_on_when_a_process_is_killed(app, dies):
    body = f"""
        import psutil
        if cfg.x < 0 and not os.path.exists("killed"):
            open("killed", "w").close()
            process = psutil.Process()
            (process.parent() if {dies == "the server"} else process).kill()
            time.sleep(60)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.n_workers=2", code=0)
    assert done.states() == ["COMPLETE"] * 4
    assert 1 <= len(done.lost()) <= 2


# GPUs


def test_each_trial_and_each_module_sees_its_own_gpu(app, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    (tmp_path / "looks.py").write_text("import os\nSEEN = os.environ['CUDA_VISIBLE_DEVICES']\n")
    body = """
        import looks
        hydrasweep.record(gpu=int(looks.SEEN), now=int(os.environ["CUDA_VISIBLE_DEVICES"]))
        meet(2)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.n_workers=auto", fresh=True, code=0)
    assert {row["gpu"] for row in done.table()} == {"4.0", "7.0"}
    assert all(row["gpu"] == row["now"] for row in done.table())


# Where the task function is defined


def test_task_function_may_be_a_closure(app):
    body = "raise AssertionError('the wrapped one is called')"
    main = """factor = 3
    def scaled(cfg):
        return factor * cfg.x
    hydra.main(config_path="conf", config_name="config")(scaled)()"""
    done = app(body, main=main)(code=0)
    assert [trial.value for trial in done.trials()] == [3 * t.params["x"] for t in done.trials()]


@pytest.mark.parametrize("more", ["", THREAD], ids=["forked", "sent"])
def test_task_function_may_be_in_a_package_that_is_run_by_its_name(app, tmp_path, more):
    app("return 0.0")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    text = (tmp_path / "app.py").read_text().replace('"conf"', f"'{tmp_path}/conf'")
    text = text.replace("    return 0.0", "    return double(cfg.x)")
    text = text.replace(
        "import hydra\n",
        "import hydra\nfrom .beside import double\n"
        + more.replace("time.sleep", "__import__('time').sleep"),
        1,
    )
    (tmp_path / "package" / "__main__.py").write_text(text)
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "package", "-m"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "4 COMPLETE" in done.stdout


def test_classes_of_the_script_can_be_pickled_in_a_trial(app):
    """As torch.save does with a model."""
    more = "import pickle\nclass Model:\n    def __init__(self, x):\n        self.x = x"
    body = "return pickle.loads(pickle.dumps(Model(cfg.x))).x"
    assert app(body, more=more)("hydra.sweeper.n_workers=2", code=0).states() == ["COMPLETE"] * 4


def test_seeds_that_the_app_sets_when_it_is_imported_hold_in_each_trial(app):
    body = "import numpy\nhydrasweep.record(n=numpy.random.rand())\nreturn cfg.x"
    seeded = app(body, more="import numpy\nnumpy.random.seed(0)")
    assert len({row["n"] for row in seeded(code=0).table()}) == 1


def test_trials_of_an_app_that_sets_no_seed_draw_different_numbers(app):
    body = "hydrasweep.record(n=numpy.random.rand())\nreturn cfg.x"
    done = app(body, more="import numpy")(fresh=True, code=0)
    assert len({row["n"] for row in done.table()}) == 4


def test_start_method_of_the_app_holds_in_trials(app):
    more = "import multiprocessing\nmultiprocessing.set_start_method('spawn')"
    body = "assert multiprocessing.get_start_method() == 'spawn'\nreturn cfg.x"
    assert app(body, more=more)(fresh=True, code=0).states() == ["COMPLETE"] * 4


def test_exit_functions_of_a_trial_are_called_at_its_end_and_no_others(app):
    body = """
        import atexit
        atexit.register(lambda: open(f"ended-{cfg.x}", "w").close())
        return cfg.x
    """
    more = "import atexit\natexit.register(lambda: open(f'main-{os.getpid()}', 'w').close())"
    done = app(body, more=more)(fresh=True, code=0)
    names = [path.name for path in done.folder.iterdir()]
    assert sum(name.startswith("ended-") for name in names) == 4
    assert sum(name.startswith("main-") for name in names) == 1


def test_next_phase_begins_at_once_and_nothing_is_warned_of(app):
    """joblib ends workers whose memory has grown by 300 MB, and warns of it."""
    body = """
        kept.append(bytearray(b"1" * 400_000_000))
        return cfg.x
    """
    done = app(body, more="kept = []")(
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.n_workers=2", fresh=True, code=0
    )
    assert done.err == ""
    assert "UserWarning" not in done.out
