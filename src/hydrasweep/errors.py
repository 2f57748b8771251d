"""What a user can put right."""


class UserError(ValueError):
    """A setting, file or store that does not fit; the message is a sentence that says what
    it was and what is allowed, and is all that the user needs to see."""


class Outage(UserError):
    """A disk, a store or a server failed: what was being tried is not to blame, and can go on
    once it is put right."""
