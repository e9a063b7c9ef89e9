"""The laws that values of parameters keep."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medtransfer.core.errors import UserError

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""names of tasks, datasets, studies and inits of the user's own: they become parts of commands and of paths"""


def require(law: bool, words: str, **values: object) -> None:
    """Refuses values that break a law.

    Raises:
        UserError: with the law and the values.
    """
    if not law:
        found = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise UserError(f"`{words}` must hold, got {found}")


def require_names(names: Iterable[str], what: str) -> None:
    """Refuses what is no name: a shell or a path would read more than a name into it.

    Raises:
        UserError: with the law and the names.
    """
    wrong = [name for name in names if not re.fullmatch(NAME, name)]
    require(not wrong, f"{what}: letters, digits, . _ and - only, the first a letter or a digit", names=wrong)
