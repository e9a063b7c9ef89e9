"""The laws that values of parameters keep."""

from __future__ import annotations

from medtransfer.errors import UserError


def require(law: bool, words: str, **values: object) -> None:
    """Refuses values that break a law.

    Raises:
        UserError: with the law and the values.
    """
    if not law:
        found = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise UserError(f"`{words}` must hold, got {found}")
