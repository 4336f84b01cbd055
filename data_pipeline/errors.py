"""What a person can mend, apart from faults of the program."""


class UserError(ValueError):
    """Something that the person who runs the program can mend: says what is wrong, where, and what to do.

    `bert-jax` prints it as one line and ends with status 2. Any other ValueError is a fault of the program:
    it keeps its traceback and ends with status 1, which a launcher tries again.
    """


class EmptyError(UserError):
    """There is nothing in a text that wants something."""


def require(condition: bool, message: str) -> None:
    """Raises UserError(message) unless `condition` holds."""
    if not condition:
        raise UserError(message)
