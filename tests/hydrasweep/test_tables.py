"""Tables, numbers and durations as text."""

import pytest

from hydrasweep.tables import as_duration, number, short, table


def test_table_has_a_column_for_each_name_and_interprets_no_markup():
    rows = [{"": "a", "layers": "[relu,/x]"}, {"": "b", "lr": ":smile:"}]
    head, _, *shown = table("trial", rows).strip().splitlines()
    assert head.split() == ["trial", "layers", "lr"]
    assert [line.split() for line in shown] == [["a", "[relu,/x]"], ["b", ":smile:"]]


@pytest.mark.parametrize(
    ("value", "of", "text"),
    [(0.98351, None, "0.9835"), (0, None, "0.0000"), (-150.25, None, "-150.2500"),
     (2.71828e-10, None, "2.718e-10"), (4.2e-4, None, "0.00042"), (4.2e-4, 0.98, "0.0004"),
     (3e-12, 2.7e-10, "3e-12"), (12345678.9, None, "1.235e+07"), (float("inf"), None, "inf")],
)  # fmt: skip
def test_values_have_four_decimals_or_four_digits(value, of, text):
    assert number(value, of) == text


def test_rows_become_columns_on_a_narrow_terminal(monkeypatch):
    rows = [{"": "a", "lr": "0.1", "dropout": "0.5"}, {"": "b", "lr": "0.2"}]
    wide = table("trial", rows)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert table("trial", rows) == wide
    monkeypatch.setenv("COLUMNS", "20")
    lines = [line.split() for line in table("trial", rows).split("\n") if "─" not in line]
    assert [line for line in lines if line] == [
        ["trial", "a", "b"], ["lr", "0.1", "0.2"], ["dropout", "0.5"],
    ]  # fmt: skip
    many = [{"": f"setting {i}", "first": "1", "second": "2"} for i in range(9)]
    assert len(table("setting", many).strip().splitlines()) == 2 + 9  # columns would be wider


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012345, "0.00123"), (64, "64"), (True, "True"), ("adam", "adam")]
)
def test_settings_are_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
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
def test_durations_have_the_unit_of_their_size(seconds, text):
    assert as_duration(seconds) == text
