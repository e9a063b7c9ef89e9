"""What identifies work, so that it is found again and not done twice."""

from __future__ import annotations

import hashlib
import json

PROTOCOL_VERSION = 1
"""Raised by hand whenever a change alters the numbers of a run: it is part of every run's identity."""


def digest(identity: object) -> str:
    """Hashes plain data: equal identities, equal digests, in whichever order their keys stand."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
