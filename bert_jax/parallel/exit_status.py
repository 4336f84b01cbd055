"""Exit statuses of `bert-jax`."""

OK = 0
DIFFERENT = 1
"""`compare` found a difference."""
DOES_NOT_FIT = 1
"""`plan` found that a step needs more memory than there is."""
USER_ERROR = 2
"""Something that the person can mend, reported in one line."""
HUNG = 70
"""A process that made no progress."""
INTERRUPTED = 75
"""Stopped by a signal and saved: the same command resumes."""
KEYBOARD_INTERRUPT = 130
BROKEN_PIPE = 141
