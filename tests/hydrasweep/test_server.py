"""The server that trials are forked from: what it imports, and when it may be forked."""

import threading
from contextlib import closing

from hydrasweep import server
from hydrasweep.processes import Processes

SLOW = """
import os
BY = os.getpid()
"""


def test_modules_that_trials_import_are_imported_once_for_those_that_follow(app, tmp_path):
    (tmp_path / "lazily.py").write_text(SLOW)
    body = """
        import lazily
        time.sleep(0.5)  # for the server to learn
        hydrasweep.record(own=lazily.BY == os.getpid())
        return cfg.x
    """
    done = app(body)("hydra.sweeper.n_trials=4", code=0)
    own = [row["own"] for row in done.table()]
    assert own[0] == "1.0"
    assert own[-1] == "0.0"


def test_module_that_depends_on_a_variable_that_the_trial_sets_is_imported_by_each(app, tmp_path):
    (tmp_path / "looks.py").write_text("import os\nSEEN = os.environ['BACKEND']\n")
    body = """
        os.environ["BACKEND"] = f"{cfg.x}"
        import looks
        time.sleep(0.3)
        assert looks.SEEN == f"{cfg.x}"
        return cfg.x
    """
    assert app(body)(code=0).states() == ["COMPLETE"] * 4


def test_module_that_starts_a_thread_is_left_to_the_trials(app, tmp_path):
    (tmp_path / "starts.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    body = """
        import starts
        time.sleep(0.3)
        hydrasweep.record(pid=os.getpid())
        return cfg.x
    """
    done = app(body)(code=0)
    assert len({row["pid"] for row in done.table()}) == 4


def test_process_with_another_thread_is_not_forked():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="mine")
    before = server.fork_obstacle()
    thread.start()
    found = server.fork_obstacle()
    ended.set()
    thread.join()
    assert "mine" in found
    assert "mine" not in before


def return_a_megabyte(app):
    del app
    return "x" * 1_000_000


def test_result_of_a_job_may_be_larger_than_a_pipe_takes():
    with closing(Processes(server.App(print, None))) as processes:
        assert len(processes.call(return_a_megabyte)) == 1_000_000
