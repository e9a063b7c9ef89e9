"""`benchmark.splits`: several drawn splits of a task, crossed with seeds, from the draw to the answer."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from rich.console import Console

from medtransfer import params, tracking
from medtransfer.comparison import contrasts, findings
from medtransfer.comparison.contrasts import Column
from medtransfer.comparison.patients import Evidence
from medtransfer.comparison.published_form import Row
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION
from medtransfer.data import catalog, leaks, prepare, splits
from medtransfer.data.catalog import TASKS
from medtransfer.data.overlap import Finding
from medtransfer.data.tasks import Folds
from medtransfer.results import kept_network, looks
from medtransfer.runs import benchmark, best_networks, dry_run, status
from medtransfer.runs import run as runs
from medtransfer.runs.pretrain import contamination
from medtransfer.runs.tune import tune
from medtransfer.statistics import all_pairs, t_tests
from medtransfer.statistics.effects import upper_std
from tests.support import results, workspace

ROOT = Path(__file__).parents[2]
Array = npt.NDArray[Any]
RANDOM, IMAGENET = "random@resnet50", "imagenet@resnet50"


def settings(root: Path, numbers: str = "[]", **changes: str) -> params.Params:
    short = {"classification.max_epochs": "1", "segmentation.max_epochs": "1", "benchmark.splits": numbers}
    return params.load(root / "params.yaml", short | changes)


# Parameters


def test_no_splits_is_the_default_everywhere_and_a_single_one_is_refused() -> None:
    for path in (ROOT / "params.yaml", *(ROOT / "presets").glob("*.yaml")):
        assert params.load(path).benchmark.splits == ()
    with pytest.raises(UserError, match=r"set data.split_seed .*splits=\(3,\)"):
        settings(ROOT, "[3]")
    with pytest.raises(UserError, match=r"benchmark.splits has no duplicates"):
        settings(ROOT, "[1, 1]")


# The draw


@pytest.fixture(scope="module")
def root(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspace.make(tmp_path_factory.mktemp("splits"), top, "shenzhen", "montgomery", "drive")


def prepared(root: Path, task: str, numbers: str = "[]", **changes: str) -> Any:
    return prepare.prepare(catalog.lookup(task, root), settings(root, numbers, **changes), root)


@pytest.mark.parametrize("task", ["shenzhen", "montgomery", "drive"])
def test_a_split_is_what_data_split_seed_of_its_number_draws_and_the_cache_keeps_its_digest(
    root: Path, task: str
) -> None:
    plain = {number: prepared(root, task, **{"data.split_seed": str(number)}) for number in (0, 4)}
    whole = prepared(root, task, "[4, 0]")
    assert "splits" not in plain[0].manifest["fields"]
    assert plain[0].parts == {None: plain[0].digest}
    assert whole.digest == plain[0].digest
    assert whole.parts == {4: plain[4].digest, 0: plain[0].digest}
    for number, alone in plain.items():
        one = whole.of_fold(number)
        assert one.samples["split"].tolist() == alone.samples["split"].tolist()
        assert one.samples.groupby("patient")["split"].nunique().max() == 1
        for name in ("counts", "split_recipe", "split_hash", "digest"):
            assert one.manifest[name] == alone.manifest[name]
    rows = {number: {split: set(whole.of_fold(number).rows(split)) for split in ("val", "test")} for number in plain}
    assert rows[0]["val"] != rows[4]["val"]
    assert (rows[0]["test"] == rows[4]["test"]) == (task == "drive")
    if TASKS[task].segmentation:
        assert all(whole.native_mask(row).any() for number in plain for row in rows[number]["test"])
    held = contamination._held_out(whole)
    assert set(np.flatnonzero(held)) == {row for one in rows.values() for some in one.values() for row in some}


def test_what_a_task_makes_of_splits_is_said() -> None:
    given = replace(TASKS["drive"], draw={})
    folded = replace(TASKS["shenzhen"], folds=Folds(count=3, repeats=1))
    assert not splits.redraws(given)
    assert not splits.redraws(folded)
    assert splits.words(given, (0, 1)) == "one split, its files say which image is train, val and test"
    assert splits.words(folded, (0, 1)) == "cross-validated, its folds stay the ones of data.split_seed"
    assert splits.words(TASKS["shenzhen"], (0, 1)) == "2 drawn splits"
    assert splits.words(TASKS["drive"], (0, 1)) == "2 drawn splits of train and val, one given test"


TOGETHER = 2
"""a seed whose draw keeps them in one split"""


def alike(numbers: tuple[int, ...]) -> tuple[splits.Assignment, Array, Array]:
    """Assigns 40 patients of whom the first two have the same image."""
    units = np.array([f"p{k:02d}" for k in range(40)])
    contents = np.array(["same", "same", *map(str, range(38))])
    labels = (np.arange(40) % 2)[:, None]
    assigned = splits.assign(TASKS["shenzhen"], units, np.array(["all"] * 40), labels, TOGETHER, numbers)
    return assigned, units, contents


def undrawn(found: Finding) -> Path:
    raise AssertionError(found)


@pytest.mark.slow
def test_a_leak_in_any_of_the_splits_is_found(tmp_path: Path) -> None:
    np.save(tmp_path / "thumbnails.npy", np.random.default_rng(0).integers(0, 256, (40, 64, 64), dtype=np.uint8))
    data = settings(ROOT).data
    apart = {number: len(set(alike((TOGETHER, number))[0].folds[:2, 1])) > 1 for number in range(3, 11)}
    whole = {number for number, is_apart in apart.items() if not is_apart}
    assert len(set(alike(())[0].splits[:2])) == 1  # data.split_seed keeps the two together
    assert whole
    assert len(whole) < 8
    for number in apart:
        assigned, units, contents = alike((TOGETHER, number))
        ids = units
        if number in whole:
            assert not leaks.judge(
                assigned, data, ids, units, contents, tmp_path / "thumbnails.npy", undrawn, synthetic=False
            ).drop.any()
        else:
            with pytest.raises(UserError, match=r"1 identical images .* and other benchmark.splits"):
                leaks.judge(assigned, data, ids, units, contents, tmp_path / "thumbnails.npy", undrawn, synthetic=False)
        names = assigned.apart()
        assert (names[0] != names[1]) == apart[number]  # what near duplicates are looked for between


# Runs


def test_each_split_is_a_run_and_more_splits_leave_the_others_alone(root: Path) -> None:
    two = runs.plan(settings(root, "[0, 1]"), root, ["random"], ["shenzhen"], [5, 6])
    alone = runs.plan(settings(root, "[0, 1]"), root, ["random"], ["shenzhen"], [5], splits=False)
    three = runs.plan(settings(root, "[0, 1, 2]"), root, ["random"], ["shenzhen"], [5, 6])
    plain = runs.plan(settings(root), root, ["random"], ["shenzhen"], [5])
    assert [(run.seed, run.fold) for run in two] == [(5, 0), (5, 1), (6, 0), (6, 1)]
    assert {run.digest for run in two} < {run.digest for run in three}
    assert len({plain[0].digest, *(run.digest for run in three)}) == 7
    assert two[1].name.endswith("-s5-split1")
    assert (two[1].part, plain[0].part) == ({"split": 1}, {})
    assert "data.split_seed" in plain[0].shown
    assert "data.split_seed" not in two[0].shown
    assert [run.digest for run in alone] == [plain[0].digest]


def test_without_splits_a_digest_holds_what_it_always_held(root: Path) -> None:
    (run,) = runs.plan(settings(root), root, ["random"], ["shenzhen"], [5])
    identity = {
        "verb": "finetune", "init": run.init.canonical, "weights": "random", "task": "shenzhen", "seed": 5,
        "manifest": prepared(root, "shenzhen").digest, "fields": run.fields, "input": run.normalization,
        "protocol_version": PROTOCOL_VERSION,
    }  # fmt: skip
    assert run.digest == hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    assert set(prepared(root, "shenzhen").manifest["fields"]) == {
        "format", "recipe", "task", "kind", "source", "labels", "uncertain", "extras", "channels", "windows", "unit",
        "hashed_ids", "layout", "cache_size", "split_seed", "draw", "folds", "on_leak",
    }  # fmt: skip


def test_tuning_is_refused_where_another_split_tests_on_its_val(root: Path) -> None:
    (run,) = runs.plan(settings(root, "[0, 1]"), root, ["random"], ["shenzhen"], [9], splits=False)
    with pytest.raises(UserError, match="seen other splits' test images"):
        tune._train_rows(run)
    (run,) = runs.plan(settings(root, "[0, 1]"), root, ["random"], ["drive"], [9], splits=False)
    assert tune._train_rows(run) > 0


def text(shown: Any) -> str:
    page = io.StringIO()
    Console(file=page, width=200).print(shown)
    return page.getvalue()


@pytest.mark.slow
def test_splits_go_from_phantoms_to_the_answer(top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = workspace.make(tmp_path, top, "shenzhen", "drive")
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    tasks = ["shenzhen", "drive"]
    here = settings(root, "[3, 1]", **{"benchmark.tasks": "[shenzhen, drive]", "execution.workers": "1"})
    before = text(dry_run.shown(dry_run.survey(here, root, tasks), here, root))
    assert "Splits of shenzhen: 2 drawn splits." in before
    assert "Splits of drive: 2 drawn splits of train and val, one given test." in before
    assert dry_run.survey(here, root, tasks).nameless == {"shenzhen": 2, "drive": 2}
    planned = runs.plan(here, root, ["random"], tasks, [0])
    cells = benchmark.run_all(planned)
    assert [(cell["task"], cell["fold"], cell["folds"]) for cell in cells] == [
        ("shenzhen", 3, 0), ("shenzhen", 1, 0), ("drive", 3, 0), ("drive", 1, 0),
    ]  # fmt: skip
    logged = tracking.connect(root).get_run(cells[0]["mlflow_run_id"])
    assert logged.data.params["split"] == logged.data.tags["split"] == "3"
    assert "seed 3" in cells[0]["split"]
    assert "4 done" in text(status.shown(here, root, tasks))
    for task in tasks:
        own = [run for run in planned if run.task == task]
        benchmark.write_results(own, root / "data/results/cells" / task)
        best_networks.write(own, task, root)
        kept = kept_network.read(kept_network.path(root, task, own[0].init.slug, "fixed"))
        assert kept.fold in (1, 3)
        assert kept.digest in {run.digest for run in own}
    expected = replace(here.benchmark, inits=(planned[0].init.canonical,))
    found = findings.find(root / "data/results/cells", expected, here, root, expected.inits[0])
    assert [(row.task, row.unit, row.seeds, row.redrawn) for row in found.rows] == [
        ("shenzhen", "split", (3, 1), True), ("drive", "split", (3, 1), False),
    ]  # fmt: skip
    assert found.evidence["drive"].patients == 6
    assert found.evidence["shenzhen"].note == "each drawn split has test images of its own; splits alone count"


# What is said of them


def made(folder: Path, task: str, *, locked: bool, effect: float = 0.3) -> params.Benchmark:
    """Writes finished runs of splits 7, 2, 5 with seeds 0 and 1."""
    numbers, seeds = (7, 2, 5), (0, 1)
    inits = {RANDOM: 0.0, IMAGENET: effect}
    results.write(folder, inits, [task], range(6), seed_std=0.3)
    for path in sorted(folder.glob("*/*/cell.json")):
        cell = json.loads(path.read_text())
        place, cell["seed"] = divmod(cell["seed"], 2)
        cell["fold"] = numbers[place]
        cell["manifest_digest"] = f"split {place}"
        cell["counts"]["train"] -= 10 * place
        path.write_text(json.dumps(cell))
        if not locked:
            table = pd.read_parquet(path.with_name("predictions.parquet"))
            table["id"] = [f"{name}-{place}" for name in table["id"]]
            table.to_parquet(path.with_name("predictions.parquet"), index=False)
    return params.Benchmark(inits=tuple(inits), tasks=(task,), seeds=seeds, recipes=("fixed",), splits=numbers)


def compared(folder: Path, expected: params.Benchmark) -> findings.Findings:
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0"})
    return findings.find(folder, expected, here, ROOT, IMAGENET)


def test_redrawn_tests_are_compared_by_the_corrected_test_over_the_means_of_each_split(tmp_path: Path) -> None:
    expected = made(tmp_path, "shenzhen", locked=False)
    found = compared(tmp_path, expected)
    one, two = found.of_task("shenzhen")
    assert (one.unit, one.redrawn, one.seeds, one.each, one.expected) == ("split", True, (7, 2, 5), 2, 3)
    means = {
        split: np.mean([c.score for c in found.results if c.init == RANDOM and c.fold == split]) for split in (7, 2, 5)
    }
    assert one.scores == pytest.approx(list(means.values()))
    assert one.ratio == pytest.approx(200 / 980)
    column = found.columns["shenzhen"]
    corrected = t_tests.corrected_t_test(two.scores, one.scores, ratio=200 / 980)
    assert column.contrast(IMAGENET, RANDOM).p == pytest.approx(corrected.p)
    assert column.contrast(IMAGENET, RANDOM).patients == 0
    assert found.answers[0].text.endswith(
        "This rests on 3 drawn splits of these images into train, val and test, 2 seeds each."
    )


def test_one_locked_test_has_splits_like_seeds_and_patients(tmp_path: Path) -> None:
    found = compared(tmp_path, made(tmp_path, "shenzhen", locked=True))
    (row, _), contributions = found.of_task("shenzhen"), found.evidence["shenzhen"].contributions
    assert (row.unit, row.redrawn) == ("split", False)
    assert contributions[RANDOM].shape == (3, 200)
    assert sorted(contributions[RANDOM].mean(axis=1)) == pytest.approx(sorted(row.scores), abs=1e-6)
    values = np.stack([contributions[init] for init in (RANDOM, IMAGENET)])
    wanted = all_pairs.over_seeds_and_patients(values, coarseness=found.evidence["shenzhen"].coarseness)
    assert wanted is not None
    assert found.columns["shenzhen"].contrast(IMAGENET, RANDOM).p == pytest.approx(wanted.p()[1, 0])
    assert found.answers[0].text.endswith(
        "This rests on 3 drawn splits of these images into train and val, 2 seeds each, and 200 test patients; "
        "other training images may say otherwise."
    )


def test_a_missing_split_is_named_and_splits_outside_of_the_benchmark_are_left_out(tmp_path: Path) -> None:
    expected = made(tmp_path, "shenzhen", locked=True)
    found = compared(tmp_path, replace(expected, splits=(7, 2)))
    assert (found.left_out, found.of_task("shenzhen")[0].seeds) == (4, (7, 2))
    more = compared(tmp_path, replace(expected, splits=(*expected.splits, 11)))
    assert [row.missing for row in more.of_task("shenzhen")] == [(11,), (11,)]
    assert more.answers[0].verdict == "none"


def test_runs_with_and_without_drawn_splits_are_not_mixed(tmp_path: Path) -> None:
    expected = made(tmp_path, "shenzhen", locked=True)
    path = next(iter(sorted(tmp_path.glob("*/*/cell.json"))))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fold": None}))
    with pytest.raises(UserError, match=r"task shenzhen: all runs must have one way of splitting, got .*one split"):
        compared(tmp_path, expected)


def test_more_splits_are_no_help_against_what_their_images_share() -> None:
    rng = np.random.default_rng(1)
    scores = 0.8 + 0.01 * rng.standard_normal((2, 4))
    free, shared = all_pairs.over_seeds(scores), all_pairs.over_seeds(scores, ratio=0.3)
    assert free is not None
    assert shared is not None
    needed = all_pairs.seeds_needed(free, 0, 1, margin=0.02, share=0.05)
    assert needed is not None
    assert 4 < needed < 100
    assert all_pairs.seeds_needed(shared, 0, 1, margin=0.02, share=0.05) is None
    wide = all_pairs.seeds_needed(shared, 0, 1, margin=0.06, share=0.05)
    assert wide is not None
    std = float(free.seed_error[0, 1]) * 2
    of_one = upper_std(std, 4)
    options = {"seed_std": of_one, "patient_error": 0.0, "margin": 0.06, "share": 0.05, "df_per_seed": 1.0}
    assert (
        all_pairs.power(wide, patients=0, ratio=0.3, **options)
        >= 0.8
        > all_pairs.power(wide - 1, patients=0, ratio=0.3, **options)
    )


def test_added_splits_are_another_look(tmp_path: Path) -> None:
    looks.record(tmp_path, [2, 0, 1])
    looks.record(tmp_path, [0, 1, 2], [1, 0])
    looks.record(tmp_path, [1, 0, 2], [0, 1])
    found = looks.read(tmp_path)
    assert found == [looks.Look((0, 1, 2)), looks.Look((0, 1, 2), (0, 1))]
    assert [looks.number(found, [0, 1, 2], some) for some in ((), (1, 0), (0, 1, 2))] == [1, 2, 3]
    assert json.loads((tmp_path / looks.FILE).read_text())[0] == {"seeds": [0, 1, 2]}


# Type-I error


def learners(rng: np.random.Generator, drawn: int, number: int, locked: bool) -> tuple[Array, float]:
    """Scores equally good learners, each a line through a feature of its own, on drawn splits of one set of images.

    Returns:
        minus squared errors: learners x splits x test images, and the share of test to train.
    """
    images, held = (400, 80) if locked else (100, 20)  # few training images are not accounted for with one test
    features = rng.normal(size=(number, images + 80))
    target = features.sum(axis=0) + rng.normal(size=features.shape[1])
    values = []
    for _ in range(drawn):
        order = rng.permutation(images)
        train, test = order[held:], np.arange(images, images + 80) if locked else order[:held]
        x, y = features[:, train], target[train]
        slope = (x * y).sum(axis=1) / (x * x).sum(axis=1)
        slope += 0.02 * rng.normal(size=number)  # what the seed does
        values.append(-((features[:, test] * slope[:, None] - target[test]) ** 2))
    return np.stack(values, axis=1), held / (images - held)


def column(values: Array, ratio: float, locked: bool) -> Column:
    """Compares learners as `findings` does."""
    names = [f"i{k}" for k in range(len(values))]
    rows = [
        Row(
            task="t", init=name, applicable=True, unit="split", redrawn=not locked, expected=values.shape[1],
            seeds=tuple(range(values.shape[1])), undefined=(), missing=(), scores=tuple(scores), ratio=ratio, val=None,
            vals=(), summary=t_tests.summary(list(scores)), marks=(),
        )
        for name, scores in zip(names, values.mean(axis=2).tolist(), strict=True)
    ]  # fmt: skip
    known = Evidence(task="t", unit="patient", cases=values.shape[2])
    if locked:
        known = dataclasses.replace(known, contributions=dict(zip(names, values, strict=True)))
    untested = contrasts.of_task(rows, known, 0.01)
    assert untested is not None
    return contrasts.at_level([untested], 0.05)[0]


@pytest.mark.slow
@pytest.mark.parametrize("locked", [False, True], ids=["redrawn", "locked"])
@pytest.mark.parametrize("number", [2, 3, 10])
@pytest.mark.parametrize("drawn", [3, 5, 10])
def test_equal_learners_are_told_apart_in_at_most_their_level(drawn: int, number: int, locked: bool) -> None:
    rng, rounds, wrong = np.random.default_rng(10 * drawn + number), 2000, 0
    for _ in range(rounds):
        values, ratio = learners(rng, drawn, number, locked)
        wrong += len(column(values, ratio, locked).candidates) < number
    assert wrong / rounds <= 0.06
