"""The verb `site`: packs -> a folder of pages, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import files
from medtransfer.core.errors import UserError, quantity, some
from medtransfer.packs.records import Pack
from medtransfer.packs.site import board, boards, init_page, pack_page, task_page
from medtransfer.packs.site.board import Board
from medtransfer.packs.site.layout import INDEX, PACKS, VIEWS, path_of
from medtransfer.report.pages import environment

MARK = "site.json"
"""file that says which files of a folder are a site, and of which contributions"""
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A link of the list of pages."""

    text: str
    path: str
    level: int = 0


def write(
    pack: Pack, out: Path, *, reference: str = "random", protocol: str = "finetune", recipe: str = "fixed"
) -> Board:
    """Writes the leaderboard of a pack's contributions.

    Args:
        pack: of all contributions.
        out: folder of the site; a site that is there is replaced.
        reference: init that improvements are over: a bare name stands for that on each init's own backbone.
        protocol: of the runs that count.
        recipe: of the runs that count.

    Raises:
        UserError: the folder holds something else than a site, or no run counts.
    """
    _refuse_other(out)
    found = board.build(pack, reference=reference, protocol=protocol, recipe=recipe)
    with _replacing(out) as folder:
        for path, text in files_of(found).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8", newline="\n")
    return found


def files_of(found: Board) -> dict[str, str]:
    """Renders every file of the site: path -> text; equal contributions give equal bytes."""
    templates = environment("medtransfer.packs.site")
    template, navigation = templates.get_template("page.html"), _navigation(found)
    pages = [
        *boards.pages(found),
        *(init_page.page(found, init) for init in found.inits),
        *(task_page.page(found, task) for task in found.tasks),
        *(pack_page.page(found, one) for one in found.contributions),
    ]
    texts = {page.path: template.render(page=page, nav=navigation) for page in pages}
    texts |= {name: templates.get_template(name).render() for name in ("style.css", "site.js")}
    mark = {
        "site": FORMAT,
        "contributions": [one.digest for one in found.contributions],
        "reference": found.reference,
        "protocol": found.protocol,
        "recipe": found.recipe,
    }
    return texts | {MARK: json.dumps(mark | {"files": sorted(texts)}, indent=1) + "\n"}


def _navigation(found: Board) -> list[Entry]:
    scopes = [Entry(text=f"on {one.name} images", path=boards.path_of_scope(one), level=1) for one in found.scopes[1:]]
    tasks = [Entry(text=task, path=path_of("tasks", task), level=1) for task in found.tasks]
    return [
        Entry(text="Leaderboard", path=INDEX), *scopes, *tasks, Entry(text="Views", path=VIEWS),
        Entry(text="Packs", path=PACKS),
    ]  # fmt: skip


def _refuse_other(out: Path) -> None:
    """Refuses to put a site in the place of what is none, or of what somebody has put beside one."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give --out a folder")
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()) if out.is_dir() else []
    own = {MARK, *_files(out / MARK)}
    if others := [name for name in found if name not in own]:
        raise UserError(
            f"{out} holds {quantity(len(others), 'file')} not of a site {some(others)}, which would be lost: give "
            "--out a "
            "new folder, or move them"
        )


def _files(mark: Path) -> list[str]:
    """Lists the files of the site that a folder holds."""
    try:
        return [str(name) for name in json.loads(mark.read_text())["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Gives an empty folder beside a folder and puts it in its place if the block ends well; else removes it."""
    out = out.resolve()
    files.make_folder(out.parent)
    stem = f".{out.name}.{socket.gethostname()}.{os.getpid()}"
    new, old = out.with_name(f"{stem}.new"), out.with_name(f"{stem}.old")
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
