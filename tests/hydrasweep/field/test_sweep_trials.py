"""What task functions return, leave behind, and how they fail."""

import pytest
from optuna.trial import TrialState

from hydrasweep.stratum import ERROR, WHY

NUMBERS = {
    "np.float32(0.5)": 0.5,
    "np.array(0.5)": 0.5,
    "Tensor()": 0.5,
    "(0.5,)": 0.5,
    "True": 1.0,
    "'0.9'": 0.9,
}
OTHERS = [
    "None",
    "{'loss': 0.5}",
    "b'0.9'",
    "0.5 + 1j",
    "np.float64('nan')",
    "10**400",
    "(0.5, {'history': []})",
]


def test_numbers_count_and_anything_else_fails_its_trial(app):
    """They returned nothing by accident, the history of a training, a tensor, or NaN. The stock
    sweeper ends at NaN.

    Sources: github.com/optuna/optuna/issues/3361 and 1546,
    github.com/facebookresearch/hydra/issues/2237
    """
    values = [*NUMBERS, *OTHERS]
    body = f"""
        import numpy as np
        class Tensor:  # a tensor without dimensions
            def __float__(self):
                return 0.5
        return eval({values!r}[cfg.seed])
    """
    grid = ("~x", f"seed=range(0,{len(values)})", "hydra/sweeper/sampler=grid")
    done = app(body)(*grid, code=0)
    ends = {values[trial.params["seed"]]: trial for trial in done.trials()}
    assert {value: ends[value].value for value in NUMBERS} == NUMBERS
    for value in OTHERS:
        assert ends[value].state == TrialState.FAIL, value
        assert "1 number" in ends[value].user_attrs[ERROR], value


STATE = """
import types

# Like torch, of which a trial may change the defaults.
torch = types.SimpleNamespace(float32="float32", float64="float64", dtype="float32", grad=True)
torch.get_default_dtype = lambda: torch.dtype
torch.set_default_dtype = lambda dtype: setattr(torch, "dtype", dtype)
torch.is_grad_enabled = lambda: torch.grad
torch.set_grad_enabled = lambda grad: setattr(torch, "grad", grad)
os.umask(0o27)

def state():
    mask = os.umask(0o27)
    os.umask(mask)
    kept = {name: os.environ.get(name) for name in ("PATH", "OMP_NUM_THREADS", "FLAG")}
    return os.getcwd(), mask, kept, torch.dtype, torch.grad

BEFORE = state()
"""


def test_each_trial_begins_with_the_state_of_the_process_at_its_start(app):
    """They relied on each job being a fresh start, but the jobs of a launcher share one process.

    Sources: github.com/hydra-ecosystem/hydra/pull/3323,
    github.com/facebookresearch/hydra/issues/440
    Right: working directory, umask, environment and the defaults of torch are put back after each
    trial, and after the sweep.
    """
    body = """
        hydrasweep.record(same=state() == BEFORE)
        sys.modules["torch"] = torch  # the first trial imports it
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.chdir("/")
        os.umask(0o77)
        os.environ["OMP_NUM_THREADS"] = os.environ["FLAG"] = "1"
        del os.environ["PATH"]
        if cfg.x < 0:
            raise RuntimeError(f"{cfg.x}")
        return cfg.x
    """
    done = app(body, more=STATE, main="task(); print('same after', state() == BEFORE)")(code=0)
    assert [row["same"] for row in done.table()] == ["1.0"] * 4
    assert "same after True" in done.out


def test_hanging_trial_fails_alone(app):
    """They let a study run overnight, and found it at one trial that never ended.

    Source: github.com/optuna/optuna/issues/1484
    Right: the trial fails after its own limit, and the sweep continues.
    """
    task = app("if cfg.x > 0.7: time.sleep(60)\nreturn cfg.x")
    for limit in ("0", "-1"):
        done = task(f"hydra.sweeper.trial_timeout={limit}", in_process=True, code=1)
        assert f"hydra.sweeper.trial_timeout={float(limit)}" in done.err
    done = task("hydra.sweeper.trial_timeout=0.5", "hydra.sweeper.n_trials=2", code=0)
    assert done.states() == ["FAIL", "COMPLETE"]
    failed = done.trials()[0]
    assert failed.params["x"] > 0.7
    assert "hydra.sweeper.trial_timeout=0.5" in failed.user_attrs[WHY]


def test_sweep_ends_at_failures_of_one_line_and_never_succeeds_without_a_result(
    app,
):
    """They let failures pass, so that a wrong path costs a night of trials. Each failure has
    another message.

    Sources: github.com/hydra-ecosystem/hydra/issues/1463,
    github.com/hydra-ecosystem/hydra/pull/2215
    """
    task = app("open(f'/no_such_folder/{cfg.x}.pt')")
    done = task("hydra.sweeper.n_trials=2", code=1)
    assert done.states() == ["FAIL"] * 2
    other = ("hydra.sweeper.study_name=t", "hydra.sweep.dir=t")
    done = task("hydra.sweeper.n_trials=8", *other, code=1)
    assert [row["state"] for row in done.table(folder="t")] == ["FAIL"] * 3
    assert "FileNotFoundError: [Errno 2]" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_trial_of_a_terminated_worker_is_repeated(app):
    """They had one worker of joblib killed by the system, and joblib ended all the work with it.

    Sources: github.com/joblib/joblib/issues/812, github.com/hydra-ecosystem/hydra/issues/3458
    Right: the sweep continues with new workers, and the trial counts once.
    """
    body = """
        if not os.path.exists("terminated"):
            open("terminated", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        return cfg.x
    """
    workers = ("hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "hydra.sweeper.n_trials=2")
    done = app(body)(*workers, fresh=True, code=0)
    assert done.states() == [row["state"] for row in done.table()] == ["COMPLETE"] * 2
    assert done.lost()
    assert {trial.params["x"] for trial in done.lost()} <= {t.params["x"] for t in done.trials()}
    assert "Traceback" not in done.out + done.err
