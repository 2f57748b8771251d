"""Errors and addresses as one line of text that anybody may see."""

import re


def root_cause(error: BaseException) -> str:
    """The error that all others around it came from."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return without_password(f"{type(error).__name__}: {error}".splitlines()[0])


def without_password(text: str) -> str:
    """The text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=\w:)//\S*@", "//", text)
