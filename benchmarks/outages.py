"""A benchmark of tiny cells on real servers, which go away in the middle: what is lost, what is doubled.

MLflow's server is stopped twice, PostgreSQL and the S3 server once each, for so many seconds and as long as they take
to start again; then what the journals on disk hold is counted against what MLflow holds.

    PYTHONPATH=src:. python benchmarks/outages.py [seconds] [cells] [epochs]
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from tests.support import outages, servers

ROOT = Path(__file__).parents[1]


def main(seconds: int = 60, cells: int = 24, epochs: int = 400) -> None:
    """Starts servers of its own, interrupts them, and prints the figures."""
    if reason := servers.missing():
        raise SystemExit(reason)
    with servers.running() as up, tempfile.TemporaryDirectory() as folder:
        os.environ.update(up.environment)
        figures = outages.interrupt(up, ROOT, Path(folder), seconds=seconds, cells=cells, epochs=epochs)
    print(f"{cells} cells of {epochs} epochs; {', '.join(outages.OUTAGES)} away for {seconds} s each and their start")
    for name, value in dataclasses.asdict(figures).items():
        print(f"{name:8} {value:.0f}" if isinstance(value, float) else f"{name:8} {value}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
