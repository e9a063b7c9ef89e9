from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.comparison import findings
from medtransfer.core.errors import UserError
from medtransfer.packs import compare, merge, pack
from medtransfer.results.result import Result
from tests.support import packs, results, workspace

EFFECTS = {"random@resnet50": 0.0, "imagenet@resnet50": 0.8, "swav@resnet50": 0.4}
TASKS = ["shenzhen", "montgomery"]


def study(folder: Path, top: Path, *inits: str) -> Path:
    folder.mkdir()
    workspace.make(folder, top)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["model"]["backbone"] = "resnet50"
    names = [init.partition("@")[0] for init in inits]
    tree["benchmark"] |= {"inits": names, "tasks": TASKS, "seeds": [0, 1, 2]}
    tree["comparison"] |= {"reference": names[0], "against": [], "resamples": 0}
    tree["claims"] = {}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    results.write(folder / "data/results/cells", {init: EFFECTS[init] for init in inits}, TASKS, [0, 1, 2], cases=40)
    return folder


def load(root: Path) -> parameters.Params:
    return parameters.load(root / "params.yaml")


def test_packs_of_two_labs_say_what_one_study_of_all_runs_says_to_the_digit(tmp_path: Path, top: Path) -> None:
    both = study(tmp_path / "both", top, *EFFECTS)
    expected = findings.of_benchmark(both / "data/results/cells", load(both), both)
    paths = []
    # random is both labs'
    for lab, inits in (("A", list(EFFECTS)[:2]), ("B", ["random@resnet50", "swav@resnet50"])):
        root = study(tmp_path / lab, top, *inits)
        paths.append(tmp_path / f"{lab}.pack")
        pack.pack(load(root), root, lab, paths[-1], with_predictions=True)
    merge.merge(paths, tmp_path / "all.pack")
    found = compare.compare(tmp_path / "all.pack")
    assert found.reference == "random@resnet50"
    assert len(found.results) == 18
    for task in TASKS:
        assert {row.init: row.scores for row in found.of_task(task)} == {
            row.init: row.scores for row in expected.of_task(task)
        }
        assert found.evidence[task].patients == expected.evidence[task].patients == 40
        for init, values in expected.evidence[task].contributions.items():
            np.testing.assert_array_equal(found.evidence[task].contributions[init], values)
        mine, theirs = ([(one.init, one.estimate, one.patient_error) for one in each.against_reference(task)]
                        for each in (found, expected))  # fmt: skip
        assert mine == theirs


def write(tmp_path: Path, **labs: list[Result]) -> Path:
    paths = []
    for lab, runs in labs.items():
        packs.write(tmp_path / f"{lab}.pack", packs.contribution(runs, lab=lab))
        paths.append(tmp_path / f"{lab}.pack")
    merge.merge(paths, tmp_path / "all.pack")
    return tmp_path / "all.pack"


def test_without_predictions_seeds_alone_count_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, A=[packs.result(seed=k, auc=0.8 + k / 100) for k in range(3)],
                 B=[packs.result(init="swav@resnet50", seed=k, auc=0.9 + k / 100) for k in range(3)])  # fmt: skip
    found = compare.compare(path, "swav@resnet50")
    assert found.evidence["shenzhen"].note == compare.NOTE
    assert found.reference == "swav@resnet50"
    with pytest.raises(UserError, match="reference 'swaw@resnet50' is no init of the pack; the nearest valid name"):
        compare.compare(path, "swaw@resnet50")


def test_what_one_study_refuses_is_refused_with_the_labs_named(tmp_path: Path) -> None:
    mine = [packs.result(seed=k) for k in range(2)]
    theirs = [packs.result(init="swav@resnet50", seed=k, arithmetic=packs.OTHER) for k in range(2)]
    path = write(tmp_path, Ours=mine, Theirs=theirs)
    with pytest.raises(UserError, match="runs of one task and seed must have one arithmetic") as error:
        compare.compare(path)
    assert f"Whose they are: {mine[0].digest[:8]} Ours, {theirs[0].digest[:8]} Theirs" in str(error.value)
    assert "Of a pack: --unbalanced" in str(error.value)
    assert len(compare.compare(path, unbalanced=["arithmetic"]).results) == 4
    with pytest.raises(UserError, match="--unbalanced: unknown arithmetics; the nearest valid name is arithmetic"):
        compare.compare(path, unbalanced=["arithmetics"])
    again = [dataclasses.replace(one, digest="f" * 31 + str(one.seed)) for one in mine]  # trained by another recipe
    with pytest.raises(UserError, match=r"must be one run, found 2 .*ffffffff Twice"):
        compare.compare(write(tmp_path, Ours=mine, Twice=again))


def test_margins_that_differ_are_refused(tmp_path: Path) -> None:
    one, two = packs.contribution([packs.result()], lab="A"), packs.contribution([packs.result(seed=1)], lab="B")
    two = dataclasses.replace(two, tasks={"shenzhen": dataclasses.replace(two.tasks["shenzhen"], margin=0.02)})
    packs.write(tmp_path / "a.pack", one)
    packs.write(tmp_path / "b.pack", two)
    merge.merge([tmp_path / "a.pack", tmp_path / "b.pack"], tmp_path / "all.pack")
    with pytest.raises(UserError, match=r"task shenzhen has the margin 0\.01 at A and 0\.02 at B"):
        compare.compare(tmp_path / "all.pack")


def test_which_labs_number_counts_is_said_where_they_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [packs.result(init=init, seed=seed) for init in EFFECTS for seed in range(2)]
    other = [dataclasses.replace(run, scores={"test_auc": 0.91}, arithmetic=packs.OTHER) for run in runs[:3]]
    packs.write(tmp_path / "a.pack", packs.contribution(runs))
    packs.write(tmp_path / "b.pack", packs.contribution([*other, *runs[3:]], "Lab B"))
    merged = merge.merge([tmp_path / "a.pack", tmp_path / "b.pack"], tmp_path / "all.pack")
    found = compare.compare(tmp_path / "all.pack", unbalanced=("arithmetic",))
    kept = min(merged.pack.contributions, key=lambda one: one.digest).lab
    assert [record.getMessage() for record in caplog.records] == [
        f"3 runs of {'Lab B' if kept == 'Lab A' else 'Lab A'} came out with another score at {kept}; a run counts "
        f"once, and here the first in the pack: that of {kept}"
    ]
    assert found.rows[0].scores[0] == {"Lab A": 0.9, "Lab B": 0.91}[kept]


def test_a_pack_without_a_run_is_refused(tmp_path: Path) -> None:
    packs.write(tmp_path / "none.pack", packs.contribution([]))
    with pytest.raises(UserError, match=r"none\.pack holds no run"):
        compare.compare(tmp_path / "none.pack")
