"""Scores of other code: a table -> the same findings as of our own runs, and what no table may hold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import medtransfer as mt
from medtransfer.cli import main
from medtransfer.comparison import contrasts, foreign, published_form
from medtransfer.comparison.columns import ONE_TASK, Columns
from medtransfer.comparison.patients import Evidence
from medtransfer.core.errors import UserError
from medtransfer.report.figures import drawings
from medtransfer.statistics import all_pairs

MEANS = {"random": 0.80, "imagenet": 0.85, "dino": 0.9}


def wide(tasks: tuple[str, ...] = ("ham", "cxr"), seeds: int = 6, **other: Any) -> pd.DataFrame:
    dice = np.random.default_rng(4)
    rows = [
        {"init": init, "task": task, "seed": seed, "test_auc": mean + 0.01 * dice.normal(), "best_val_auc": mean}
        for task, (init, mean), seed in itertools.product(tasks, MEANS.items(), range(seeds))
    ]
    return pd.DataFrame(rows).assign(**other)


def long(table: pd.DataFrame) -> pd.DataFrame:
    return table.melt(["init", "task", "seed"], var_name="metric", value_name="value")


def test_a_table_says_what_the_statistics_say_of_its_numbers() -> None:
    table = wide()
    found = foreign.compare(table, metric="test_auc", val="best_val_auc", margin=0.01)
    for task in ("ham", "cxr"):
        scores = [table[(table.task == task) & (table.init == init)].test_auc.tolist() for init in MEANS]
        pairs = all_pairs.over_seeds(scores)
        assert pairs is not None
        assert np.array_equal(found.columns[task].pairs.estimate, pairs.estimate)
        assert np.array_equal(found.columns[task].pairs.seed_error, pairs.seed_error)
        assert found.columns[task].pairs.patients == 0
        rows = {row.init: row.summary for row in found.of_task(task)}
        assert rows["dino"] is not None
        assert rows["dino"].mean == pytest.approx(np.mean(scores[2]), abs=1e-15)
        assert rows["dino"].std == pytest.approx(np.std(scores[2], ddof=1), abs=1e-15)
    assert found.reference == "random"
    assert found.answers[0].scope == contrasts.ALL
    assert "better than random and imagenet by more than the tasks' margins" in found.answers[0].text
    assert "seeds" in found.answers[1].text
    assert "other test patients may say otherwise" in found.answers[1].text


def test_long_and_wide_and_percent_and_other_names_say_the_same() -> None:
    table = wide()
    first = mt.compare(table, metric="test_auc", val="best_val_auc", margin=0.01)
    names = {"init": "model", "task": "dataset", "seed": "run"}
    others = [
        mt.compare(long(table), metric="test_auc", val="best_val_auc", margin=0.01),
        mt.compare(table.rename(columns=names), metric="test_auc", val="best_val_auc", margin=0.01, columns=names),
    ]
    for other in others:
        assert other.answers == first.answers
        pd.testing.assert_frame_equal(other.table(), first.table())
        pd.testing.assert_frame_equal(other.contrasts(), first.contrasts())
    hundred = table.assign(test_auc=100 * table.test_auc, best_val_auc=100 * table.best_val_auc)
    percent = mt.compare(hundred, metric="test_auc", val="best_val_auc", margin=1, percent=True)
    assert percent.answers == first.answers
    assert np.allclose(percent.table()["mean"], first.table()["mean"], atol=1e-12)


def test_a_spreadsheet_with_a_column_for_each_task_says_the_same() -> None:
    table = wide().drop(columns="best_val_auc")
    beside = table.pivot(index=["init", "seed"], columns="task", values="test_auc").reset_index()
    beside = beside.assign(remark="none")
    found = foreign.compare(beside, metric="test_auc", columns=Columns(task="ham, cxr"), margin=0.01)
    same = foreign.compare(table, metric="test_auc", margin=0.01, reference="dino")
    assert found.benchmark.tasks == ("ham", "cxr")
    for task in found.benchmark.tasks:
        assert {r.init: r.scores for r in found.of_task(task)} == {r.init: r.scores for r in same.of_task(task)}
    beside.loc[0, "ham"] = np.nan  # a cell that nobody trained
    assert sum(len(row.scores) for row in foreign.compare(beside, columns=Columns(task="ham,cxr")).rows) == 35
    with pytest.raises(UserError, match=r"hold 2 scores .*the columns as task \(cxr,ham\)"):
        foreign.compare(beside.drop(columns="remark"))
    hint = r"no 'auc'; valid names: cxr, ham; where each column is that of a task, name the columns as task \(cxr,ham\)"
    with pytest.raises(UserError, match=hint):
        foreign.compare(beside.drop(columns="remark"), metric="auc")
    with pytest.raises(UserError, match="no column 'hamm' for a task; the nearest valid name is ham"):
        foreign.compare(beside, columns=Columns(task="hamm,cxr"))
    with pytest.raises(UserError, match="'best_val_auc' is of one task, and here each task has one column"):
        foreign.compare(beside, val="best_val_auc", columns=Columns(task="ham,cxr"))


def test_a_csv_file_is_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = wide(tasks=("ham",))
    table.to_csv(tmp_path / "scores.csv", index=False)
    found = mt.compare("scores.csv", root=tmp_path, metric="test_auc", margin=0.01)
    assert found.answers == mt.compare(table, metric="test_auc", margin=0.01).answers
    words = ("--metric", "test_auc", "--margin", "0.01", "--out", "compared")
    main.run(("compare", "--csv", "scores.csv", *words), tmp_path)  # in a folder without a study
    said = " ".join(capsys.readouterr().out.split())
    for sentence in found.answers.values():
        assert " ".join(sentence.split()) in said
    kept = pd.read_csv(tmp_path / "compared/scores.csv")[["task", "init", "mean", "n"]]
    pd.testing.assert_frame_equal(kept, found.table()[["task", "init", "mean", "n"]])
    assert "forest-ham.svg" in (tmp_path / "compared/index.html").read_text()
    assert (tmp_path / "compared/forest-ham.svg").is_file()


def test_what_is_missing_or_undefined_is_named_and_not_averaged() -> None:
    table = wide(tasks=("ham",))
    lost = table[~((table.init == "dino") & (table.seed == 3))].copy()
    lost.loc[(lost.init == "random") & (lost.seed == 2), "test_auc"] = float("nan")
    found = mt.compare(lost, metric="test_auc", margin=0.01)
    rows = found.table().set_index("init")
    assert rows.loc["dino", "missing"] == "3"
    assert rows.loc["random", "undefined"] == "2"
    assert rows["mean"].notna().to_dict() == {"random": False, "imagenet": True, "dino": False}
    text = str(found)
    assert "ham dino seed 3" in text
    assert "Undefined (not a number in the table): ham random seed 2" in " ".join(text.split())
    assert "No answer" in found.answer


def test_without_a_margin_nothing_is_equivalent_and_nothing_is_said_over_tasks() -> None:
    found = foreign.compare(wide(), metric="test_auc")
    assert "ham and cxr state no margin" in found.answers[0].text
    assert not any(contrast.within for contrast in found.contrasts)


def test_folds_are_tested_as_folds() -> None:
    dice = np.random.default_rng(1)
    rows = [
        {"init": init, "seed": 0, "fold": fold, "auc": mean + 0.02 * dice.normal()}
        for init, mean in (("a", 0.8), ("b", 0.83))
        for fold in range(5)
    ]
    found = foreign.compare(pd.DataFrame(rows))
    pairs = all_pairs.over_seeds([[row["auc"] for row in rows if row["init"] == init] for init in "ab"], ratio=0.25)
    assert pairs is not None
    assert np.array_equal(found.columns["scores"].pairs.seed_error, pairs.seed_error)
    assert found.columns["scores"].unit == "fold"


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda t: t.drop(columns="seed"), {}, "lacks the column seed; it has init, task"),
        (
            lambda t: pd.concat([t, t.iloc[:2]]),
            {},
            r"2 runs stand in the table more than once \(random on ham, seed 0, ",
        ),
        (lambda t: t.assign(test_auc=100 * t.test_auc), {}, "36 scores are not between -1 and 1.*percent=True"),
        (lambda t: t, {"metric": ""}, r"2 scores \(test_auc, best_val_auc\): name the one on test"),
        (lambda t: t, {"metric": "test_acu"}, "nearest valid name is test_auc$"),
        (lambda t: t, {"val": "val_auc"}, "no column 'val_auc'"),
        (lambda t: t, {"reference": "imagnet"}, "nearest valid name is imagenet"),
        (lambda t: t, {"margin": {"hma": 0.1}}, "hma, which the table has not"),
        (lambda t: t, {"margin": 2.0}, "0 < margin < 1 .*; of scores in percent say so"),
        (lambda t: t, {"margin": 0.0}, "0 < margin < 1 must hold, got 0.0 for ham$"),
        (lambda t: t, {"val": "test_auc"}, "test_auc is the score on test, and val may not be the same"),
        (lambda t: t.iloc[:0], {}, "no row"),
        (lambda t: t.assign(init=t.init.where(t.seed > 0)), {}, "6 rows lack one of init, seed, task"),
        (lambda t: t.assign(task=t.task.where(t.seed > 0)), {}, "6 rows lack one of init, seed, task"),
        (lambda t: t, {"columns": {"task": "dataset"}}, "lacks the column dataset; it has init, task"),
        (
            lambda t: t.assign(test_auc=t.test_auc.astype(str) + "%"),
            {},
            "36 of 36 scores in the column test_auc, such as '0.7.*%'",
        ),
        (lambda t: t, {"percent": True}, "no score is above 1, the highest is 0.9.*: shares are compared without that"),
        (
            lambda t: t.assign(task=t.task.map({"ham": "a b", "cxr": "a/b"})),
            {},
            "'a b' and 'a/b' would both be called a-b",
        ),
        (
            lambda t: t.assign(seed=t.seed + 10 * t.init.map(len)),
            {},
            r"no two of the 3 inits have a seed in common \(random: 60",
        ),
        (lambda t: long(t).assign(value="x"), {}, "not a number"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(mt.UserError, match=words):
        mt.compare(change(wide()), **{"metric": "test_auc", **arguments})


def test_a_table_takes_no_parameters_of_runs_and_runs_none_of_a_table() -> None:
    dotted: dict[str, Any] = {"comparison.alpha": 0.1}
    with pytest.raises(mt.UserError, match=r"comparison\.alpha: parameters are of runs of ours"):
        mt.compare(wide(), metric="test_auc", **dotted)
    with pytest.raises(mt.UserError, match="of runs of ours the task states them"):
        mt.compare("data/results", margin=0.1)
    with pytest.raises(mt.UserError, match="unknown 'sed'; the nearest valid name is seed"):
        mt.compare(wide(), metric="test_auc", columns={"sed": "seed"})


def test_it_shows_itself_and_draws() -> None:
    found = mt.compare(wide(), metric="test_auc", margin=0.01)
    assert found._repr_html_() == found.to_html()
    assert "<b>" in found.to_html()
    assert r"\begin{tabular}" in found.to_latex()
    assert found.figure("forest", task="cxr").axes
    assert found.figure("scores").axes
    with pytest.raises(mt.UserError, match="no figure 'forst'"):
        found.figure("forst")


def test_equal_runs_are_no_evidence_of_a_difference() -> None:
    """Fifty tables without any difference: an init is called better in few of them."""
    wrong = 0
    for number in range(50):
        dice = np.random.default_rng(number)
        rows = [{"init": init, "seed": seed, "auc": 0.8 + 0.02 * dice.normal()} for init in "abcd" for seed in range(5)]
        found = foreign.compare(pd.DataFrame(rows), margin=0.01)
        wrong += any(contrast.better or contrast.worse for contrast in found.contrasts)
    assert wrong <= 5


def test_a_row_of_a_table_has_no_evidence_over_patients() -> None:
    found = foreign.compare(wide(), metric="test_auc")
    assert all(
        evidence == Evidence(task=task, unit="run", note=foreign.NOTE) for task, evidence in found.evidence.items()
    )
    assert {row.unit for row in published_form.eligible(found.rows)} == {"seed"}


def with_predictions(folder: Path, patients: int = 120, form: str = "csv") -> pd.DataFrame:
    """Writes the predictions of some runs: two images of each patient, inits that differ by a little."""
    truth = np.random.default_rng(0)
    target = np.repeat(truth.integers(0, 2, patients), 2)
    common = truth.normal(size=2 * patients)
    rows = []
    for place, (init, seed) in enumerate(itertools.product(("random", "imagenet"), range(4))):
        dice = np.random.default_rng(place + 1)
        shift = 1.2 if init == "random" else 1.6
        probability = 1 / (1 + np.exp(-(shift * (target - 0.5) + common + 0.2 * dice.normal(size=2 * patients))))
        table = pd.DataFrame({"id": [f"{n:04d}" for n in range(len(target))], "target": target})
        table = table.assign(patient=np.repeat(np.arange(patients), 2), probability=probability)
        path = folder / f"{init}-{seed}.{form}"
        shuffled = table.sample(frac=1, random_state=seed)  # a loader's order is its own
        shuffled.to_csv(path, index=False) if form == "csv" else shuffled.to_parquet(path)
        rows.append({"init": init, "seed": seed, "auc": roc_auc_score(target, probability), "file": path.name})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_predictions_of_single_images_let_patients_count(tmp_path: Path, form: str) -> None:
    table = with_predictions(tmp_path, form=form)
    alone = foreign.compare(table, metric="auc", margin=0.01)
    both = foreign.compare(table, metric="auc", margin=0.01, predictions="file", root=tmp_path)
    evidence = both.evidence[ONE_TASK]
    assert (evidence.patients, evidence.images, evidence.unit) == (120, 240, "image")
    assert evidence.contributions["random"].shape == (4, 120)
    for init in ("random", "imagenet"):  # the mean of what patients add is the score
        scores = table[table.init == init].auc.to_numpy()
        assert np.allclose(evidence.contributions[init].mean(axis=1), scores, atol=1e-6)
    one, two = (found.columns[ONE_TASK].contrast("imagenet", "random") for found in (alone, both))
    assert one.estimate == pytest.approx(two.estimate, abs=1e-12)
    assert two.patient_error > 0 == one.patient_error
    assert two.patients == 120
    assert "and 120 test patients" in both.answers[0].text
    assert "other test patients may say otherwise" in alone.answers[0].text


def test_predictions_that_are_not_those_of_the_score_are_refused(tmp_path: Path) -> None:
    table = with_predictions(tmp_path)
    swapped = table.assign(file=["random-1.csv", "random-0.csv", *table.file[2:]])
    with pytest.raises(mt.UserError, match=r"its predictions give auc .*its row says .*another run's"):
        foreign.compare(swapped, metric="auc", predictions="file", root=tmp_path)
    lost = table.assign(file=["nowhere.csv", *table.file[1:]])
    with pytest.raises(mt.UserError, match=r"8 files of predictions, 1 not there \(.*nowhere\.csv\)"):
        foreign.compare(lost, metric="auc", predictions="file", root=tmp_path)
    (tmp_path / "random-0.csv").write_text("a,b\n1,2\n")
    with pytest.raises(mt.UserError, match="holds the columns a, b: predictions have id, target and probability"):
        foreign.compare(table, metric="auc", predictions="file", root=tmp_path)


PRINTED = pd.DataFrame({
    "init": ["random", "imagenet", "dino", "mae"] * 2, "task": ["ham"] * 4 + ["cxr"] * 4,
    "mean": [80.1, 85.3, 85.6, 86.0, 70.1, 75.3, 76.6, 76.5], "std": [0.5, 0.4, 0.9, None, 0.5, 0.4, 0.9, 0.3],
    "n": [5, 5, 3, 1, 5, 5, 3, 5],
})  # fmt: skip


def test_printed_means_are_compared_without_their_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = foreign.compare(PRINTED, percent=True, margin=1.0, metric="auc")
    pairs = all_pairs.over_summaries([0.801, 0.853, 0.856], [0.005, 0.004, 0.009], [5, 5, 3])
    assert pairs is not None
    assert found.columns["ham"].inits == ("random", "imagenet", "dino")
    for name in ("estimate", "seed_error", "df"):
        assert np.allclose(getattr(found.columns["ham"].pairs, name), getattr(pairs, name), rtol=1e-12)
    assert found.columns["ham"].contrast("imagenet", "random").better
    assert found.columns[contrasts.ALL].inits == ("random", "imagenet", "dino")
    whole, ham, _ = (answer.text for answer in found.answers)
    assert "Not among them, because not compared on every task: mae." in whole
    assert "rests on printed means of 3 runs or more each, taken as independent" in ham
    assert "Not compared, because no std over two or more runs is printed: mae." in ham
    assert "before the next look" not in ham  # nobody runs a printed table again
    assert {row.init: row.summary.n for row in found.of_task("ham") if row.summary} == dict(
        zip(PRINTED.init[:4], PRINTED.n[:4], strict=True)
    )
    PRINTED.to_csv(tmp_path / "paper.csv", index=False)
    out = tmp_path / "out"
    main.run(("compare", "--csv", "paper.csv", "--margin", "1", "--percent", "yes", "--out", "out"), tmp_path)
    assert "Shown, and compared with nothing: no std" in " ".join(capsys.readouterr().out.split())
    assert (out / "index.html").is_file()
    scores = pd.read_csv(out / "scores.csv")
    assert np.allclose(scores["mean"], PRINTED["mean"] / 100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": [5, 5, 3, 1, 5, 5, 3, 0.5]}, "mae on cxr: n, the runs behind a mean, is a whole number from 1 on"),
        ({"std": [0.5, -0.4, 0.9, None, 0.5, 0.4, 0.9, 0.3]}, "imagenet on ham: the std is a number from 0 on"),
        ({"std": [0.5, 0.4, 0.9, 0.1, 0.5, 0.4, 0.9, 0.3]}, "mae on ham: a std of 0.1 over a single run"),
        ({"std": 0.0}, "every std is 0: leave the cell empty"),
        ({"mean": [80.1, None, *PRINTED["mean"][2:]]}, "imagenet on ham: the mean is missing"),
        ({"init": "dino"}, r"6 means stand in the table more than once \(dino on ham"),
        ({"mean": PRINTED["mean"] * 100}, r"8 scores are not between -100 and 100"),
    ],
)  # fmt: skip
def test_printed_means_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(mt.UserError, match=words):
        foreign.compare(PRINTED.assign(**change), percent=True)


def test_what_a_table_of_printed_means_lacks_is_named() -> None:
    with pytest.raises(mt.UserError, match="lacks the column std and n: it needs init, mean, std"):
        foreign.compare(PRINTED.drop(columns=["std", "n"]))
    with pytest.raises(mt.UserError, match="printed means has no runs: no scores on val, no predictions"):
        foreign.compare(PRINTED, val="val_auc")


def test_a_table_of_a_spreadsheet_is_read_as_it_is_saved(tmp_path: Path) -> None:
    table = wide(tasks=("cxr",)).drop(columns="best_val_auc").assign(task="Röntgen Thorax/1")
    file, names = tmp_path / "scores.csv", {"init": "model"}
    first = mt.compare(table, metric="test_auc", margin=0.01)
    assert first.findings.benchmark.tasks == ("Rontgen-Thorax-1",)  # names figures
    text = table.rename(columns={"init": " model "}).to_csv(index=False, sep=";", decimal=",")
    for encoding, written in (("utf-8-sig", text), ("utf-8", text.replace(";", "\t"))):
        file.write_text(written.replace("random", " random "), encoding=encoding)
        again = mt.compare(file, metric="test_auc", margin={"Röntgen Thorax/1": 0.01}, columns=names)
        assert again.contrasts().equals(first.contrasts())
        assert again.answer == first.answer
    file.write_text(text, encoding="cp1252")
    for path in (file, file.rename(tmp_path / "scores.xlsx")):
        path.write_text(text, encoding="cp1252")
        with pytest.raises(mt.UserError, match=r"no text in UTF-8.*: save it as CSV UTF-8"):
            mt.compare(path)


def test_the_worst_is_not_called_the_best_for_a_score_of_which_less_is_better() -> None:
    table = wide().rename(columns={"test_auc": "test_loss"})
    with pytest.raises(mt.UserError, match=r"'test_loss' is a loss, of which less is better.*: compare 1 - test_loss"):
        mt.compare(table, metric="test_loss")
    with pytest.raises(mt.UserError, match="'val_brier' is a brier"):
        mt.compare(wide(val_brier=0.1), metric="test_auc", val="val_brier")
    assert mt.compare(wide(), metric="test_auc").table().shape[0] == 6


def test_val_picks_none_where_one_of_the_equals_lacks_it() -> None:
    table = wide(tasks=("ham",))
    equal = table.assign(test_auc=[0.8 + 0.01 * (seed % 3 - row % 2) for row, seed in enumerate(table.seed)])
    text = foreign.compare(equal, metric="test_auc", val="best_val_auc", margin=0.01).answers[0].text
    assert "dino, the best of them on val" in text
    equal.loc[equal.init == "dino", "best_val_auc"] = np.nan
    text = foreign.compare(equal, metric="test_auc", val="best_val_auc", margin=0.01).answers[0].text
    assert "Val picks none: dino lacks a score on it." in text
    assert "best" not in text


def test_no_answer_says_why_there_is_none() -> None:
    alone = mt.compare(wide().query("init == 'dino'"), metric="test_auc", margin=0.01).answers
    assert alone["ham"] == "No answer: dino is the only initialization, and there is none to compare it with."
    once = mt.compare(wide(seeds=1), metric="test_auc", margin=0.01).answers
    assert once["all tasks"] == "No answer over tasks: on ham and cxr no two initializations can be compared."
    means = pd.DataFrame({"init": ["a", "b"], "mean": [0.8, 0.9], "std": [np.nan, np.nan], "n": [5, 5]})
    assert mt.compare(means).answer.startswith("No answer: of no mean is it known how far runs lie apart. Not compared")


def test_captions_say_the_margin_in_words_and_that_a_star_is_one_test() -> None:
    found = foreign.compare(wide(), metric="test_auc", margin=0.01)
    assert "band: ± the margin of 1 point. Over seeds" in drawings.caption("forest-ham", found)
    assert "Each mark is one test, as papers print it: the answer counts all" in drawings.caption("bars-ham", found)


def test_a_difference_that_is_the_same_in_all_seeds_is_said_to_be_not_tested() -> None:
    table = pd.DataFrame({"init": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "auc": [0.75, 0.5, 0.875, 0.625]})
    (answer,) = (said.text for said in foreign.compare(table, metric="auc", margin=0.01).answers)
    assert "has no spread and is not tested: more seeds show one." in answer
    assert "would have been found" not in answer
