"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the program is wrong: a file, an option, a value.

    The message says what was wrong, the value found and what is allowed; the command line prints it alone, exit code 2.
    """
