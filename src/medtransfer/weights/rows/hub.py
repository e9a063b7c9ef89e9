"""How rows name files that lie in repositories of the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import Source

HUB = "https://huggingface.co"


def hub(repository: str, path: str = "model.safetensors", **fields: Any) -> Source:
    """Names a file of a repository of the hub; on disk it has the repository's name too, as many share one name.

    Args:
        repository: `<owner>/<repository>`.
        path: of the file in there.
        **fields: of the source that differ: `layout` is `auto` unless stated.
    """
    place = f"{repository.partition('/')[2]}-{path.rpartition('/')[2]}"
    known: dict[str, Any] = {"url": f"{HUB}/{repository}/resolve/main/{path}", "file": place, "layout": "auto"}
    return Source(**(known | fields))


def by_hand(page: str, file: str, **fields: Any) -> Source:
    """Names a file that a person fetches from a page: a form, a folder of Google Drive."""
    steps = (f"open {page} in a browser", f"get {file} there", "put it at {place}")
    known: dict[str, Any] = {"file": file, "steps": steps, "nested": None, "layout": "auto"}
    return Source(**(known | fields))
