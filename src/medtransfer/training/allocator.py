"""Keeps what tensors freed for the tensors of the next step, where the C library would give it back to the kernel."""

from __future__ import annotations

import ctypes
import functools
import logging

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""numbers of glibc's `mallopt` (malloc.h)"""

log = logging.getLogger("medtransfer")


@functools.cache
def keep_freed() -> bool:
    """Lets this process's allocator keep what it has got; says whether it can.

    glibc maps each block above 32 MB anew and unmaps it when it is freed, so that in every step the kernel clears the
    pages of every large activation: of a step at 224 px a fifth (ResNet-50) to two fifths (EfficientNet-lite0). No
    number changes; a process holds up to a fifth more memory at its peak, and keeps it for its next run. Other C
    libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    kept = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
    log.debug("freed memory is %s", "kept for the next step" if kept else "not kept: the C library refused")
    return kept
