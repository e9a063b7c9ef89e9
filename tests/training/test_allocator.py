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

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

def step():  # as torch asks for a tensor, fills it and frees it
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), 64, size) == 0
    ctypes.memset(block, 1, size)
    libc.free(block)

if sys.argv[1] == "kept":
    assert allocator.keep_freed()
for _ in range(8):  # the heap grows until blocks fit in what others left
    step()
before = faults()
step()
print(faults() - before, end=" ")
held = resident()
allocator.give_back()
print(held - resident())
"""


def found(how: str) -> tuple[int, int]:
    """Runs a process that takes and frees a large block: its page faults in a later step, and MiB given back."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    faults, mebibytes = map(int, done.stdout.split())
    return faults, mebibytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc maps large blocks anew")
def test_a_later_step_faults_no_page_and_a_new_run_gets_the_memory_back() -> None:
    pages = (64 << 20) // 4096
    (plain, _), (kept, back) = found("plain"), found("kept")
    assert kept < pages // 100
    assert plain > 10 * kept  # a kernel that gives huge pages by itself faults less
    assert back > 50
