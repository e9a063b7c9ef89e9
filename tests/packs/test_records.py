from __future__ import annotations

from typing import Any, Literal

import pytest

from medtransfer.packs.records import Certificate, Checked, Pack
from tests.support import packs

Verdict = Literal["equal", "within", "different", "failed"]


def certificate(by: str, *verdicts: Verdict) -> Certificate:
    checked = tuple(Checked(run="0" * 32, verdict=one, claimed=0.9, found=0.9, spread=None) for one in verdicts)
    return Certificate(
        contribution="a" * 64, by=by, finished="2026-01-31T12:00:00Z", share=0.1, draw=0, machine="cpu", versions={},
        checked=checked,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("certificates", "status"),
    [
        ((), "claimed"),
        ((certificate("Lab A", "equal"),), "claimed"),  # its own
        ((certificate("Lab B", "equal", "within"),), "verified"),
        ((certificate("Lab B", "equal", "failed"),), "claimed"),  # what could not be trained says nothing
        ((certificate("Lab B"),), "claimed"),
        ((certificate("Lab B", "equal"), certificate("Lab C", "equal", "different")), "refuted"),
        ((certificate("Lab A", "different"),), "refuted"),
    ],
)
def test_a_status_is_what_re_runs_by_others_found(certificates: Any, status: str) -> None:
    whole = packs.contribution([packs.result()], digest="a" * 64)
    other = packs.contribution([packs.result(seed=1)], lab="Lab B", digest="b" * 64)
    pack = Pack(contributions=(whole, other), certificates=certificates)
    assert pack.status("a" * 64) == status
    assert pack.status("b" * 64) == "claimed"
