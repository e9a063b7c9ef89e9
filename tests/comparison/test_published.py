from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
from scipy import stats

from medtransfer.comparison import published
from medtransfer.comparison.published import Published, bare_name
from medtransfer.core.errors import UserError
from medtransfer.weights.families import check_entry, matches, split

HEADER = "paper,initialization,task,metric,mean,std,source"
ROW = "A 2030,SwAV,TXC,AUC %,95.72,0.50,PRINTED: table 1"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "numbers.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def number(mean: float, std: float, n: int) -> Published:
    return Published(
        paper="A", name="x", init="x", task="t", metric="AUC %", mean=mean, std=std, n=n, n_stated=True,
        digitised=False, source="", line=2,
    )  # fmt: skip


def test_a_row_is_read_in_our_names_and_as_fractions(tmp_path: Path) -> None:
    [row] = published.read(table(tmp_path, ROW), n=5)
    assert (row.paper, row.name, row.init, row.task, row.metric) == ("A 2030", "SwAV", "swav", "shenzhen", "AUC %")
    assert (row.mean, row.std) == pytest.approx((0.9572, 0.005))
    assert (row.n, row.n_stated, row.digitised, row.line, row.dropped) == (5, False, False, 2, ())
    assert (row.segmentation, row.group, row.score) == (False, "shenzhen", True)


@pytest.mark.parametrize(
    ("printed", "ours"),
    [
        ("Scratch", "random"),
        ("ImageNet (supervised) baseline line of SSL figure", "imagenet"),
        ("iNat2021 (supervised)", "inat2021"),
        ("ChestX-ray14 (in-domain)", "random+chestxray14"),
        ("ImageNet->CheXpert", "imagenet+chexpert"),
        ("Barlow Twins", "barlow-twins"),
        ("DeepCluster-v2", "deepcluster-v2"),
        ("imagenet+chexpert-published", "imagenet+chexpert-published"),
        ("Swin-B ImageNet", "Swin-B ImageNet"),
    ],
)
def test_a_printed_name_becomes_ours_or_stays(printed: str, ours: str) -> None:
    assert bare_name(printed) == ours


def test_a_task_that_is_not_ours_keeps_its_code_and_its_metric_tells_its_kind(tmp_path: Path) -> None:
    rows = published.read(
        table(tmp_path, "A,SwAV,CXS,Dice %,90,1,", "A,SwAV,HXS,Dice %,90,1,", "A,SwAV,QQ,AUC %,9,1,"), n=5
    )
    assert [(row.task, row.segmentation, row.group) for row in rows] == [
        ("CXS", True, "jsrt"), ("HXS", True, "jsrt"), ("QQ", False, "QQ"),
    ]  # fmt: skip


def test_tasks_whose_images_come_from_one_dataset_share_a_group(tmp_path: Path) -> None:
    rows = published.read(table(tmp_path, "A,SwAV,PXS,Dice %,70,1,", "A,SwAV,DXC14,AUC %,82,1,"), n=5)
    assert {row.group for row in rows} == {"chestxray14"}


def test_n_of_the_file_counts_before_the_assumed_one(tmp_path: Path) -> None:
    path = table(tmp_path, f"{ROW},10", "A 2030,BYOL,TXC,AUC %,95,1,,", header=f"{HEADER},n")
    assert [(row.n, row.n_stated) for row in published.read(path, n=5)] == [(10, True), (5, False)]


@pytest.mark.parametrize(
    ("rows", "mean", "dropped"),
    [
        (["87.17,0.22,DIGITISED: figure", "87.10,0.36,PRINTED: table"], 0.8710, [0.8717]),
        (["87.10,0.36,PRINTED: table", "87.20,0.36,PRINTED: text"], 0.8710, [0.8720]),
        (["87.17,,DIGITISED: bars", "87.11,0.36,DIGITISED: line"], 0.8711, [0.8717]),
        (["87.10,,PRINTED: text", "87.17,0.22,DIGITISED: figure"], 0.8710, [0.8717]),
    ],
)
def test_of_one_cell_the_printed_number_counts_and_the_others_are_kept_aside(
    tmp_path: Path, rows: list[str], mean: float, dropped: list[float]
) -> None:
    path = table(tmp_path, *(f"A,ImageNet (supervised),DXC5,AUC %,{row}" for row in rows))
    [row] = published.read(path, n=5)
    assert row.mean == pytest.approx(mean)
    assert [other.mean for other in row.dropped] == pytest.approx(dropped)
    assert "1 of 1 published numbers" in published.repeated([row])
    assert published.repeated([dataclasses.replace(row, dropped=())]) == ""


def test_a_published_difference_may_be_negative_and_is_no_score(tmp_path: Path) -> None:
    [row] = published.read(table(tmp_path, 'A,Swin minus ConvNeXt,TXC,"AUC difference, points",-2.8,,PRINTED: a'), n=5)
    assert row.mean == pytest.approx(-0.028)
    assert (row.std, row.score) == (None, False)


