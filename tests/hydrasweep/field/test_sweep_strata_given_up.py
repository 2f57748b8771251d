"""A sweep over models, each a stratum, goes on as one study, or the other way round.

They: added a model to a running study as one more choice, and asked how to go on.
Source: github.com/optuna/optuna/issues/2275
Right: refused; no row of the table that was there is lost.
"""

from collections.abc import Callable

import pytest
from apps import App

CHOICE = "kind=choice(a,b)"
STRATIFIED = "hydra.sweeper.stratify=kind"


@pytest.mark.parametrize(
    ("first", "then"),
    [(STRATIFIED, "hydra.sweeper.stratify=null"), ("hydra.sweeper.stratify=null", STRATIFIED)],
)
def test_rows_stay_where_strata_are_given_up_or_made(
    app: Callable[..., App], first: str, then: str
) -> None:
    task = app("return cfg.x")
    rows = task(CHOICE, first, "hydra.sweeper.n_trials=2").table()
    assert len(rows) == 2
    done = task(CHOICE, then)
    assert done.code == 1
    assert "exists with other settings" in done.err
    assert "kind: was " in done.err
    assert done.table() == rows
