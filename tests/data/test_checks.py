from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtransfer.core.errors import UserError
from medtransfer.data.prepare import prepare
from medtransfer.data.readers import reading
from tests.support.raw_files import (
    FINDINGS,
    LUNGS,
    edit,
    fake_read,
    findings,
    settings,
    write,
)


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read", fake_read)


def test_readers_are_held_to_their_contract(tmp_path: Path) -> None:
    folder = findings(tmp_path)
    edit(folder, 3, id="i2")
    with pytest.raises(UserError, match="ids must be unique, 'i2'"):
        prepare(FINDINGS, settings(), tmp_path)
    edit(folder, 3, id="i3", labels="1")
    with pytest.raises(UserError, match="must have 2 labels"):
        prepare(FINDINGS, settings(), tmp_path)
    lungs = write(tmp_path, LUNGS, ["all"] * 20)
    edit(lungs, 0, masks="")
    with pytest.raises(UserError, match="has masks for 0 of 1 labels"):
        prepare(LUNGS, settings(), tmp_path)


def test_no_images_or_an_empty_split_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, FINDINGS, ["trainval"] * 24)
    with pytest.raises(UserError, match="'test': 0"):
        prepare(FINDINGS, settings(partial=True), tmp_path)
    (folder / "samples.csv").write_text("id,patient,split,image,labels,masks\n")
    with pytest.raises(UserError, match="found none"):
        prepare(FINDINGS, settings(), tmp_path)


def test_labels_with_one_slug_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a b' and 'a_b'"):
        prepare(replace(FINDINGS, labels=("a_b", "a b")), settings(), tmp_path)
