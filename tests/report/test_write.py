import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import re
import types
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from medtransfer import params
from medtransfer.comparison import findings, record
from medtransfer.comparison.selection import collect
from medtransfer.comparison.wording import FIRST_LINES
from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.report import console as summaries
from medtransfer.report import write as report
from medtransfer.report.sections import facts
from medtransfer.report.sections.scores import _further, printed_grid, score_notes
from medtransfer.report.tables import column_title
from medtransfer.results.result import find_results, read_result
from medtransfer.statistics import metrics, t_tests

RANDOM, IMAGENET = "random@tf_efficientnet_lite0", "imagenet@tf_efficientnet_lite0"
CONTINUED = f"{IMAGENET}+shenzhen"
SYNTHETIC = "Synthetic phantoms: this tests the software and says nothing about weights."
AUC = {RANDOM: (0.70, 0.74, 0.78), IMAGENET: (0.90, 0.91, 0.92), CONTINUED: ()}
DICE = {RANDOM: (0.90, 0.93, 0.96), IMAGENET: (0.94, 0.95, 0.955), CONTINUED: (0.80, 0.81, 0.82)}
BENCHMARK = params.Benchmark(
    inits=(RANDOM, IMAGENET), tasks=("shenzhen", "montgomery"), seeds=(0, 1, 2), recipes=("fixed",)
)
THREE = dataclasses.replace(BENCHMARK, inits=(RANDOM, IMAGENET, CONTINUED))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published() -> params.Params:
    changes = {"classification.lr": "0.0002", "tasks.montgomery.changes.patience": "7", "model.backbone": "resnet50"}
    return params.load(ROOT / "params.yaml", changes)


@functools.cache
def resolved(task: str) -> dict[str, Any]:
    """Lays out what a run under params.yaml reads."""
    here = params.load(ROOT / "params.yaml")
    kind = "segmentation" if catalog.TASKS[task].segmentation else "classification"
    flat = schema.flatten(params.protocol(here, task, kind == "segmentation"), kind)
    flat |= schema.flatten(here.engine, "engine")
    return flat | {f"tasks.{task}.image_size": 96, "execution.threads_per_run": 8}


