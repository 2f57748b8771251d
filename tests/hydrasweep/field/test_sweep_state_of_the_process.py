"""A trial changes what belongs to its process, and the next one runs in the same process.

They: relied on each job being a fresh start, while jobs of a launcher share one process and
whatever the one before has set there.
Source: github.com/hydra-ecosystem/hydra/pull/3323, github.com/facebookresearch/hydra/issues/440
Right: folder, umask, environment and torch's defaults are for each trial what they were for the
first, and for the app after the sweep.
"""

from collections.abc import Callable

import pytest
from apps import App

SEE = """
os.umask(0o27)

def see():
    mask = os.umask(0o27)
    os.umask(mask)
    kept = {name: os.environ.get(name) for name in ("PATH", "OMP_NUM_THREADS", "FLAG")}
    return os.getcwd(), mask, kept

BEFORE = see()
"""


def test_trial_finds_folder_umask_and_environment_as_the_first_did(
    app: Callable[..., App],
) -> None:
    body = """
        hydrasweep.record(same=see() == BEFORE)
        os.chdir("/")
        os.umask(0o77)
        os.environ["OMP_NUM_THREADS"] = os.environ["FLAG"] = "1"
        del os.environ["PATH"]
        if cfg.x < 0:
            raise RuntimeError(f"{cfg.x}")
        return cfg.x
    """
    done = app(body, more=SEE, main="task(); print('same after', see() == BEFORE)")()
    assert done.code == 0, done.err
    assert [row["same"] for row in done.table()] == ["1.0"] * 4
    assert "same after True" in done.out


def test_trial_finds_torchs_defaults(app: Callable[..., App]) -> None:
    pytest.importorskip("torch")
    body = """
        import torch
        hydrasweep.record(
            same=torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
        )
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return cfg.x
    """
    done = app(body)("hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert [row["same"] for row in done.table()] == ["1.0"] * 2
