"""Tables and numbers as a person reads them."""

import pytest

from hydrasweep.tables import as_duration, short, table


def test_a_table_has_a_column_for_each_name_and_takes_no_cell_for_markup() -> None:
    rows = [{"": "a", "layers": "[relu,/x]"}, {"": "b", "lr": ":smile:"}]
    head, _, *shown = table("trial", rows).strip().splitlines()
    assert head.split() == ["trial", "layers", "lr"]
    assert [line.split() for line in shown] == [["a", "[relu,/x]"], ["b", ":smile:"]]


@pytest.mark.parametrize(
    ("value", "word"), [(0.0012345, "0.00123"), (64, "64"), (True, "True"), ("adam", "adam")]
)
def test_settings_are_short(value: object, word: str) -> None:
    assert short(value) == word


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (90, "2 min"),
        (3540, "59 min"),
        (3600, "1 h 00 min"),
        (7265, "2 h 01 min"),
    ],
)
def test_durations_are_such_as_a_person_says(seconds: float, words: str) -> None:
    assert as_duration(seconds) == words
