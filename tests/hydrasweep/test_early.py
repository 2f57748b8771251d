"""Workers that start and import while the sweep is checked."""

import time
from pathlib import Path

TWO = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "hydra.sweeper.check=heavy.check")
HEAVY = """
import os, pathlib, time
pathlib.Path(__file__).with_name(f"imported-{os.getpid()}").write_text(str(time.time()))

def check(cfg):
    if cfg.kind == "bad":
        raise ValueError("it is bad")
    until = time.time() + 20  # for two workers, and this process
    while len(list(pathlib.Path(__file__).parent.glob("imported-*"))) < 3:
        assert time.time() < until
        time.sleep(0.05)
    return 0.0
"""


def test_workers_import_while_the_sweep_is_checked_and_share_the_trials(app, tmp_path):
    """They also import modules beside the app."""
    (tmp_path / "heavy.py").write_text(HEAVY)
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    body = """
        assert "heavy" in sys.modules
        import beside
        hydrasweep.record(pid=os.getpid())
        while len(list(pathlib.Path().glob("worker-*"))) < 2:
            pathlib.Path(f"worker-{os.getpid()}").touch()
            time.sleep(0.05)
        return beside.double(cfg.x)
    """
    main = "before = dict(os.environ); task(); print('same', dict(os.environ) == before)"
    done = app(body, more="import joblib, pathlib", main=main)(*TWO, fresh=True, code=0)
    assert "same True" in done.out
    assert [trial.value for trial in done.trials()] == [2 * t.params["x"] for t in done.trials()]
    pids = {f"{float(row['pid']):.0f}" for row in done.table()}
    assert len(pids) == 2
    # The sweep's own process has imported the module, too.
    assert pids < {path.name.partition("-")[2] for path in tmp_path.glob("imported-*")}
    assert "beside" not in done.out + done.err


def test_workers_end_with_a_sweep_that_is_refused(app, tmp_path):
    (tmp_path / "heavy.py").write_text(HEAVY)
    done = app("return cfg.x", main="with hydrasweep.plain_exit(): task()")(
        *TWO, "kind=bad", fresh=True, code=1
    )
    assert done.err.startswith("Error: ValueError: it is bad\n")
    assert "kind=bad x=1.0" in done.err
    pids = [path.name.partition("-")[2] for path in tmp_path.glob("imported-*")]
    running = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    until = time.monotonic() + 10
    while any(b"Loky" in path.read_bytes() for path in running if path.exists()):
        assert time.monotonic() < until
        time.sleep(0.1)
