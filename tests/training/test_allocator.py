"""What a step frees is there for the next: the kernel is asked for no page again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
from medtransfer.training import allocator

libc, size = ctypes.CDLL(None), 64 << 20

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():  # as torch asks for a tensor, fills it and frees it
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), 64, size) == 0
    ctypes.memset(block, 1, size)
    libc.free(block)

if sys.argv[1] == "kept":
    assert allocator.keep_freed()
found = []
for _ in range(60):  # the heap grows until blocks fit in what others left
    before = faults()
    step()
    found.append(faults() - before)
print(min(found))
"""


def found(how: str) -> int:
    """Runs a process that takes and frees a large block: its page faults in the step with the fewest."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc maps large blocks anew")
def test_a_later_step_faults_no_page() -> None:
    pages, plain, kept = (64 << 20) // 4096, found("plain"), found("kept")
    assert kept < pages // 100
    assert plain > 10 * kept  # a kernel that gives huge pages by itself faults less
