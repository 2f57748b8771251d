"""A study is named by a version, a date or a commit, which Hydra reads as a number.

They: gave ``id=1_1_1`` and got 111; short hashes of commits such as 12e4567 become infinity.
Source: github.com/facebookresearch/hydra/issues/1163
Right: the name as it was typed, or refused with a hint to quote it; no two names are one study.
"""

from collections.abc import Callable

import pytest
from apps import CONFIG, App

BY_THE_APP = CONFIG.replace("study_name: s", "study_name: ${name}") + "name: s\n"
PLAN = "hydra.sweeper.dry_run=true"


@pytest.mark.parametrize("config", [CONFIG, BY_THE_APP])
def test_name_that_would_change_is_refused(app: Callable[..., App], config: str) -> None:
    task = app("return cfg.x", config)
    key = "name" if config == BY_THE_APP else "hydra.sweeper.study_name"
    for name in ("1.10", "1_1_1", "12e4567", "true"):
        done = task(f"{key}={name}", PLAN)
        assert done.code == 1, (name, done.out)
        assert f"study_name={name}: " in done.err
        assert f"""'"{name}"'""" in done.err


@pytest.mark.parametrize("config", [CONFIG, BY_THE_APP])
def test_quoted_name_and_plain_number_are_names(app: Callable[..., App], config: str) -> None:
    task = app("return cfg.x", config)
    key = "name" if config == BY_THE_APP else "hydra.sweeper.study_name"
    for word, name in (('"1.10"', "1.10"), ("7", "7"), ("20260913", "20260913")):
        done = task(f"{key}={word}", PLAN)
        assert done.code == 0, done.err
        assert done.out.startswith(f"Study {name}: ")
