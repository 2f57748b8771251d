"""What a user can put right."""


class UserError(ValueError):
    """A setting, file or store that does not fit; the message is a sentence that says what
    it was and what is allowed, and is all that the user needs to see."""
