"""Errors as text."""

from mnist.text import root_cause, without_password


def test_root_cause_is_one_line_without_a_password():
    inner, outer = OSError("no http://me:secret@host/x\nand more"), ValueError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "OSError: no http://host/x"


def test_password_is_removed_only_from_addresses():
    assert without_password("postgresql://u:p@q@host/db a@b") == "postgresql://host/db a@b"
