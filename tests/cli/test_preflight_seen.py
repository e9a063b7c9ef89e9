from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from medtransfer import params as parameters
from medtransfer.cli import preflight
from medtransfer.core.errors import UserError
from medtransfer.weights.licences import commercial


def seen(top: Path, *datasets: str) -> parameters.Params:
    own = parameters.OwnInit(file="mine.pth", backbone="resnet18", datasets=datasets)
    return dataclasses.replace(parameters.load(top / "params.yaml"), inits={"ours": own})


def test_a_misspelt_dataset_that_weights_saw_is_refused_because_it_would_keep_them_from_no_task(
    top: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"inits.ours.datasets: unknown dataset shenzen; did you mean shenzhen\?"):
        preflight.check("inits", seen(top, "shenzen"), tmp_path, {})
    with pytest.raises(UserError, match="did you mean chestxray14"):
        preflight.check("inits", seen(top, "shenzhen", "ChestXray14"), tmp_path, {})
    preflight.check("inits", seen(top, "shenzhen", "drive"), tmp_path, {})
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        preflight.check("inits", seen(top, "padchest"), tmp_path, {})
    assert "no task here is of padchest" in caplog.text


def test_a_bad_list_of_training_images_is_refused_before_work_starts(top: Path, tmp_path: Path) -> None:
    own = parameters.OwnInit(file="mine.pth", backbone="resnet18", images="seen.csv")
    here = dataclasses.replace(parameters.load(top / "params.yaml"), inits={"ours": own})
    with pytest.raises(UserError, match=r"looked for the list of training images .*seen\.csv, found none"):
        preflight.check("inits", here, tmp_path, {})
    (tmp_path / "seen.csv").write_text("id,age\n1,50\n")
    with pytest.raises(UserError, match="no column of file names, hashes or DICOM UIDs"):
        preflight.check("inits", here, tmp_path, {})


@pytest.mark.parametrize(
    ("licence", "answer"),
    [("CC BY 4.0", "yes"), ("Apache 2.0", "yes"), ("MIT", "yes"), ("cc-by-nc-4.0", "no"), ("CC BY-NC 4.0", "no"),
     ("ours", "unclear"), ("asu non-commercial", "no")],
)  # fmt: skip
def test_a_licence_counts_by_its_usual_name_with_blanks_or_hyphens(licence: str, answer: str) -> None:
    assert commercial(licence) == answer
