"""What the installed timm knows, kept for where it is not installed: `python -m tests.timm_index` writes it."""

from __future__ import annotations

import gzip
import json

from medtransfer.weights import timm_index


def packed() -> bytes:
    """Packs what the installed timm answers, the same bytes each time."""
    text = json.dumps(timm_index._index(), sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode(), mtime=0)


if __name__ == "__main__":
    timm_index.KEPT.write_bytes(packed())