def predictions(metric: str, score: float | None) -> pd.DataFrame:
    """Makes test predictions of exactly this score: 5 x 20 pairs, or Dice in steps of 1 / 10,000."""
    if metric == "dice":
        overlap = round(10_000 * (score or 0))
        table = pd.DataFrame({"intersection": [overlap] * 10, "predicted": 10_000, "target": 10_000})
    else:
        won = round(100 * (score or 0))
        below = [won // 5 + (k < won % 5) for k in range(5)]
        table = pd.DataFrame(
            {
                "target.Tuberculosis": [1] * 5 + ([0] * 20 if score is not None else []),
                "probability.Tuberculosis": [(k - 0.5) / 20 for k in below]
                + ([k / 20 for k in range(20)] if score is not None else []),
            }
        )
    table["id"] = table["patient"] = [f"{k:03d}" for k in range(len(table))]
    return table


def make_cell(folder: Path, task: str, init: str, seed: int, score: float | None, **changes: Any) -> Path:
    metric = catalog.TASKS[task].metric
    name = f"{task} {init} {seed}" + changes.pop("suffix", "")
    digest = hashlib.sha256(name.encode()).hexdigest()
    scores = (
        {} if score is None else {f"test_{metric}": score, f"test_{metric}.Some": score, f"best_val_{metric}": score}
    )
    other = {"test_native_dice": 0.8} if metric == "dice" else {"test_brier": 0.1, "test_labels_defined": 1.0}
    cell = {
        "digest": digest, "verb": "finetune", "init": init, "task": task, "seed": seed, "fold": None, "folds": 0,
        "kind": catalog.TASKS[task].kind, "metric": metric, "marks": ["synthetic"],
        "scores": scores | other, "cost": {"epochs": 8, "seconds": 30.5, "gpu_seconds": 0.0, "images": 1000},
        "params": resolved(task), "labels": 1, "undefined": [], "device": "cpu", "versions": {"torch": "2.14.1"},
        "protocol_version": 1, "manifest_digest": f"m-{task}", "weights_sha256": f"w-{init}", "mlflow_run_id": None,
        "counts": {"train": 168, "val": 24, "test": 48}, "split": "all: drawn; hash 0123456789ab",
        "history": [{"train_loss": 0.9, "val_loss": 1.0}], "dataset": task, "unit": "patient",
        "tested": ["Tuberculosis"] if metric == "auc" else ["Lung"], "margin": 0.01,
    } | changes  # fmt: skip
    path: Path = folder / task / digest / "cell.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(cell))
    table = predictions(metric, score)
    if cell["fold"] is not None:  # every fold has test images of its own
        table["id"] = f"fold{cell['fold']}-" + table["id"]
    table.to_parquet(path.parent / "predictions.parquet")
    return path


@pytest.fixture
def figures() -> None:
    """Lets the report draw, which is most of its time."""


@pytest.fixture(autouse=True)
def unless_looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(report, "_draw", lambda findings, images, folder: {})


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    for task, table in (("shenzhen", AUC), ("montgomery", DICE)):
        for init, scores in table.items():
            for seed, score in enumerate(scores):
                make_cell(folder, task, init, seed, score)
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def find(cells: Path, task: str, init: str, seed: int) -> Path:
    """Finds the file of a cell by its contents."""
    for path in cells.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        if (cell["task"], cell["init"], cell["seed"]) == (task, init, seed):
            return path
    raise LookupError(init)


def compared(cells: Path, benchmark: params.Benchmark = BENCHMARK, **changes: Any) -> findings.Findings:
    here = params.load(ROOT / "params.yaml")
    settings = dataclasses.replace(here.comparison, **{"resamples": 50} | changes)
    return findings.find(cells, benchmark, dataclasses.replace(here, comparison=settings), ROOT, IMAGENET)


def write(cells: Path, published: params.Params, benchmark: params.Benchmark = BENCHMARK, **changes: Any) -> str:
    """Writes the report and returns its Markdown."""
    report.write(compared(cells, benchmark, **changes), published, cells, cells.parent)
    return (cells.parent / "report/comparison.md").read_text()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.usefixtures("figures")
@pytest.mark.slow
def test_every_file_is_written_and_equal_cells_give_equal_bytes(cells: Path, published: params.Params) -> None:
    write(cells, published)
    first = {path: path.read_bytes() for path in cells.parent.rglob("*") if path.is_file()}
    names = {str(path.relative_to(cells.parent)) for path in first}
    csvs = {f"{name}.csv" for name in ("runs", "comparison", "contrasts", "claims", "curves")}
    assert csvs | {"metrics.json", "report/comparison.md", "report/index.html"} <= names
    assert {f"report/tables/scores.{kind}" for kind in ("csv", "md", "tex")} <= names
    assert {f"report/figures/scores.{kind}" for kind in ("png", "svg")} <= names
    write(cells, published)
    assert {path: path.read_bytes() for path in cells.parent.rglob("*") if path.is_file()} == first


def test_table_by_hand(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published)
    assert markdown.startswith(f"{SYNTHETIC}\n")
    assert "| init | shenzhen: AUC (synthetic) | montgomery: Dice (synthetic) |" in markdown
    # Ours: three seeds and ten patients separate nothing. The published form, after it and under its own title, does.
    assert f"| {RANDOM} | **74.00 ± 4.00** | **93.00 ± 3.00** |" in markdown
    ours, _, printed = markdown.partition("## As the paper prints it")
    assert "†" not in ours
    assert f"| {RANDOM} | 74.00 ± 4.00 | 93.00 ± 3.00 † |" in printed
    assert f"| {IMAGENET} | **91.00 ± 1.00** | **94.83 ± 0.76** |" in printed
    assert "unit: run (seed), n = 3, ddof 1" in markdown
    assert "(p > 0.05, pooled t-test, two-sided, correction: none, patients not accounted for)" in printed
    assert "missing" not in markdown
    assert "split all: drawn; hash 0123456789ab." in markdown


def test_runs_csv_has_one_row_per_run_and_metric(cells: Path, published: params.Params) -> None:
    write(cells, published)
    rows = read_csv(cells.parent / "runs.csv")
    assert len(rows) == 6 * (5 + 4) + 6 * (4 + 4)  # scores and costs
    row = next(
        r for r in rows if (r["task"], r["init"], r["seed"], r["metric"]) == ("shenzhen", IMAGENET, "1", "test_auc")
    )
    assert float(row["value"]) == 0.91
    assert (row["marks"], row["device"], row["manifest_digest"]) == ("synthetic", "cpu", "m-shenzhen")
    assert any(r["metric"] == "seconds" and float(r["value"]) == 30.5 for r in rows)


def test_a_test_by_signs_says_what_it_cannot_reach(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published, test="wilcoxon")
    assert "(p > 0.05, Wilcoxon's signed ranks, paired by seed, two-sided, correction: none, patients" in markdown
    assert "At n=(3,) no outcome can reach alpha=0.05: p is 0.25 or more." in markdown
    rows = read_csv(cells.parent / "comparison.csv")
    assert [(row["test"], row["separated"]) for row in rows if row["p"]] == [("wilcoxon", "false")] * 2
    write(cells, published, test="sign-flip")
    assert [row["p"] for row in read_csv(cells.parent / "comparison.csv") if row["p"]] == ["0.25", "0.5"]


@pytest.mark.parametrize("test", ["pooled", "welch", "paired"])
def test_comparison_csv(cells: Path, published: params.Params, test: Literal["pooled", "welch", "paired"]) -> None:
    write(cells, published, test=test)
    random, imagenet = read_csv(cells.parent / "comparison.csv")[:2]
    expected = t_tests.t_test(AUC[RANDOM], AUC[IMAGENET], test=test)
    assert float(random["p"]) == pytest.approx(expected.p)
    assert float(random["df"]) == pytest.approx(expected.df)
    assert float(random["difference"]) == pytest.approx(-0.17)
    assert (random["best"], random["separated"], random["test"], random["ddof"]) == ("false", "true", test, "1")
    assert (imagenet["best"], imagenet["separated"], imagenet["p"]) == ("true", "", "")
    assert float(imagenet["mean"]) == pytest.approx(0.91)
    assert imagenet["n"] == "3"


def test_missing_runs_are_named(cells: Path, published: params.Params) -> None:
    for seed in (0, 2):
        find(cells, "shenzhen", RANDOM, seed).unlink()
    markdown = write(cells, published)
    words = "2 of 12 runs missing; an init is averaged when it has all"
    assert f"{words}: shenzhen {RANDOM} seeds 0, 2." in markdown
    assert f"| {RANDOM} | 1 of 3 seeds |" in markdown
    assert "74.00" not in markdown  # what is there is not averaged


def test_a_single_seed_has_neither_std_nor_test(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published, dataclasses.replace(BENCHMARK, seeds=(1,)))
    assert f"| {RANDOM} | 74.00 |" in markdown
    assert f"No test possible: shenzhen {RANDOM} (fewer than two runs on a side)" in markdown
    assert "No answer: one seed shows no spread, and nothing can be tested; two or more are needed." in markdown
    assert "Nothing could be compared, and nothing is bold. Marks" in markdown
    assert "has not all its runs on any task" not in markdown


def test_a_task_without_any_run(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published, dataclasses.replace(BENCHMARK, tasks=("shenzhen", "drive")))
    assert "All of this is read off 1 comparison of two initializations" in markdown
    assert "1 comparison holds at once (" in markdown
    assert (
        "6 of 12 runs missing; an init is averaged when it has all: "
        f"drive {RANDOM} seeds 0, 1, 2; drive {IMAGENET} seeds 0, 1, 2." in markdown
    )
    assert f"| {RANDOM} | 74.00 ± 4.00 | - |" in markdown
    assert read_csv(cells.parent / "comparison.csv")[2]["mean"] == ""


def test_pretraining_on_the_task_is_not_applicable(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published, THREE)
    assert f"| {CONTINUED} | - | 81.00 ± 1.00 |" in markdown
    assert f"Not applicable (pre-trained on the task's own dataset): {CONTINUED} on shenzhen." in markdown
    assert "missing" not in markdown


def test_undefined_primary_score_is_listed(cells: Path, published: params.Params) -> None:
    for seed in range(3):
        path = find(cells, "shenzhen", RANDOM, seed)
        edit(path, scores={"test_brier": 0.2})
        predictions("auc", None).to_parquet(path.parent / "predictions.parquet")
    markdown = write(cells, published)
    assert f"| {RANDOM} | undefined |" in markdown
    assert f"Undefined (no test label has both classes): shenzhen {RANDOM} seeds 0, 1, 2." in markdown


def test_means_over_fewer_labels_say_so(cells: Path, published: params.Params) -> None:
    for path in cells.glob("shenzhen/*/cell.json"):
        edit(path, labels=14, undefined=["Hernia", "Mass"])
    markdown = write(cells, published)
    assert "shenzhen: AUC (12 of 14 labels, synthetic)" in markdown
    assert "mean over 12 of 14 labels; undefined in test: Hernia, Mass" in markdown


def test_runs_outside_the_benchmark_are_counted(cells: Path, published: params.Params) -> None:
    assert "3 finished runs outside this benchmark left out." in write(cells, published)
    make_cell(cells, "drive", RANDOM, 0, 0.7)
    assert "4 finished runs outside this benchmark left out." in write(cells, published)


def test_duplicates_are_refused(cells: Path, published: params.Params) -> None:
    make_cell(cells, "shenzhen", RANDOM, 1, 0.99, suffix="b")
    with pytest.raises(UserError, match=r"task shenzhen, init random@.*, seed 1 must be one run, found 2"):
        write(cells, published)
    assert not (cells.parent / "runs.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol_version": 2}, "the benchmark: all runs must have one protocol version"),
        ({"manifest_digest": "other"}, "task shenzhen: all runs must have one manifest digest, got m-shenzhen"),
        ({"device": "cuda"}, r"one device, .*comparison\.unbalanced: \[device\]"),
        ({"undefined": ["Tuberculosis"]}, "one set of undefined labels"),
        ({"weights_sha256": "0"}, r"imagenet@.* on task shenzhen: all runs must have one set of weights"),
    ],
)
def test_mixed_cells_are_refused(cells: Path, published: params.Params, changes: dict[str, Any], message: str) -> None:
    edit(find(cells, "shenzhen", IMAGENET, 1), **changes)
    with pytest.raises(UserError, match=message):
        write(cells, published)


