"""The search space: upstream's words, strata, corners, grids, and the way back to words."""

import itertools
import json
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hydrasweep.errors import UserError
from hydrasweep.space import Space, as_text


@pytest.mark.parametrize(
    ("word", "distribution"),
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
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("tag(log, int(interval(1, 64)))", IntDistribution(1, 64, log=True)),
    ],
)
def test_upstreams_words_give_optunas_distributions(
    word: str, distribution: BaseDistribution
) -> None:
    assert Space.parse([f"x={word}"], None).distributions == {"x": distribution}


def test_what_is_not_searched_is_passed_on_as_it_is() -> None:
    words = ["epochs=3", "+new=a", "++newer=1", "~gone", "name='a b'", "steps=[1,2]", "none=null"]
    space = Space.parse(["x=1,2", *words], None)
    assert list(space.distributions) == ["x"]
    assert space.overrides("", {"x": 2}) == [*words, "x=2"]


@pytest.mark.parametrize(
    ("words", "searched", "fixed"),
    [
        (["x=interval(0,1)", "x=choice(1,2)"], {"x": CategoricalDistribution([1, 2])}, []),
        (["x=interval(0,1)", "x=0.5"], {}, ["x=0.5"]),
        (["x=interval(0,1)", "++x=0.5"], {}, ["++x=0.5"]),
        (["x=0.5", "x=choice(1,2)"], {"x": CategoricalDistribution([1, 2])}, []),
    ],
)
def test_of_two_words_for_one_setting_the_later_counts(
    words: list[str], searched: dict[str, BaseDistribution], fixed: list[str]
) -> None:
    space = Space.parse(words, None)
    assert space.distributions == searched
    assert space.fixed == fixed


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("interval(0, 1)", "0 to 1"),
        ("tag(log, int(interval(1, 64)))", "1 to 64, logarithmic"),
        ("range(0, 7, 2)", "0 to 6 in steps of 2"),
        ("choice(a,b)", "one of a, b"),
        ("range(0, 1)", "only 0"),
        ("interval(0.5, 0.5)", "only 0.5"),
        ("choice(a)", "only a"),
    ],
)
def test_distributions_are_shown_in_words(word: str, text: str) -> None:
    (distribution,) = Space.parse([f"x={word}"], None).distributions.values()
    assert as_text(distribution) == text


def test_parameters_are_left_out_by_name() -> None:
    space = Space.parse(["m=a,b", "x=1,2", "+y=1,2", "z=1,2"], "m")
    assert list(space.without(["y", "+z"]).distributions) == ["x"]
    assert space.without([]) == space
    for name in ("m", "w"):
        with pytest.raises(UserError, match=rf"leave_out=.*: {name} is not searched.*: x, y, z"):
            space.without(["x", name])


@pytest.mark.parametrize(
    "word",
    [
        "lr=tag(log,interval(-1,1))",
        "lr=interval(1,0)",
        "lr=range(1,1)",
        "lr=choice()",
        "lr=interval(1,",
        "lr=glob(*)",
    ],
)
def test_bad_word_is_refused_by_name(word: str) -> None:
    with pytest.raises(UserError) as error:
        Space.parse(["x=1,2", word], None)
    assert str(error.value).startswith(f"{word}: can't be searched: ")
    assert str(error.value).rpartition(": ")[2]


def test_stratify_splits_off_one_choice() -> None:
    space = Space.parse(["model=choice(cnn,lenet5)", "lr=interval(0,1)", "n=1"], "model")
    assert space.strata == ["cnn", "lenet5"]
    assert list(space.distributions) == ["lr"]
    assert space.overrides("cnn", {"lr": 0.5}) == ["n=1", "model=cnn", "lr=0.5"]


def test_strata_may_be_of_any_kind() -> None:
    space = Space.parse(["x=true,null,1.5,a-b"], "x")
    words = [space.overrides(stratum, {})[0] for stratum in space.strata]
    parsed = [override.value() for override in OverridesParser.create().parse_overrides(words)]
    assert parsed == [True, None, 1.5, "a-b"]


@pytest.mark.parametrize("value", ["'a b'", "fi/ne,fi-ne", "[1,2]", "'\"'", "'${x}'"])
def test_strata_name_folders(value: str) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.stratify=x: .* can't name a folder"):
        Space.parse([f"x=choice(fine,{value})"], "x")


def test_range_of_a_single_fraction_is_refused() -> None:
    with pytest.raises(UserError, match=r"x=range\(1e-4,1e-3\): .*write x=interval"):
        Space.parse(["x=range(1e-4,1e-3)"], None)
    assert Space.parse(["x=range(3,4)", "y=choice(0.5)"], None).corners()


def test_searched_setting_that_is_taken_out_leaves_the_space() -> None:
    space = Space.parse(["x=interval(0,1)", "y=interval(0,1)", "~x", "~z"], None)
    assert list(space.distributions) == ["y"]
    assert space.fixed == ["~z"]


