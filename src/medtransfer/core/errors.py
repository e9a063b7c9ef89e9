"""The exceptions that a user is meant to read."""


class UserError(Exception):
    """Raised for anything that the user can mend: a wrong name, a missing file, a full disk.

    The message says what was looked for, where, what was found and what to do; the command line prints it
    without a traceback and tags the MLflow launcher run with it.
    """


class Held(UserError):
    """Another process has the run."""
