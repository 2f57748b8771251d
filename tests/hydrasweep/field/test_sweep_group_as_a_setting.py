"""A config of a group is chosen by a dot where Hydra wants a slash.

They: looked for the pruner among the sweeper's settings, and gave it by its name.
Source: github.com/facebookresearch/hydra/issues/1954, github.com/facebookresearch/hydra/issues/1710
Right: refused with the word that is meant, which works.
"""

from collections.abc import Callable

import pytest
from apps import App


@pytest.mark.parametrize("choice", ["pruner=median", "confirm=two_seeds", "storage=journal"])
def test_setting_that_is_a_group_names_the_group(app: Callable[..., App], choice: str) -> None:
    task = app("return cfg.x")
    done = task(f"hydra.sweeper.{choice}")
    assert done.code == 1
    assert f"hydra/sweeper/{choice}" in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()
    done = task(f"hydra/sweeper/{choice}", "hydra.sweeper.dry_run=true")
    assert done.code == 0, done.err
