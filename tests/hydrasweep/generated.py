"""Generated input for tests of properties: a little by default, much more with ``-m fuzz``."""

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st

many = pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, id="few"),
        pytest.param(60, id="many", marks=[pytest.mark.fuzz, pytest.mark.timeout(1800)]),
    ],
)


def examine(claim: Callable[..., None], n: int, **inputs: st.SearchStrategy[Any]) -> None:
    """Try a claim on ``n`` generated inputs, the same ones each time."""
    settings = hypothesis.settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    settings(hypothesis.given(**inputs)(claim))()


# What people write into overrides.
numbers = st.integers(-10, 10) | st.integers() | st.floats() | st.sampled_from(["1e400", "0x10"])
texts = st.sampled_from(
    ["null", "true", "'a b'", "a/b", "..", '"q', "${y}", "'${'", "[1,2]", "{a:1}", "é", "'\\''", ""]
)
arguments = st.lists(numbers | texts, max_size=4).map(lambda v: ",".join(map(str, v)))
