"""Every trial fails at the same line, each with another message.

They: let failures pass (``max_failure_rate``), so that a wrong path costs a night of trials that
can't come to anything.
Source: github.com/hydra-ecosystem/hydra/issues/1463, github.com/hydra-ecosystem/hydra/pull/2215
Right: the sweep ends after the first few, not with 0, and shows the error.
"""

from collections.abc import Callable

import pytest
from apps import App


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("open(f'/no_such_folder/{cfg.x}.pt')", "FileNotFoundError: [Errno 2]"),
        ("raise RuntimeError(f'out of memory: tried {cfg.x:.3f} GiB')", "RuntimeError: out of mem"),
    ],
)
def test_failures_at_one_line_end_the_sweep(app: Callable[..., App], error: str, told: str) -> None:
    done = app(error)("hydra.sweeper.n_trials=8")
    assert done.code == 1
    assert sorted(done.states()) == ["FAIL"] * 3 + ["WAITING"] * 5
    assert told in done.err
    assert "Traceback" not in done.err


def test_sweep_without_any_result_does_not_end_with_0(app: Callable[..., App]) -> None:
    done = app("raise RuntimeError('no')")("hydra.sweeper.n_trials=2")
    assert done.code == 1
    assert "no trial came to its end" in done.err
