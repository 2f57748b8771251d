"""A sweep is resumed on another machine.

They: went on with a study where the data lie elsewhere, with other cores and another device.
Source: github.com/optuna/optuna/issues/6132, github.com/optuna/optuna/issues/2151
Right: what says where and how fast a sweep runs may differ between two starts, and nothing else.
"""

import pytest
from application import REPOSITORY, Compose

SEARCHES = sorted(path.stem for path in (REPOSITORY / "conf" / "hparams_search").glob("*.yaml"))


@pytest.mark.parametrize("search", SEARCHES)
def test_where_it_runs_may_differ(compose: Compose, search: str) -> None:
    cfg = compose(f"hparams_search={search}", return_hydra_config=True)
    assert list(cfg.hydra.sweeper.may_change) == ["n_threads", "device", "paths", "tracking"]
