"""The search space: how overrides are parsed, strata, corners, grids and comparison."""

import itertools
import json
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hydrasweep.errors import UserError
from hydrasweep.space import Space


def parse(*overrides, stratify=None):
    return Space.parse(overrides, stratify)


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("choice(32,64)", CategoricalDistribution([32, 64])),
        ("32,64", CategoricalDistribution([32, 64])),
        ("null,1", CategoricalDistribution(["null", 1])),
        ("choice(true,'a b')", CategoricalDistribution([True, "a b"])),
        ("interval(0.0, 0.5)", FloatDistribution(0.0, 0.5)),
        ("interval(1, 5)", FloatDistribution(1.0, 5.0)),
        ("int(interval(1, 5))", IntDistribution(1, 5)),
        ("range(0, 1, step=0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("range(1, 4)", IntDistribution(1, 3)),
        ("range(3, 4)", IntDistribution(3, 3)),
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_sweeps_are_parsed_as_by_the_stock_sweeper(sweep, distribution):
    assert parse(f"x={sweep}").distributions == {"x": distribution}


def test_other_overrides_are_passed_on_unchanged():
    overrides = ["epochs=3", "+new=a", "++newer=1", "~gone", "name='a b'", "steps=[1,2]", "no=null"]
    space = parse("x=1,2", *overrides)
    assert list(space.distributions) == ["x"]
    assert space.overrides("", {"x": 2}) == [*overrides, "x=2"]


@pytest.mark.parametrize(
    ("overrides", "searched", "fixed"),
    [
        (["x=interval(0,1)", "x=choice(1,2)"], {"x": CategoricalDistribution([1, 2])}, []),
        (["x=interval(0,1)", "x=0.5"], {}, ["x=0.5"]),
        (["x=interval(0,1)", "++x=0.5"], {}, ["++x=0.5"]),
        (["x=0.5", "x=choice(1,2)"], {"x": CategoricalDistribution([1, 2])}, []),
        (["x=interval(0,1)", "~x", "~z"], {}, ["~z"]),
    ],
)
def test_later_override_of_a_setting_counts(overrides, searched, fixed):
    space = parse(*overrides)
    assert space.distributions == searched
    assert space.fixed == fixed


def test_parameters_are_left_out_by_name():
    space = parse("m=a,b", "x=1,2", "+y=1,2", "z=1,2", stratify="m")
    assert list(space.without(["y", "+z"]).distributions) == ["x"]
    assert space.without([]) == space
    for name in ("m", "w"):
        with pytest.raises(UserError, match=rf"leave_out=.*: {name} .*: x, y, z"):
            space.without(["x", name])


@pytest.mark.parametrize(
    "override",
    [
        "lr=tag(log,interval(-1,1))",
        "lr=interval(1,0)",
        "lr=range(1,1)",
        "lr=range(1e-4,1e-3)",  # the step is 1, so this is one value
        "lr=choice()",
        "lr=interval(1,",
        "lr=glob(*)",
    ],
)
def test_invalid_sweep_is_refused_with_a_reason(override):
    with pytest.raises(UserError) as error:
        parse("x=1,2", override)
    assert str(error.value).startswith(f"{override}: ")
    assert str(error.value).rpartition(": ")[2]


@pytest.mark.parametrize(
    "chosen", [3, "x", {"x": 2.0}, {"x": "a"}, {"y": 1}, {"n": 0.5}, {"n": None}, {"c": "b"}]
)
def test_enqueued_settings_outside_the_space_are_refused(chosen):
    space = parse("x=interval(0,1)", "n=range(1,5)", "c=choice(a,1)", "m=p,q", stratify="m")
    space.check([{"x": 1, "n": 4, "c": "a", "m": "p"}, {"x": 0.5}])
    with pytest.raises(UserError, match=r"hydra\.sweeper\.enqueue="):
        space.check([{"x": 1}, chosen])


# Strata


@pytest.mark.parametrize(
    ("stratify", "fixed", "strata", "overrides"),
    [
        ("model", [], ["cnn", "lenet5"], ["n=1", "model=cnn", "lr=0.5"]),
        ("model", ["model=cnn"], ["cnn"], ["n=1", "model=cnn", "lr=0.5"]),
        (None, [], [""], ["n=1", "lr=0.5"]),
    ],
)
def test_stratify_takes_one_choice_out_of_the_space(stratify, fixed, strata, overrides):
    searched = ("model=choice(cnn,lenet5)", "lr=interval(0,1)", "n=1")
    space = parse(*searched, *fixed, stratify=stratify)
    assert space.strata == strata
    assert list(space.distributions) == (["lr"] if stratify else ["model", "lr"])
    assert space.overrides(strata[0], {"lr": 0.5}) == overrides


def test_strata_may_have_any_type():
    space = parse("x=true,null,1.5,a-b", stratify="x")
    overrides = [space.overrides(stratum, {})[0] for stratum in space.strata]
    parsed = [each.value() for each in OverridesParser.create().parse_overrides(overrides)]
    assert parsed == [True, None, 1.5, "a-b"]


@pytest.mark.parametrize("value", ["'a b'", "fi/ne,fi-ne", "[1,2]", "'\"'", "'${x}'"])
def test_strata_that_cannot_name_a_folder_are_refused(value):
    with pytest.raises(UserError, match=r"hydra\.sweeper\.stratify=x: .*stratify=null"):
        parse(f"x=choice(fine,{value})", stratify="x")


@pytest.mark.parametrize("overrides", [["lr=interval(0,1)"], ["model=interval(0,1)"], []])
def test_stratify_must_name_a_choice(overrides):
    with pytest.raises(UserError, match=r"hydra\.sweeper\.stratify=model: .*choice\("):
        parse(*overrides, stratify="model")


# Points of the space


@pytest.mark.parametrize(
    "overrides",
    [
        ["a=interval(0,1)", "b=range(1,4)", "c=choice(x,y,z)", "d=tag(log,interval(1,9))"],
        ["a=interval(0,1)"],
        ["c=choice(x)"],
    ],
)
def test_corners_have_both_limits_and_every_choice(overrides):
    assert list(parse("n=1").corners()) == [{}]
    space = parse(*overrides)
    corners = list(space.corners())
    assert corners
    for name, distribution in space.distributions.items():
        reached = {corner[name] for corner in corners}
        if isinstance(distribution, CategoricalDistribution):
            assert reached == set(distribution.choices)
        else:
            assert reached == {distribution.low, distribution.high}


def test_grid_is_the_product_of_all_values():
    space = parse("a=choice(x,y)", "b=range(1,4)", "c=range(0,1,step=0.5)")
    points = [tuple(point[name] for name in "abc") for point in space.grid()]
    assert points == list(itertools.product("xy", [1, 2, 3], [0.0, 0.5]))
    with pytest.raises(UserError, match="sampler=grid"):
        parse("a=interval(0,1)").grid()


# Comparison


def test_record_is_equal_for_equal_spaces_only():
    overrides = ["model=cnn,lenet5", "lr=interval(1,2)", "epochs=3"]
    record = parse(*overrides, stratify="model").record()
    assert parse(*overrides[::-1], stratify="model").record() == record
    assert json.loads(json.dumps(record)) == record
    for change in ("lr=interval(0,2)", "lr=tag(log,interval(1,2))", "model=cnn"):
        assert parse(*overrides, change, stratify="model").record() != record
    assert parse(*overrides).record() != record


def _is_plain(text):
    """Whether the stock sweeper takes the text as it is: no list, dict, null or quotes."""
    return text != "null" and not text.startswith(("[", "{", "'", '"'))


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=("Cs", "Cc"))).filter(_is_plain)
choices = st.lists(text | finite | st.integers() | st.booleans(), min_size=1, max_size=4)
distributions = (
    choices.map(CategoricalDistribution)
    | st.lists(finite, min_size=2, max_size=2).map(lambda v: FloatDistribution(min(v), max(v)))
    | st.lists(st.integers(), min_size=2, max_size=2).map(lambda v: IntDistribution(min(v), max(v)))
)


@settings(deadline=None, derandomize=True)
@given(distributions)
def test_hydra_parses_each_value_to_itself(distribution):
    space = Space({"key": distribution}, [], None, [""])
    for corner in space.corners():
        parsed: Any = OverridesParser.create().parse_overrides(space.overrides("", corner))
        value = parsed[0].value()
        value = value.text if isinstance(value, QuotedString) else value
        assert (type(value), value) == (type(corner["key"]), corner["key"])
