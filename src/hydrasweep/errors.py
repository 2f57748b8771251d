"""What a user can put right."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # full, read-only, broken


class UserError(ValueError):
    """A setting, file or store that does not fit; the message is a sentence that says what
    it was and what is allowed, and is all that the user needs to see."""


class Outage(UserError):
    """A disk, a store or a server failed: what was being tried is not to blame, and can go on
    once it is put right."""


def is_outage(error: BaseException) -> bool:
    """Whether it is an outage, or a disk's error that nobody has called so yet."""
    return isinstance(error, Outage) or (isinstance(error, OSError) and error.errno in DISK)


def root_cause(error: BaseException) -> str:
    """The error that all others around it came from, in one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return without_password(f"{type(error).__name__}: {error}".splitlines()[0])


def without_password(text: str) -> str:
    """The text without the users and passwords of the addresses in it."""
    return re.sub(r"(?<=\w:)//[^/\s]*@", "//", text)


@contextmanager
def in_words(problem: str) -> Iterator[None]:
    """Turn whatever fails into a sentence.

    Raises:
        Outage: in place of any error but a user's.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise Outage(f"{problem} ({root_cause(error)[:300]})") from error
