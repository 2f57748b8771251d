"""Errors as text."""

from mnist.text import root_cause, without_password


def test_error_is_told_by_what_it_came_from_in_one_line_without_a_password() -> None:
    try:
        try:
            raise KeyError("http://me:secret@host/x\nand more")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        assert root_cause(error) == "KeyError: 'http://host/x\\nand more'"


def test_only_addresses_lose_what_stands_before_their_host() -> None:
    assert without_password("postgresql://u:p@q@host/db a@b") == "postgresql://host/db a@b"
