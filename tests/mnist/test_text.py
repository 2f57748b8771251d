"""Errors as text."""

from mnist.text import root_cause, without_password


def test_error_is_told_by_what_it_came_from_in_one_line_without_a_password() -> None:
    inner, outer = OSError("no http://me:secret@host/x\nand more"), ValueError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "OSError: no http://host/x"


def test_only_addresses_lose_what_stands_before_their_host() -> None:
    assert without_password("postgresql://u:p@q@host/db a@b") == "postgresql://host/db a@b"
