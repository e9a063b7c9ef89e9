from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medtransfer.cli.main import name_first, run
from medtransfer.core.errors import UserError
from medtransfer.packs import file
from tests.support import packs, workspace


def test_words_behind_merge_are_its_packs_up_to_the_next_option() -> None:
    assert name_first(["merge", "a.pack", "b.pack", "--out", "c.pack"]) == [
        "merge", "--packs", "a.pack,b.pack", "--out", "c.pack",
    ]  # fmt: skip
    assert name_first(["merge", "--out", "c.pack"]) == ["merge", "--out", "c.pack"]
    assert name_first(["fetch", "pneumoniamnist", "more"]) == ["fetch", "--dataset", "pneumoniamnist", "more"]


def test_packs_are_merged_and_compared_in_any_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for lab, init in (("A", "random@resnet50"), ("B", "swav@resnet50")):
        runs = [packs.result(init=init, seed=k, auc=0.8 + k / 100) for k in range(3)]
        packs.write(tmp_path / f"{lab}.pack", packs.contribution(runs, lab=lab))
    caplog.set_level(logging.INFO)
    run(["merge", "A.pack", "B.pack"], tmp_path)
    assert [one.lab for one in file.read(tmp_path / "all.pack").contributions] == ["A", "B"]
    assert "  A: 3 runs, claimed, digest " in caplog.text
    run(["compare", "--pack", "all.pack"], tmp_path)
    assert "81.00 ± 1.00" in capsys.readouterr().out
    with pytest.raises(UserError, match="--metric: of scores that other code measured, not of a pack"):
        run(["compare", "--pack", "all.pack", "--metric", "auc"], tmp_path)
    with pytest.raises(UserError, match="--tolerance is a difference of scores"):
        run(["merge", "A.pack", "--tolerance", "much"], tmp_path)
    for number in ("nan", "-0.1", "2"):
        with pytest.raises(UserError, match="from 0 to 1, got"):
            run(["merge", "A.pack", f"--tolerance={number}"], tmp_path)


def test_options_that_are_none_are_refused(tmp_path: Path, top: Path) -> None:
    workspace.make(tmp_path, top)
    with pytest.raises(UserError, match="pack needs --lab"):
        run(["pack"], tmp_path)
    with pytest.raises(UserError, match="--predictions must be yes or no"):
        run(["pack", "A", "--predictions", "some"], tmp_path)
    with pytest.raises(UserError, match="--share is a part of the runs"):
        run(["verify", "a.pack", "--lab", "B", "--share", "few"], tmp_path)
    with pytest.raises(UserError, match="--spread is documented, measure or a number"):
        run(["verify", "a.pack", "--lab", "B", "--spread", "few"], tmp_path)
    with pytest.raises(UserError, match=r"looked for the pack .*a\.pack, found no such file"):
        run(["verify", "a.pack", "--lab", "B"], tmp_path)
