from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer.core import files
from medtransfer.core.errors import UserError


def test_a_folder_that_cannot_be_written_into_is_named(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a/b")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/b"]
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nothing")):
        with pytest.raises(UserError, match=f"cannot write into the folder {place} .*: name another one"):
            files.make_folder(place)
