"""What is named as sampler or pruner makes something else.

They: merged one sampler's settings into another's, and had a config that no class of samplers
takes.
Source: github.com/hydra-ecosystem/hydra/issues/2003
Right: refused before any trial, naming the setting.
"""

from collections.abc import Callable

import pytest
from apps import App


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("sampler", "builtins.dict"),
        ("sampler", "optuna.pruners.MedianPruner"),
        ("pruner", "optuna.samplers.RandomSampler"),
        ("pruner", "optuna.pruners.NoSuchPruner"),
    ],
)
def test_what_makes_no_sampler_or_pruner_is_refused(
    app: Callable[..., App], part: str, target: str
) -> None:
    done = app("hydrasweep.report(cfg.x, 1)\nreturn cfg.x")(
        f"hydra.sweeper.{part}._target_={target}"
    )
    assert done.code == 1
    assert done.err.startswith(f"Error: hydra.sweeper.{part}: ")
    other = {"sampler": "pruner", "pruner": "sampler"}[part]
    assert f"hydra.sweeper.{other}" not in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()
