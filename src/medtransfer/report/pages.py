"""Templates of pages: the report's and those of other rooms, which share its look."""

from __future__ import annotations

import re

import jinja2
from markupsafe import Markup, escape

WHOLE = 16
"""letters of a name that stays in one line"""


def environment(*packages: str) -> jinja2.Environment:
    """Finds the templates of pages.

    Args:
        packages: whose templates are looked through before the report's own.
    """
    loaders = [jinja2.PackageLoader(package) for package in (*packages, "medtransfer.report")]
    found = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    found.filters["breaks"] = _breaks
    return found


def _breaks(text: str) -> Markup:
    """Lets a long name go on in a second line behind its own signs, a score's interval behind the score."""
    scored = re.fullmatch(r"([^()]*\d) (\([^()]*\d\))", text)
    if scored:
        return Markup('<span class="whole">{}</span> <span class="whole">{}</span>').format(*scored.groups())
    words = [_broken(word) if len(word) > WHOLE else escape(word) for word in text.split(" ")]
    return Markup(" ").join(words)


def _broken(word: str) -> Markup:
    return Markup(re.sub(r"(?<=\w)([+@/_])(?=\w)", r"\1<wbr>", str(escape(word))))