def test_mixed_parameters_are_refused_by_name(cells: Path, published: params.Params) -> None:
    edit(find(cells, "shenzhen", IMAGENET, 1), params=resolved("shenzhen") | {"classification.lr": 0.1})
    with pytest.raises(
        UserError, match=r"one set of parameters, got classification\.lr=0\.002 .* classification\.lr=0\.1"
    ):
        write(cells, published)


def test_different_versions_are_named(cells: Path, published: params.Params) -> None:
    edit(find(cells, "shenzhen", IMAGENET, 1), versions={"torch": "2.14.0"})
    assert "Library versions differ: torch 2.14.1 (11 runs); torch 2.14.0 (1 run)." in write(cells, published)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"digest": ', r"cell\.json is corrupt"),
        ("[]", "is not a finished run: it lacks digest"),
        ('{"digest": "a"}', "it lacks verb, init, task"),
    ],
)
def test_corrupt_cells_are_refused_by_name(cells: Path, text: str, message: str) -> None:
    path = find(cells, "shenzhen", RANDOM, 0)
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        collect(cells, ROOT)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused_by_name(cells: Path, score: float) -> None:
    edit(find(cells, "shenzhen", RANDOM, 0), scores={"test_auc": score})
    with pytest.raises(UserError, match=r"cell\.json: score test_auc is (nan|inf)"):
        collect(cells, ROOT)


