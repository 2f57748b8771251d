"""The studies are to be kept in MySQL.

They: set ``storage`` to the address of a MySQL database: the run stood still, with empty tables.
Source: github.com/ashleve/lightning-hydra-template/issues/224
Right: refused before anything, with the storages that work; no driver is asked for in vain.
"""

from collections.abc import Callable

import pytest
from apps import App


@pytest.mark.parametrize("url", ["mysql://user@host/db", "mysql+pymysql://user@127.0.0.1:9/db"])
def test_mysql_is_refused_with_what_works(app: Callable[..., App], url: str) -> None:
    done = app("return cfg.x")(f"hydra.sweeper.storage='{url}'")
    assert done.code == 1
    assert "must be an SQLite or PostgreSQL database" in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()
