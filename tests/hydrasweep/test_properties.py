"""Properties of the search space and of study names, for generated input."""

import contextlib
from pathlib import Path

import pytest
from generated import arguments, examine, many, numbers, texts
from hypothesis import strategies as st
from optuna.trial import create_trial

from hydrasweep.errors import UserError
from hydrasweep.settings import study_name
from hydrasweep.space import Space, as_text
from hydrasweep.stratum import label

FUNCTIONS = ("choice", "interval", "range", "tag", "int", "float", "str", "glob", "shuffle", "sort")
keywords = st.sampled_from(["", "", ",step=0", ",step=-1", ",step=0.5", ",log=true", ",start=1"])
sweeps = st.recursive(
    arguments,
    lambda inner: st.builds(
        "{}({}{})".format,
        st.sampled_from(FUNCTIONS),
        inner | inner.map("log,{}".format),
        keywords,
    ),
    max_leaves=3,
)
intervals = st.builds("interval({},{})".format, numbers, numbers)
ranges = st.builds("range({},{},step={})".format, *[st.integers(-50, 50)] * 2, st.integers(-3, 3))
choices = arguments.map("choice({})".format)
likely = (
    intervals
    | ranges
    | choices
    | intervals.map("int({})".format)
    | intervals.map("tag(log,{})".format)
)
names = st.sampled_from(["x", "model", "a.b", "+x", "++x", "~x", "x@y", "", "=", "é", "a/b"])
values = likely | sweeps | st.text(max_size=12)
overrides = st.builds("{}={}".format, names, values) | st.text(max_size=20)


@many
@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_any_search_space_is_refused_or_can_be_used(times):
    def claim(words, stratify, value):
        try:
            space = Space.parse(words, stratify)
        except UserError:
            return
        for stratum in space.strata:
            for corner in space.corners():
                space.overrides(stratum, corner)
            folder = label(stratum, "search", create_trial(value=0))
            assert Path("sweep", folder).resolve().parent == Path("sweep").resolve()
        if not any("shuffle" in word for word in words):  # Hydra shuffles anew each time
            assert space.record() == Space.parse(words, stratify).record()
        assert all(as_text(d) for d in space.distributions.values())
        with contextlib.suppress(UserError):
            space.check([value, dict.fromkeys(space.distributions, value)])

    examine(
        claim,
        80 * times,
        words=st.lists(overrides, max_size=3),
        stratify=st.sampled_from([None, "x", "model", ""]),
        value=numbers | texts | st.none() | st.lists(st.none(), max_size=1),
    )


@many
def test_any_study_name_is_refused_or_names_a_folder(times, tmp_path):
    def claim(name):
        with contextlib.suppress(UserError):
            folder = tmp_path / study_name(name)
            folder.mkdir(exist_ok=True)
            assert folder.resolve().parent == tmp_path

    characters = st.text("aé_+.-/\\'\" \0", max_size=9)
    long = st.text("\U0001d538", min_size=50, max_size=110)  # a character has four bytes
    kinds = st.none() | st.booleans() | numbers | texts | characters | long | st.text(max_size=8)
    examine(claim, 40 * times, name=kinds)