def test_ill_typed_cells_are_refused_by_name(cells: Path) -> None:
    edit(find(cells, "shenzhen", RANDOM, 0), seed="one")
    with pytest.raises(UserError, match=r"cell\.json: parameter seed must be a whole number"):
        collect(cells, ROOT)


def test_no_cells(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `finetune` first"):
        collect(tmp_path, ROOT)


def test_no_cell_of_the_benchmark(cells: Path, published: params.Params) -> None:
    with pytest.raises(UserError, match="none of the 15 finished runs belongs to the benchmark"):
        write(cells, published, dataclasses.replace(BENCHMARK, seeds=(7,)))


def test_deviations_come_from_the_parameters(cells: Path, published: params.Params) -> None:
    markdown = write(cells, published)
    classification, segmentation = markdown.split("## Deviations from the published protocol: ")[1:]
    assert "| classification.lr | 0.002 | 0.0002 |" in classification
    assert "| model.backbone | tf_efficientnet_lite0 | resnet50 |" in segmentation
    assert "| segmentation.patience | 20 | 7 |" in segmentation
    segmentation, unsaid = segmentation.split("## What the published protocol does not say")
    assert "threads_per_run" not in classification + segmentation
    assert "segmentation" not in classification
    assert "Which Dice" in unsaid


def test_deviations_of_some_tasks_name_them(cells: Path, published: params.Params) -> None:
    for seed in range(3):
        changed = resolved("montgomery") | {"tasks.drive.image_size": 64, "segmentation.patience": 3}
        make_cell(cells, "drive", RANDOM, seed, 0.7, params=changed)
    markdown = write(cells, published, dataclasses.replace(BENCHMARK, tasks=("montgomery", "drive")))
    assert "| segmentation.patience (drive) | 3 | 20 |" in markdown
    assert "| segmentation.patience (montgomery) | 20 | 7 |" in markdown
    assert "| image_size (drive) | 64 | 256 |" in markdown


@pytest.mark.usefixtures("figures")
def test_page_is_self_contained(cells: Path, published: params.Params) -> None:
    write(cells, published)
    page = (cells.parent / "report" / "index.html").read_text()
    assert page.index(SYNTHETIC) < page.index("<h1>")
    assert page.count(SYNTHETIC) == 1  # one banner; a figure that is cut out has its own words
    assert not re.search(r"(src|href)=.(?!#|data:|checklist\.md)", page)
    assert "<svg viewBox" in page
    assert len(page) < 3_000_000
    assert "<strong>91.00 ± 1.00</strong>" in page
    assert "classification.lr" in page


@pytest.mark.usefixtures("figures")
def test_the_page_holds_together(cells: Path, published: params.Params) -> None:
    for path in cells.glob("*/*/cell.json"):
        edit(path, commit="0123456789abcdef", finished="2026-01-31T12:00:00Z")
    write(cells, published)
    page = (cells.parent / "report" / "index.html").read_text()
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page)
    assert set(wanted) <= set(ids)
    assert {"answer", "scores", "caption-answer"} <= set(wanted)
    order = ["<h1>", "<dt>Compared</dt>", 'id="answer"', "<svg", 'id="scores"']
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)
    assert "2 initializations x 2 tasks x 3 seeds, 12 finished runs" in page
    assert "<dd>2026-01-31</dd>" in page
    assert "commit 0123456789ab; protocol version 1" in page
    assert f'<span title="{RANDOM}">random</span>' in page
    assert '<th scope="col"><span title="shenzhen: AUC (synthetic)">shenzhen: AUC</span></th>' in page
    assert page.count("<svg") == page.count('role="img"') == page.count("<figcaption")


