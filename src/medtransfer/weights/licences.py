"""What a licence permits, read off its name or off a sentence about it: commercial use, and on which terms.

The answer is `yes` only where the whole text is understood: the name of a licence that permits, and words that say no
more than where it is written. The name of one that forbids counts wherever it stands. All else is `unclear`: read it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "no", "unclear"]
STRICT: tuple[Answer, ...] = ("yes", "unclear", "no")
"""from the least strict to the strictest"""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a licence permits, and what it asks of whoever passes on what was made under it."""

    commercial: Answer
    attribution: bool = False
    """names its authors"""
    share_alike: bool = False
    """stays under the same licence"""
    no_derivatives: bool = False
    """is not passed on at all where it was changed; every fine-tuned model was"""


@dataclass(frozen=True, kw_only=True)
class Strictest:
    """The strictest part of a chain."""

    part: str
    """`weights <init>: <licence>`, `images of <dataset>: <licence>`, or a licence alone"""
    terms: Terms
    """of the whole chain"""


_ELEMENTS = {
    "by": r"by|attribution",
    "nc": r"nc|non[- ]?commercial",
    "nd": r"nd|no[- ]?deriv(?:ative)?s?(?: works)?",
    "sa": r"sa|share[- ]?alike",
}
"""of the licences of Creative Commons"""
_ELEMENT = "|".join(_ELEMENTS.values())
_CC = re.compile(
    rf"(?<![\w-])(?:(?:https?://)?(?:www\.)?creativecommons\.org/licenses/|(?:creative commons|cc)[-\s/:.]*"
    rf"(?:license[-\s]*)?)?(?P<elements>(?:{_ELEMENT})(?:[-\s/,.+]*(?:{_ELEMENT}))*)"
    r"(?:[-\s/v]*\d(?:\.\d)?)?(?:[-\s/,]*(?:international|unported|igo|generic|(?:public )?license|deed(?:\.\w+)?))*/?"
    r"(?![\w-]|/\w)"
)
"""a licence of Creative Commons, with or without that name; whether it is one, `_creative` says"""
_FORBIDDEN = (
    r"non[- ]?commercial\w*", r"(?:no|not?(?: \w+)? for) commercial\b(?! restrict| limit)",
    r"commercial(?: use| usage| purposes?)?(?: (?!not)\w+){0,2} (?:not|never|prohibited|forbidden|excluded)\b"
    r"(?! restrict| limit| prohibit| forbid| exclu)",
    r"(?:research|academic|education(?:al)?|evaluation)(?: (?!commercial)\w+){0,3}[- ](?:only|purposes?|uses?)",
    r"(?:only|solely) (?:for|to)(?: \w+){0,2} (?:research|academic|education\w*|evaluation|teaching)",
    r"(?:academic|research)[- ]license", r"personal use", r"(?<!non )(?<![\w/-])nc(?![\w/-])", r"msrla",
    r"\bamlr", r"apple machine learning research", r"\bseer(?: model)?[- ]license", r"asu github project license",
    r"commons clause", r"stanford(?: \w+)*? use agreement", r"stanford(?: \w+)? dua",
    r"nvidia source code license[- ]nc", r"nsclv1",
)  # fmt: skip
"""licences and words that forbid commercial use, wherever they stand"""
_NO_DERIVATIVES = r"(?<!non )(?<![\w/-])nd(?![\w/-])|\bno[- ]?deriv"
_PERMITTED = {
    r"(?:https?://)?(?:www\.)?opensource\.org/licenses?/(?:mit|apache-2\.0|isc|bsd-[23]-clause)": "attribution",
    r"(?:the )?(?:mit|expat)(?:[- ]0)?": "attribution",
    r"apache(?:[- ]?software)?(?:[- ]license)?,?(?:[- ]?(?:version|v)?\.?[- ]?[12](?:\.\d)?)?": "attribution",
    r"(?:https?://)?(?:www\.)?apache\.org/licenses/license-2\.0(?:\.txt|\.html)?": "attribution",
    r"(?:(?:new|simplified|revised|modified|original|[0234][- ]clause) )?bsd(?:[- ]?[1-4][- ]?clause)?(?:[- ]clear)?"
    r"(?:,? \"?(?:new|simplified|revised|modified)\"?(?: or)?)*": "attribution",
    r"isc|zlib|ncsa|boost(?: software)?|bsl-1\.0|odc-by|ecl-2\.0": "attribution",
    r"0bsd|(?:the )?unlicense|public domain(?: dedication)?|pddl|cdla-permissive-2\.0": "",
    r"(?:cc[- ]?0|cc[- ]zero|creative commons (?:cc[- ]?0|zero)|(?:https?://)?creativecommons\.org/publicdomain/zero)"
    r"(?:[-\s/]?(?:v?1\.0)(?: universal)?)?/?": "",
    r"nvidia[- ]open[- ]model": "attribution",
    r"(?:gnu )?(?:affero |lesser )?general public(?: license)?(?: ?,? ?(?:version|v)?[- ]?\d(?:\.\d)?)?": "share_alike",
    r"(?:gnu )?[al]?gpl(?:[- ]?v?\.?\d(?:\.\d)?\+?)?(?:[- ](?:only|or[- ]later))?": "share_alike",
    r"mpl[- ]?2\.0|mozilla public license(?: 2\.0)?|eupl[- ]1\.[12]|odbl": "share_alike",
    r"commercial use(?: is)? (?:permitted|allowed)|free for commercial use": "",
}
"""licences that permit commercial use, up to the word `license` -> what they ask for"""
_PLAIN = (
    r"(?:no|without)(?: a)? license file", r"non-n[cd]", r"card of [^\s();,]+", r"pretrained cfg in config\.json",
    r"\([\w-]+/license\)", r"(?:license|notice|readme)\.(?:md|txt|rst)",
    r"code and (?:weights|models?)|(?:weights|models?) and code",
)  # fmt: skip
"""phrases that change nothing"""
_WORDS = (
    r"an?|and|are|as|at|badge|both|card|checkpoints?|face|files?|from|hf|hub|hugging|huggingface|in|international|is|"
    r"licensed?|licenses|models?|of|on|or|page|present|published|readme|released|repo|repository|stated?|states|tag|the|"
    r"under|version|weights|with"
)
"""words that say no more than what is licensed and where that is written"""
_BEFORE = re.compile(r"\b(?:earlier|formerly|previously|once|still says)\b[^;)]*")
"""what a licence was until another one took its place, or what a page says that was not changed with it"""
_PART = re.compile(r"; (?=(?:weights|images of) [^;]+?: )")
_SUBJECT = re.compile(r"(?:weights|images of) .+?: |weights: ")


