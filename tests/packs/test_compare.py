from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import yaml

from medtransfer import params as parameters
from medtransfer.comparison import findings
from medtransfer.core.errors import UserError
from medtransfer.packs import compare, counted, file, merge, pack
from medtransfer.packs.records import Certificate, Contribution
from medtransfer.results.result import Result
from tests.support import leaderboards, packs, results, workspace

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


def test_margins_that_differ_are_refused(tmp_path: Path) -> None:
    one, two = packs.contribution([packs.result()], lab="A"), packs.contribution([packs.result(seed=1)], lab="B")
    two = dataclasses.replace(two, tasks={"shenzhen": dataclasses.replace(two.tasks["shenzhen"], margin=0.02)})
    packs.write(tmp_path / "a.pack", one)
    packs.write(tmp_path / "b.pack", two)
    merge.merge([tmp_path / "a.pack", tmp_path / "b.pack"], tmp_path / "all.pack")
    with pytest.raises(UserError, match=r"task shenzhen has the margin 0\.01 at A and 0\.02 at B"):
        compare.compare(tmp_path / "all.pack")


def sealed(path: Path, *certificates: Certificate) -> Path:
    """Adds certificates to a pack."""
    texts = dict(file.of_certificate(one) for one in certificates)
    more = {name: functools.partial(bytes, text) for name, text in texts.items()}
    file.write(path, file.open_pack(path).contents() | more)
    return path


def merged(folder: Path, *contributions: Contribution) -> Path:
    paths = [folder / f"{number}.pack" for number in range(len(contributions))]
    for path, one in zip(paths, contributions, strict=True):
        packs.write(path, one)
    merge.merge(paths, folder / "all.pack")
    return folder / "all.pack"


def test_which_labs_number_counts_is_said_and_is_that_of_the_site(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [packs.result(init=init, seed=seed) for init in EFFECTS for seed in range(2)]
    other = [dataclasses.replace(run, scores={"test_auc": 0.91}, arithmetic=packs.OTHER) for run in runs[:3]]
    path = merged(tmp_path, packs.contribution(runs), packs.contribution([*other, *runs[3:]], "Lab B"))
    found = compare.compare(path, unbalanced=("arithmetic",))
    pack_ = file.open_pack(path).pack
    kept, left = (one.lab for one in counted.ordered(pack_))  # of equally early ones the first by name
    assert [record.getMessage() for record in caplog.records] == [
        f"6 of 12 runs not counted\n  6 of {left}: the same run as in an earlier contribution of {kept}"
    ]
    assert found.rows[0].scores[0] == {"Lab A": 0.9, "Lab B": 0.91}[kept]
    assert [one.digest for one in found.results] == [
        run.result.digest for run in counted.counting(counted.count(pack_, "finetune", "fixed"))
    ]


def test_equal_runs_under_two_digests_count_once_those_of_the_lab_with_most_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = [packs.result(init=init, seed=seed) for init in EFFECTS for seed in range(2)]
    again = [dataclasses.replace(one, digest="f" * 31 + str(one.seed), scores={"test_auc": 0.2}) for one in mine[:2]]
    found = compare.compare(merged(tmp_path, packs.contribution(mine, "Z"), packs.contribution(again, "A")))
    assert len(found.results) == 6
    assert {one.score for one in found.results} == {0.9}
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 8 runs not counted\n  2 of A: of equal init, task and seed, that of Z counts"
    ]


def test_what_an_init_alone_has_and_what_follows_the_test_put_no_run_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    every = [packs.result(init=init, seed=seed) for init in EFFECTS for seed in range(2)]
    own: dict[str, dict[str, object]] = {
        "random@resnet50": {"model.random_last_bn": "one"}, "swav@resnet50": {"corruptions.kinds": ["noise"]}
    }  # fmt: skip
    every = [dataclasses.replace(one, params={**one.params, **own.get(one.init, {})}) for one in every]
    first = next(one for one in every if one.init == "random@resnet50")
    odd = [dataclasses.replace(first, seed=7, digest="e" * 32, params={**first.params, "model.random_last_bn": "zero"})]
    found = compare.compare(merged(tmp_path, packs.contribution(every, "Z"), packs.contribution(odd, "A")))
    assert {one.digest for one in found.results} == {one.digest for one in every}
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 7 runs not counted\n  1 of A: another model than most runs of its initialization on the task"
    ]


def test_refuted_runs_do_not_count_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    honest = packs.contribution([packs.result(seed=seed) for seed in range(2)], "A")
    forged = packs.contribution([packs.result(init="swav@resnet50", seed=seed, auc=0.99) for seed in range(2)], "B")
    path = merged(tmp_path, honest, forged)
    whose = packs.write(tmp_path / "alone.pack", forged)
    certificate = leaderboards.certificate(whose, "C", ["equal", "different"])
    found = compare.compare(sealed(path, certificate))
    assert [one.init for one in found.results] == ["random@resnet50"] * 2
    assert caplog.records[-1].getMessage() == "2 of 4 runs not counted\n  2 of B: its contribution is refuted"
    with pytest.raises(UserError, match=r"holds no run that counts\n  2 of B: its contribution is refuted"):
        compare.compare(sealed(tmp_path / "alone.pack", certificate))


def test_a_pack_without_a_run_is_refused(tmp_path: Path) -> None:
    packs.write(tmp_path / "none.pack", packs.contribution([]))
    with pytest.raises(UserError, match=r"none\.pack holds no run"):
        compare.compare(tmp_path / "none.pack")