def test_the_page_links_to_where_the_runs_are(cells: Path, published: params.Params) -> None:
    report.write(compared(cells), published, cells, cells.parent, {"experiment": "http://127.0.0.1:5000/#/x?a=1&b=2"})
    page = (cells.parent / "report" / "index.html").read_text()
    assert '<a href="http://127.0.0.1:5000/#/x?a=1&amp;b=2">experiment</a>' in page


def test_runs_that_do_not_say_when_they_ended_are_named(cells: Path) -> None:
    edit(find(cells, "shenzhen", RANDOM, 0), finished="2026-01-31T12:00:00Z")
    edit(find(cells, "shenzhen", RANDOM, 1), finished="2026-02-02T12:00:00Z")
    lines = dict(facts.facts(compared(cells)))
    assert lines["Trained"] == "2026-01-31 to 2026-02-02 (2 of 12 runs say when)"
    assert lines["Code"].startswith("commit not recorded")


def test_names_are_escaped(cells: Path, published: params.Params) -> None:
    odd = "file:<b>|x.pth@resnet50"
    make_cell(cells, "shenzhen", odd, 0, 0.5)
    benchmark = dataclasses.replace(BENCHMARK, inits=(*BENCHMARK.inits, odd))
    assert "file:<b>\\|x.pth" in write(cells, published, benchmark)
    assert "file:&lt;b&gt;|x.pth" in (cells.parent / "report" / "index.html").read_text()


def test_marks_of_some_runs_stand_beside_their_score(cells: Path, published: params.Params) -> None:
    for seed in range(3):
        edit(find(cells, "shenzhen", RANDOM, seed), marks=["synthetic", "contaminated"])
    markdown = write(cells, published)
    assert "| 74.00 ± 4.00 (contaminated) |" in markdown
    assert markdown.splitlines()[0] == SYNTHETIC
    assert markdown.splitlines()[2].startswith("Contaminated: ")


