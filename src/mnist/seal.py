"""Whether this process may see the test images: never while it takes part in a search."""

from hydrasweep import UserError

_is_sealed = False


def set_sealed(sealed: bool) -> None:
    """Seal the test images for this process, or open them again."""
    global _is_sealed
    _is_sealed = sealed


def check() -> None:
    """Called by whatever is about to read the test images.

    Raises:
        UserError: they are sealed.
    """
    if _is_sealed:
        raise UserError(
            "the test images are sealed in a sweep, which would choose by them: its winners "
            "are scored on them once, when the choice is made"
        )
