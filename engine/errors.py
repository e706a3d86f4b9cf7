"""The three ways in which work ends other than by being done."""


class UserError(Exception):
    """What was asked for is wrong; one line says what, where and what would be right (exit status 2, nothing written)."""


class RunError(Exception):
    """A run failed while it worked; one line says what and where (exit status 1, no finished stage lost)."""


class Stopped(Exception):
    """A stage was asked to stop and has written its checkpoint (exit status 75, resumable)."""