def test_contaminated_runs_are_shown_and_the_table_says_that_they_are_not_compared(
    cells: Path, published: params.Params
) -> None:
    for seed in range(3):
        edit(find(cells, "montgomery", IMAGENET, seed), marks=["synthetic", "contaminated"])
    markdown = write(cells, published)
    assert f"| {RANDOM} | 74.00 ± 4.00 | **93.00 ± 3.00** |" in markdown
    assert f"| {IMAGENET} | **91.00 ± 1.00** | 94.83 ± 0.76 (contaminated) |" in markdown
    words = "Shown, and in no test, rank, choice or claim, because pre-trained on images of the test set, or on those"
    assert (
        f"{words} that it is taken from (contaminated): {IMAGENET} on montgomery. comparison.as_published: true"
        in markdown
    )
    rows = read_csv(cells.parent / "comparison.csv")
    assert [row["compared"] for row in rows] == ["true", "true", "true", "false"]
    assert (rows[3]["mean"] != "", rows[3]["p"], rows[3]["difference"]) == (True, "", "")


def test_test_images_in_a_training_list_are_counted_beside_the_score_and_named_below(
    cells: Path, published: params.Params
) -> None:
    def of(held: int, *by: str) -> dict[str, Any]:
        sizes = {"entries": 9000, "held": held, "test": 1000, "by": by}
        return {"name": "seen.csv", "sha256": "0123456789abcdef", **sizes}

    for seed in range(3):
        edit(find(cells, "montgomery", IMAGENET, seed), listed=of(10 + seed, "name"))
        edit(find(cells, "shenzhen", IMAGENET, seed), listed=of(0))
        edit(find(cells, "shenzhen", RANDOM, seed), listed=of(0, "md5"))
    markdown = write(cells, published)
    assert "94.83 ± 0.76 (contaminated: 12 of 1,000 test images) |" in markdown
    words = "12 of 1,000 test images are in its training list seen.csv (sha256 0123456789ab), by name."
    assert f"{IMAGENET} on montgomery: {words}" in markdown
    assert f"(contaminated): {IMAGENET} on montgomery. comparison" in markdown
    assert f"{IMAGENET} on shenzhen: cannot tell whether it saw the 1,000 test images: none of the 9,000" in markdown
    assert f"{RANDOM} on shenzhen: 0 of 1,000 test images are in its training list" in markdown
    rows = read_csv(cells.parent / "comparison.csv")
    assert [row["compared"] for row in rows] == ["true", "true", "true", "false"]
    assert rows[3]["training_list"] == words.removesuffix(".")


def test_as_published_contaminated_runs_are_compared(cells: Path) -> None:
    for seed in range(3):
        edit(find(cells, "montgomery", IMAGENET, seed), marks=["synthetic", "contaminated"])
    found = compared(cells, as_published=True)
    lines = [[entry.text for entry in line] for line in printed_grid(found).rows]
    assert lines == [
        [RANDOM, "74.00 ± 4.00", "93.00 ± 3.00 †"],
        [IMAGENET, "91.00 ± 1.00", "94.83 ± 0.76 (contaminated)"],
    ]
    assert not any("in no test" in note for note in score_notes(found))
    assert all(row["compared"] for row in record.comparison(found))


def test_console_table(cells: Path) -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(summaries.layout(summaries.summarize(compared(cells))))
    text = console.export_text()
    assert text.startswith(SYNTHETIC)
    assert "74.00 ± 4.00" in text
    assert "93.00 ± 3.00" in text
    assert "†" not in text
    assert "These data do not choose between the two: random and imagenet." in " ".join(text.split())


def test_every_first_line_is_one_sentence() -> None:
    assert FIRST_LINES["synthetic"] == SYNTHETIC
    assert all(line.endswith(".") for line in FIRST_LINES.values())


# Cross-validation


def folded(tmp_path: Path, patients: str = "") -> Path:
    """Writes 4 folds x 2 seeds of two initializations."""
    folder = tmp_path / "folded"
    scores = {RANDOM: (0.70, 0.74, 0.69, 0.77), IMAGENET: (0.80, 0.81, 0.82, 0.85)}
    marks = ["patients unknown"] if patients else []
    for init, row in scores.items():
        for fold, score in enumerate(row):
            for seed, change in enumerate((-0.01, 0.01)):
                counts = {"train": 60, "val": 20, "test": 20}
                make_cell(
                    folder, "shenzhen", init, seed, score + change,
                    fold=fold, folds=4, counts=counts, marks=marks, suffix=f" {fold}",
                )  # fmt: skip
    return folder


