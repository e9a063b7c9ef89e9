"""The verb site: packs as a leaderboard."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from medtransfer.cli.verb import verb
from medtransfer.core.errors import quantity

log = logging.getLogger("medtransfer")


@verb(study=False)
def site(
    root: Path,
    packs: str,
    out: str = "leaderboard",
    reference: str = "random",
    protocol: str = "finetune",
    recipe: str = "fixed",
) -> None:
    """Make a leaderboard of packs: a folder of pages that opens from a disk, without a server.

    Args:
        root: the folder that paths are relative to.
        packs: files, with blanks or commas between.
        out: folder that is written; a site that is there is replaced.
        reference: init that improvements are over; a name without a backbone stands for it on each init's own.
        protocol: of the runs that count, as in benchmark.protocols.
        recipe: of the runs that count, fixed or tuned.
    """
    from medtransfer.packs import counted, file, merge
    from medtransfer.packs.site import write

    paths = [root / path for path in packs.split(",") if path]
    if len(paths) == 1:
        pack = file.read(paths[0])
    else:
        with tempfile.TemporaryDirectory() as folder:  # what contradicts is refused
            pack = merge.merge(paths, Path(folder) / "all.pack").pack
    found = write.write(pack, root / out, reference=reference, protocol=protocol, recipe=recipe)
    counts = len(counted.counting(found.runs))
    for one in found.contributions:
        log.info("  %s: %s, %s", one.lab, quantity(len(one.results), "run"), found.status(one.digest))
    log.info(
        "%s/index.html: %d of %s counted, %s, %s", out, counts, quantity(len(found.runs), "run"),
        quantity(len(found.inits), "initialization"), quantity(len(found.tasks), "task"),
    )  # fmt: skip