def commercial(text: str) -> Answer:
    """Says whether a licence, or a sentence about one, permits commercial use: `yes`, `no` or `unclear`."""
    return terms(text).commercial


def terms(text: str) -> Terms:
    """Reads a licence, a sentence about one, or those of a chain, joined as `joined` does: the strictest counts.

    A licence without derivatives counts as one that forbids commercial use: what is used here is always changed.
    """
    parts = split(text)
    if len(parts) > 1:
        return strictest(parts).terms
    subject = _SUBJECT.match(text)
    licence = text[subject.end() :] if subject else text
    if licence == "none":  # as the user writes it of weights of their own
        return Terms(commercial="yes")
    now = _BEFORE.sub(" earlier ", _plain(text))
    elements = {name for match in _CC.finditer(now) for name in _creative(match)}
    no_derivatives = "nd" in elements or bool(re.search(_NO_DERIVATIVES, now))
    forbidden = no_derivatives or "nc" in elements or any(re.search(rule, now) for rule in _FORBIDDEN)
    rest, asked = _read(_BEFORE.sub(" earlier ", _plain(licence)))
    permitted = bool(asked) and not rest and "?" not in licence
    return Terms(
        commercial="no" if forbidden else "yes" if permitted else "unclear",
        attribution="attribution" in asked or "by" in elements,
        share_alike="share_alike" in asked or "sa" in elements,
        no_derivatives=no_derivatives,
    )


