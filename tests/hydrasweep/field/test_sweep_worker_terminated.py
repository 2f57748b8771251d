"""A worker of joblib's is ended from outside while it works on a trial.

They: had one worker killed by the system, and joblib ended all the work with it.
Source: github.com/joblib/joblib/issues/812, github.com/hydra-ecosystem/hydra/issues/3458
Right: the sweep goes on with new workers; the trial is tried again and counts once.
"""

from collections.abc import Callable

import pytest
from apps import App


@pytest.mark.slow
def test_trial_of_a_terminated_worker_is_tried_again(app: Callable[..., App]) -> None:
    body = """
        if not os.path.exists("terminated"):
            open("terminated", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        return cfg.x
    """
    done = app(body)(
        "hydra/launcher=joblib", "hydra.sweeper.n_workers=2", "hydra.sweeper.n_trials=2", fresh=True
    )
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 2
    assert [row["state"] for row in done.table()] == ["COMPLETE"] * 2
    assert {trial.params["x"] for trial in done.lost()} <= {t.params["x"] for t in done.trials()}
    assert done.lost()
    assert "Traceback" not in done.out + done.err
