"""Whether the addresses of the table of published weights still answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import requests

from medtransfer.core.addresses import scrub
from medtransfer.weights import hub_client, hub_names, locate
from medtransfer.weights.names import Initialization
from medtransfer.weights.records import Record

State = Literal["ok", "gone", "asks for login", "unreachable", "by hand"]
AT_ONCE = 6
TIMEOUT = (10.0, 30.0)
"""seconds to connect, and to wait for an answer"""
GONE = (404, 410)
REFUSED = (400, 401, 403, 405, 501)
"""answers to HEAD after which the first byte is asked for: some servers, and signed addresses, allow GET alone"""


@dataclass(frozen=True)
class Link:
    """What became of an address."""

    address: str
    inits: tuple[str, ...]
    """that are fetched from it"""
    state: State
    why: str = ""


def addresses(records: Mapping[str, Record]) -> dict[str, tuple[str, ...]]:
    """Lists the addresses of records, and what a person does where no program may fetch: address -> its inits.

    Tags that timm lists for any number of backbones are timm's to look after, and left out.
    """
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for backbone in record.sources:
            source = locate.resolve(Initialization(record=record, backbone=backbone))
            for address in (source.url, *source.beside) if source.url else source.steps[:1]:
                found.setdefault(address, {})[record.name] = None
    return {address: tuple(names) for address, names in found.items()}


def check(wanted: Mapping[str, tuple[str, ...]]) -> list[Link]:
    """Asks for every address, a handful at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = pool.map(_answer, wanted)
        return [Link(address, wanted[address], *answer) for address, answer in zip(wanted, answers, strict=True)]


def lost(links: Iterable[Link]) -> list[Link]:
    """Lists those whose file is gone."""
    return [link for link in links if link.state == "gone"]


def _answer(address: str) -> tuple[State, str]:
    if "://" not in address or " " in address:
        return "by hand", ""
    if spec := hub_names.of_web(address):
        return hub_client.state(spec)
    try:
        with requests.head(address, allow_redirects=True, timeout=TIMEOUT) as head:
            if head.status_code not in REFUSED:
                return _meaning(head)
        first = {"Range": "bytes=0-0"}
        with requests.get(address, headers=first, stream=True, allow_redirects=True, timeout=TIMEOUT) as answer:
            return _meaning(answer)
    except requests.RequestException as error:
        return "unreachable", type(error).__name__


def _meaning(answer: requests.Response) -> tuple[State, str]:
    status, words = answer.status_code, scrub(f"{answer.status_code} {answer.reason}")
    if status in GONE:
        return "gone", words
    if status in (401, 403):
        return "asks for login", words
    if status not in (200, 206):
        return "unreachable", words
    page = answer.headers.get("Content-Type", "").startswith("text/html")
    return ("asks for login", "a web page") if page else ("ok", "")
