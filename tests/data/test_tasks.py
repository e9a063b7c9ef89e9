from __future__ import annotations

from medtransfer.data.tasks import slug


def test_slugs() -> None:
    assert slug("Pleural_Thickening") == "Pleural_Thickening"
    assert slug("T4 (large) é") == "T4__large___"