def _plain(text: str) -> str:
    """Writes small letters, one kind of hyphen and of blank, and one spelling of `license`."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[_\u2010-\u2015\u2212]", "-", text).replace("licenc", "licens")
    text = re.sub(r"(?<![a-z])cc[-\s]?by(?=n[cd]|sa)", "cc-by-", text)  # CCBYNC
    return " ".join(re.sub(r"(?<=by-)(n[cd])(?=sa|nd)", r"\1-", text).split())


def _creative(match: re.Match[str]) -> set[str]:
    """Names the elements of a licence of Creative Commons; none where a lone word is no such licence."""
    text = match["elements"]
    found = {name for name, rule in _ELEMENTS.items() if re.search(rf"(?<![a-z])(?:{rule})(?![a-z])", text)}
    named = re.match(r"cc|creative|http|www|attribution.*\d", match[0])
    return found if named or len(found) > 1 else set()


def _read(text: str) -> tuple[str, set[str]]:
    """Takes out of a text what is understood; returns what is left, and what the licences in it ask for."""
    asked = {"" for match in _CC.finditer(text) if _creative(match)}
    text = _CC.sub(lambda match: " " if _creative(match) else match[0], text)
    for rule in _PLAIN:
        text = re.sub(rf"(?<![\w-])(?:{rule})(?![\w-])", " ", text)
    for rule, asks in _PERMITTED.items():
        whole = rf"(?<![\w-])(?:{rule})(?:[- ]license[sd]?)?(?![\w-]|\.\w)"
        text, count = re.subn(whole, " ", text)
        asked |= {asks} if count else set()
    words = [word.rstrip(".-") for word in re.findall(r"\w[\w.-]*", text)]
    known = _WORDS + (r"|code" if {"weights", "model", "models"} & set(words) else "")
    return " ".join(word for word in words if not re.fullmatch(rf"{known}|v?\d[\d.-]*", word)), asked


def parts(name: str, licence: str) -> tuple[str, ...]:
    """Lists the parts of a chain of the weights of an init: of its licence, or of the chain that it holds already."""
    found = split(licence)
    return found if _SUBJECT.match(licence) else (f"weights {name}: {licence}",)


def split(text: str) -> tuple[str, ...]:
    """Takes the licences of a chain apart."""
    return tuple(_PART.split(text))


def joined(licences: Iterable[str]) -> str:
    """Writes the licences of a chain as one text."""
    return "; ".join(dict.fromkeys(licences))


def strictest(licences: Sequence[str]) -> Strictest:
    """Finds the strictest licence of a chain, and what all of them together permit and ask for."""
    read = {part: terms(part) for part in licences}
    first = max(read, key=lambda part: _strictness(read[part]))
    return Strictest(
        part=first,
        terms=Terms(
            commercial=max((one.commercial for one in read.values()), key=STRICT.index),
            attribution=any(one.attribution for one in read.values()),
            share_alike=any(one.share_alike for one in read.values()),
            no_derivatives=any(one.no_derivatives for one in read.values()),
        ),
    )


def _strictness(found: Terms) -> tuple[int, ...]:
    return (STRICT.index(found.commercial), found.no_derivatives, found.share_alike, found.attribution)


def sentence(licences: Sequence[str]) -> str:
    """Says in words which licence of a chain is the strictest and what the chain means for what was made of it."""
    found = strictest(licences)
    subject, _, licence = found.part.partition(": ") if _SUBJECT.match(found.part) else ("", "", found.part)
    means = {
        "no": "it forbids commercial use of what was derived from it, so of this model",
        "unclear": "whether it permits commercial use is unclear: read it before this model is used commercially",
        "yes": "it permits commercial use of this model",
    }[found.terms.commercial]
    asked = [
        "name the authors of all that it is made of" if found.terms.attribution else "",
        "keep it under the same licence" if found.terms.share_alike else "",
    ]
    passed = ", and ".join(filter(None, asked))
    whose = f" (of the {subject})" if subject else ""
    words = f"The strictest licence of what this model is made of is {licence}{whose}: {means}."
    if found.terms.no_derivatives:
        return f"{words} It may not be passed on: a licence of its chain permits no derivatives."
    return f"{words} Where it is passed on, {passed}." if passed else words