def test_folds_are_paired_and_their_test_is_corrected(tmp_path: Path, published: params.Params) -> None:
    benchmark = params.Benchmark(inits=(RANDOM, IMAGENET), tasks=("shenzhen",), seeds=(0, 1), recipes=("fixed",))
    cells = folded(tmp_path)
    markdown = write(cells, published, benchmark)
    assert "82.00 ± 2.16" in markdown  # std over 4 folds, not over 8 runs
    assert "unit: fold (mean over its seeds), n = 4, ddof 1" in markdown
    assert "corrected resampled t-test, paired by fold" in markdown
    row = next(r for r in read_csv(tmp_path / "comparison.csv") if r["init"] == RANDOM)
    difference = np.array([0.10, 0.07, 0.13, 0.08])
    statistic = -difference.mean() / np.sqrt((1 / 4 + 20 / 60) * difference.var(ddof=1))
    assert float(row["statistic"]) == pytest.approx(statistic)
    assert (row["test"], row["unit"], row["n"], row["df"]) == ("corrected", "fold", "4", "3")


def test_a_missing_seed_of_a_fold_is_named(tmp_path: Path, published: params.Params) -> None:
    benchmark = params.Benchmark(inits=(RANDOM, IMAGENET), tasks=("shenzhen",), seeds=(0, 1), recipes=("fixed",))
    cells = folded(tmp_path)
    path = next(p for p in cells.glob("*/*/cell.json") if (c := json.loads(p.read_text()))["fold"] == 2 and c["seed"])
    path.unlink()
    markdown = write(cells, published, benchmark)
    assert "1 of 8 runs missing" in markdown
    assert "fold 2" in markdown


def test_unknown_patients_are_printed_over_every_table(tmp_path: Path, published: params.Params) -> None:
    benchmark = params.Benchmark(inits=(RANDOM, IMAGENET), tasks=("shenzhen",), seeds=(0, 1), recipes=("fixed",))
    markdown = write(folded(tmp_path, "none"), published, benchmark)
    assert markdown.startswith("Patients unknown: images of one patient may be in several splits")


def test_distances_are_tabulated_in_their_unit_and_the_tolerance_is_said(tmp_path: Path) -> None:
    found = {"native_surface_dice": 0.91, "native_hd95_mm": 3.456, "native_no_distance": 2.0, "native_lesion_f1": 0.5}
    scores = {"test_dice": 0.9, "best_val_dice": 0.9, **{f"test_{name}": value for name, value in found.items()}}
    for seed in (0, 1):
        for init in BENCHMARK.inits:
            make_cell(tmp_path, "montgomery", init, seed, 0.9, scores=scores, tolerance="2 mm")
    own = [read_result(path) for path in find_results(tmp_path)]
    own = [dataclasses.replace(one, metric="dice") for one in own]
    names = [name for name in metrics.titles() if f"test_{name}" in scores and name != "dice"]
    held: Any = types.SimpleNamespace(benchmark=types.SimpleNamespace(inits=BENCHMARK.inits, seeds=(0, 1)))
    section = _further(held, "montgomery", own, names)
    assert section.grid is not None
    header = [words.removesuffix(", native size") for words in section.grid.header]
    assert header == ["init", "surface Dice", "95th-percentile Hausdorff distance (mm)", "lesion-wise F1"]
    assert [entry.text for entry in section.grid.rows[0][1:]] == ["91.00 ± 0.00", "3.46 ± 0.00", "50.00 ± 0.00"]
    notes = " ".join(section.notes)
    assert "Surface Dice at a tolerance of 2 mm." in notes
    assert "lower is better, over the images in which neither mask is empty: without 2 of 48." in notes
    assert "overlap (IoU) of 0.1 or more" in notes
    assert (
        column_title([dataclasses.replace(own[0], metric="surface_dice", marks=())], "x") == "x: surface Dice at 2 mm"
    )
    own[0] = dataclasses.replace(own[0], tolerance="2 px")
    assert "of 2 mm and 2 px; runs differ in it" in " ".join(_further(held, "montgomery", own, names).notes)
