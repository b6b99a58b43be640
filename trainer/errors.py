"""The one error type whose message is meant for a person."""


class UserError(Exception):
    """Something the person at the keyboard can mend; the command line prints it as one line, without a trace.

    The message says what arrived, where, and what would be right.
    """