@pytest.mark.parametrize(
    "chosen", [3, "x", {"x": 2.0}, {"x": "a"}, {"y": 1}, {"n": 0.5}, {"n": None}, {"c": "b"}]
)
def test_suggestion_outside_the_space_is_refused(chosen: Any) -> None:
    space = Space.parse(["x=interval(0,1)", "n=range(1,5)", "c=choice(a,1)", "m=p,q"], "m")
    space.check([{"x": 1, "n": 4, "c": "a", "m": "p"}, {"x": 0.5}])
    with pytest.raises(UserError, match=r"hydra\.sweeper\.enqueue=.* is not in the space"):
        space.check([{"x": 1}, chosen])


def test_fixed_stratum_is_the_only_one() -> None:
    space = Space.parse(["model=choice(cnn,lenet5)", "lr=interval(0,1)", "model=lenet5"], "model")
    assert space.strata == ["lenet5"]
    assert space.overrides("lenet5", {}) == ["model=lenet5"]


def test_without_stratify_there_is_one_stratum_without_a_name() -> None:
    space = Space.parse(["model=choice(cnn,lenet5)"], None)
    assert space.strata == [""]
    assert space.overrides("", {"model": "cnn"}) == ["model=cnn"]


@pytest.mark.parametrize("words", [["lr=interval(0,1)"], ["model=interval(0,1)"], []])
def test_stratify_must_name_a_choice(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.stratify=model: must be"):
        Space.parse(words, "model")


@pytest.mark.parametrize(
    "words",
    [
        ["a=interval(0,1)", "b=range(1,4)", "c=choice(x,y,z)", "d=tag(log,interval(1,9))"],
        ["a=interval(0,1)"],
        ["c=choice(x)"],
    ],
)
def test_corners_reach_every_end_and_every_choice(words: list[str]) -> None:
    space = Space.parse(words, None)
    corners = list(space.corners())
    assert corners
    for name, distribution in space.distributions.items():
        reached = {corner[name] for corner in corners}
        if isinstance(distribution, CategoricalDistribution):
            assert reached == set(distribution.choices)
        else:
            assert reached == {distribution.low, distribution.high}  # type: ignore[attr-defined]


def test_space_without_parameters_has_one_corner() -> None:
    assert list(Space.parse(["n=1"], None).corners()) == [{}]


def test_grid_is_the_product_of_all_values() -> None:
    space = Space.parse(["a=choice(x,y)", "b=range(1,4)", "c=range(0,1,step=0.5)"], None)
    points = [tuple(point[name] for name in "abc") for point in space.grid()]
    assert points == list(itertools.product("xy", [1, 2, 3], [0.0, 0.5]))


def test_grid_of_an_interval_is_refused() -> None:
    with pytest.raises(UserError, match="sampler=grid"):
        Space.parse(["a=interval(0,1)"], None).grid()


@pytest.mark.parametrize(
    ("words", "stratify"),
    [
        (["model=cnn,lenet5", "lr=interval(0,2)", "epochs=3"], "model"),
        (["model=cnn,lenet5", "lr=tag(log,interval(1,2))", "epochs=3"], "model"),
        (["model=cnn", "lr=interval(1,2)", "epochs=3"], "model"),
        (["model=cnn,lenet5", "lr=interval(1,2)", "epochs=3"], None),
    ],
)
def test_record_tells_spaces_apart(words: list[str], stratify: str | None) -> None:
    base = Space.parse(["model=cnn,lenet5", "lr=interval(1,2)", "epochs=3"], "model")
    assert Space.parse(words, stratify).record() != base.record()


def test_record_is_the_same_for_the_same_space() -> None:
    words = ["model=cnn,lenet5", "lr=interval(1,2)", "epochs=3"]
    record = Space.parse(words, "model").record()
    assert Space.parse(words[::-1], "model").record() == record
    assert json.loads(json.dumps(record)) == record


def _is_no_word(text: str) -> bool:
    """Not a list, dict, null or quoted text, which upstream gives as words."""
    return text != "null" and not text.startswith(("[", "{", "'", '"'))


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=("Cs", "Cc"))).filter(_is_no_word)
choices = st.lists(text | finite | st.integers() | st.booleans(), min_size=1, max_size=4)
distributions = (
    choices.map(CategoricalDistribution)
    | st.lists(finite, min_size=2, max_size=2).map(lambda v: FloatDistribution(min(v), max(v)))
    | st.lists(st.integers(), min_size=2, max_size=2).map(lambda v: IntDistribution(min(v), max(v)))
)


@settings(deadline=None, derandomize=True)
@given(distributions)
def test_each_value_goes_through_hydras_parser_to_itself(distribution: BaseDistribution) -> None:
    space = Space({"key": distribution}, [], None, [""])
    for corner in space.corners():
        parsed: Any = OverridesParser.create().parse_overrides(space.overrides("", corner))
        value = parsed[0].value()
        value = value.text if isinstance(value, QuotedString) else value
        assert (type(value), value) == (type(corner["key"]), corner["key"])