def test_a_byte_order_mark_and_blanks_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text(f"{HEADER}\nA, SwAV ,TXC,AUC %, 95.7 ,1,x\n", encoding="utf-8-sig")
    assert published.read(path, n=5)[0].init == "swav"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("A,SwAV,TXC,AUC %,good,1,x", "line 2: mean must be a number, got 'good'"),
        ("A,SwAV,TXC,AUC %,nan,1,x", "line 2: mean must be a number, got 'nan'"),
        ("A,SwAV,TXC,AUC %,,1,x", "line 2: mean must be a number, got ''"),
        ("A,SwAV,TXC,AUC %,101,1,x", "line 2: `0 <= mean <= 100` must hold, got 101"),
        ("A,SwAV,TXC,AUC %,-1,1,x", "line 2: `0 <= mean <= 100` must hold, got -1"),
        ("A,SwAV,TXC,AUC %,0.957,1,x", "line 2: mean must be in percent, got 0.957"),
        ("A,SwAV,TXC,AUC %,95,-1,x", "line 2: `0 <= std <= 100` must hold, got -1"),
        ("A,SwAV,TXC,AUC %,95,wide,x", "line 2: std must be a number, got 'wide'"),
        ("A,,TXC,AUC %,95,1,x", "line 2: `initialization` must not be empty"),
        ("A,SwAV,TXC,AUC %,95,1", "line 2: every row must have as many fields as line 1"),
        ("A,SwAV,TXC,AUC %,95,1,table 1, left", "line 2: every row must have as many fields as line 1"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        published.read(table(tmp_path, row), n=5)
    assert words in str(error.value)


@pytest.mark.parametrize(("n", "words"), [("1", "`2 <= n"), ("4.5", "whole number"), ("many", "n must be a number")])
def test_a_bad_n_is_refused(tmp_path: Path, n: str, words: str) -> None:
    with pytest.raises(UserError, match="line 3") as error:
        published.read(table(tmp_path, f"{ROW},5", f"{ROW},{n}", header=f"{HEADER},n"), n=5)
    assert words in str(error.value)


def test_a_task_with_two_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: task shenzhen .* must have one metric"):
        published.read(table(tmp_path, ROW, "A 2030,BYOL,TXC,AP %,95,1,x"), n=5)


def test_missing_columns_rows_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1: columns task, std are missing, found paper"):
        published.read(table(tmp_path, header="paper,initialization,metric,mean,source"), n=5)
    with pytest.raises(UserError, match="found no row"):
        published.read(table(tmp_path), n=5)
    with pytest.raises(UserError, match="found no row"):
        published.read(table(tmp_path, header=""), n=5)
    with pytest.raises(UserError, match="found no such file") as error:
        published.read(tmp_path / "none.csv", n=5)
    assert str(tmp_path / "none.csv") in str(error.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_bytes(b"paper,\xff\xfe\n")
    with pytest.raises(UserError, match="not a CSV file"):
        published.read(path, n=5)


def test_the_difference_of_two_means_is_welchs() -> None:
    test = published.difference([number(0.9, 0.02, 5)], [number(0.8, 0.03, 8)], alpha=0.1)
    a, b = ([mean + std * x for x in unit(n)] for mean, std, n in ((0.9, 0.02, 5), (0.8, 0.03, 8)))
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    assert test.difference == pytest.approx(0.1)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
    assert test.n == (5, 8)


def unit(n: int) -> list[float]:
    """Gives n numbers of mean 0 and sample std 1."""
    raw = [float(stats.zscore(range(n), ddof=1)[i]) for i in range(n)]
    assert sum(raw) == pytest.approx(0)
    return raw


def test_a_mean_over_two_against_one_by_hand() -> None:
    # Variances: (.04^2 + .04^2) / 4 / 4 and .03^2 / 9; df by Satterthwaite over the three.
    test = published.difference([number(0.8, 0.04, 4), number(0.9, 0.04, 4)], [number(0.8, 0.03, 9)], alpha=0.05)
    parts = [0.0001, 0.0001, 0.0001]
    df = sum(parts) ** 2 / (0.0001**2 / 3 + 0.0001**2 / 3 + 0.0001**2 / 8)
    assert test.df == pytest.approx(df)
    assert test.low == pytest.approx(0.05 - stats.t.ppf(0.975, df) * 0.0003**0.5)


def test_without_variance_there_is_no_interval() -> None:
    test = published.difference([number(0.9, 0.0, 5)], [number(0.8, 0.0, 5)], alpha=0.05)
    assert (test.low, test.high, test.note) == (None, None, "nothing varies")


@pytest.mark.parametrize(
    ("canonical", "parts"),
    [
        ("imagenet@resnet50", ("imagenet", "resnet50")),
        ("imagenet@resnet50+chestxray14", ("imagenet+chestxray14", "resnet50")),
        ("imagenet+inat2021@resnet50", ("imagenet+inat2021", "resnet50")),
        ("timm:resnet50.a1_in1k", ("timm:resnet50.a1_in1k", "resnet50")),
        ("file:a+b.pt@resnet50", ("file:a+b.pt", "resnet50")),
        ("imagenet+X", ("imagenet+X", "")),
    ],
)
def test_a_canonical_name_is_split(canonical: str, parts: tuple[str, str]) -> None:
    assert split(canonical) == parts


@pytest.mark.parametrize(
    ("entry", "name", "backbone", "meant"),
    [
        ("imagenet", "imagenet@resnet50", "resnet50", True),
        ("imagenet", "imagenet@resnet50", None, True),
        ("imagenet", "imagenet@resnet50", "resnet18", False),
        ("imagenet@resnet18", "imagenet@resnet18", "resnet50", True),
        ("imagenet@resnet18", "imagenet@resnet50", "resnet50", False),
        ("imagenet", "imagenet+chexpert", "", False),
        ("imagenet+X", "imagenet@resnet50+chexpert", "resnet50", True),
        ("imagenet+X", "imagenet+chexpert-published@resnet50", "resnet50", True),
        ("imagenet+X", "imagenet+inat2021@resnet50", "resnet50", False),
        ("imagenet+X", "imagenet@resnet50+chexpert+chestxray14", "resnet50", False),
        ("imagenet+X", "imagenet@resnet50", "resnet50", False),
        ("self-supervised", "swav@resnet50", "resnet50", True),
        ("self-supervised", "imagenet@resnet50", "resnet50", False),
        ("self-supervised", "SimSiam", "", False),
        ("supervised", "timm:resnet50.a1_in1k", "resnet50", True),
        ("domain-adapted", "imagenet+chexpert", "", True),
        ("domain-adapted", "random+chexpert-published@resnet50", "resnet50", True),
        ("medical", "radimagenet@resnet50", "resnet50", True),
        ("yours", "mine@resnet50", "resnet50", True),
        ("yours", "SimSiam", "", False),
    ],
)
def test_an_entry_means_a_name_or_not(entry: str, name: str, backbone: str | None, meant: bool) -> None:
    assert matches(entry, name, backbone) is meant


@pytest.mark.parametrize("entry", ["swav", "mine", "mine+chexpert", "imagenet@resnet50+X", "medical", "timm:a.b"])
def test_a_valid_entry_passes(entry: str) -> None:
    check_entry(entry, ["mine"], ["chexpert"], "claims.a")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("imagnet", "claims.a: unknown init or family 'imagnet'; the nearest valid name is imagenet"),
        ("self-supervized", "the nearest valid name is self-supervised"),
        ("medical+X", "unknown init or family 'medical'"),
        ("imagenet+chexprt", "unknown dataset 'chexprt' in imagenet+chexprt; the nearest valid name is chexpert"),
        ("imagenet+X+chexpert", "unknown dataset 'X'"),
        ("imagenet+X+X", "unknown dataset 'X'"),
    ],
)
def test_an_entry_that_means_nothing_is_refused_with_the_nearest_name(entry: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        check_entry(entry, [], ["chexpert"], "claims.a")
    assert words in str(error.value)


def test_the_numbers_of_the_2021_paper_are_whole(top: Path) -> None:
    rows = published.read(top / "presets/paper_results.csv", n=5)
    assert len({row.paper for row in rows}) == 1
    # 21 names on 7 tasks, less the 4 domain-adapted on 3 tasks each: their own, ECC and VFS.
    assert len(rows) == 135 == 21 * 7 - 4 * 3
    assert sum(not row.digitised for row in rows) == 26
    assert sum(len(row.dropped) for row in rows) == 152 - 135
    assert not any(row.n_stated or row.std is None for row in rows)
    cell = {(row.init, row.task): row for row in rows}["imagenet", "chexpert"]
    assert (cell.mean, cell.std) == pytest.approx((0.8710, 0.0036))
    assert sorted(other.mean for other in cell.dropped) == pytest.approx([0.8711, 0.8717])
    assert "imagenet on chexpert, 87.10 +- 0.36 (line 8), not 87.17 +- 0.22 (line 53)" in published.repeated(rows)


def test_every_source_says_how_its_number_was_read_and_where_it_was_published(top: Path) -> None:
    for row in published.read(top / "presets/paper_results.csv", n=5):
        assert row.source.startswith(("PRINTED: ", "DIGITISED: "))
        assert "BenchmarkTransferLearning@5656fec:Version1/images/" in row.source


def shared(top: Path) -> Path:
    path = top.parent / "shared/paper_results.csv"
    if not path.is_file():
        pytest.skip(f"the whole collection of published numbers is not at {path.name} beside the repository")
    return path


def test_the_whole_collection_reads(top: Path) -> None:
    rows = published.read(shared(top), n=5)
    assert sum(1 + len(row.dropped) for row in rows) == 372
    assert len({row.paper for row in rows}) == 2
    assert sum(not row.score for row in rows) == 10


def test_the_preset_has_the_numbers_of_the_collection(top: Path) -> None:
    with shared(top).open(newline="") as file:
        whole = [row for row in csv.DictReader(file) if row["paper"].startswith("2021")]
    with (top / "presets/paper_results.csv").open(newline="") as file:
        preset = list(csv.DictReader(file))
    assert [{**row, "source": ""} for row in preset] == [{**row, "source": ""} for row in whole]
