"""Networks read on another task's images and on images made worse: against the kept network read by other code."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.comparison import findings
from medtransfer.core.errors import UserError
from medtransfer.data import away, catalog, prepare
from medtransfer.data.cache import load
from medtransfer.data.phantoms import write
from medtransfer.params import Params
from medtransfer.registry import network, serve
from medtransfer.report.sections import away as section
from medtransfer.results.result import read_result
from medtransfer.runs import benchmark, building, finished
from medtransfer.runs.run import Run
from medtransfer.runs.run import plan as plan_runs
from medtransfer.tracking import remote
from medtransfer.training import reading
from medtransfer.training.trainer import Trainer
from tests.support import clinics, workspace

AWAY: dict[str, Any] = {
    "tasks.shenzhen.external": "[{task: clinic, labels: {Tuberculosis: TB}}]",
    "tasks.montgomery.external": "[{task: lungs}]",
}
WORSE: dict[str, Any] = {"corruptions.kinds": "[noise, crop]", "corruptions.severities": "[1, 5]"}
QUICK = {"classification.max_epochs": "1", "segmentation.max_epochs": "1"}


def settings(root: Path, **overrides: Any) -> Params:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return parameters.load(root / "params.yaml", {**QUICK, **named}, catalog.sizes(root))


def plan(root: Path, task: str = "shenzhen", protocol: str = "finetune", seed: Any = 0, **overrides: Any) -> Run:
    (run,) = plan_runs(settings(root, **overrides), root, ["random"], [task], [seed], protocols=(protocol,))
    return run


def make(root: Path, top: Path) -> Path:
    workspace.make(root, top, "shenzhen", "montgomery")
    clinics.tuberculosis(root, "clinic")
    clinics.lungs(root, "lungs")
    return root


def ready(root: Path, *names: str) -> None:
    for name in names:
        prepare.prepare(catalog.lookup(name, root), settings(root), root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Iterator[Path]:
    """A folder in which nothing was trained yet."""
    folder = tmp_path_factory.mktemp("further")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patched.delenv("MLFLOW_RUN_ID", raising=False)
        patched.chdir(folder)
        make(folder, top)
        ready(folder, "clinic")
        yield folder


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    """The folder after a classifier was trained, and read further."""
    benchmark.run_all([plan(root, **AWAY, **WORSE)])
    return root


def served(root: Path, run: Run) -> tuple[torch.nn.Module, network.Spec]:
    """Builds the network as the registry does, from the file that the run kept."""
    said = network.spec(read_result(run.folder / "cell.json"), run.record, *run.normalization, "")
    network.write(root / "network", said, run.folder / "best.safetensors")
    return network.load(root / "network"), said


def test_away_answers_are_those_of_the_kept_network_on_the_raw_files(trained: Path) -> None:
    run = plan(trained, **AWAY, **WORSE)
    table = pd.read_parquet(run.folder / "away-clinic.parquet")
    rows = pd.read_csv(trained / "data/raw/clinic/table.csv", dtype=str).query("split == 'test'").reset_index()
    assert len(table) == len(rows) == 20
    model, said = served(trained, run)
    answered = serve.answer(model, said, [(trained / "data/raw/clinic" / name).read_bytes() for name in rows["image"]])
    assert table["target.Tuberculosis"].tolist() == rows["TB"].astype(int).tolist()
    probability = answered["Tuberculosis"].to_numpy()
    assert np.abs(table["probability.Tuberculosis"] - probability).max() < 1e-5
    cell = finished.read_finished(run)
    area = roc_auc_score(rows["TB"].astype(int), table["probability.Tuberculosis"])
    assert cell["scores"]["away_clinic_auc"] == pytest.approx(area)
    assert cell["away"][0]["labels"] == {"Tuberculosis": "TB"}
    (logged,) = tracking.connect(trained).search_runs(
        [tracking.connect(trained).get_experiment_by_name("medtransfer/shenzhen").experiment_id]
    )
    assert logged.data.metrics["away_clinic_auc"] == pytest.approx(area)
    assert "clinic" in logged.data.params["tasks.shenzhen.external"]


@pytest.mark.slow
def test_away_masks_are_of_the_label_that_both_have(root: Path) -> None:
    ready(root, "lungs")
    run = plan(root, "montgomery", **AWAY, **WORSE)
    benchmark.run_all([run])
    (there,) = run.away
    cache = load(there.prepared)
    rows, (model, said) = cache.rows("test"), served(root, run)
    images = [np.asarray(cache.images[row]) for row in rows]
    inputs = torch.cat([batch.inputs for batch in network.loader(said, images, torch.device("cpu")).evaluate(
        np.arange(len(rows)), 1)])  # fmt: skip
    assert cache.masks is not None
    masks = torch.from_numpy(np.stack([cache.masks[row] >> 1 & 1 for row in rows])).float()[:, None] * 255
    shrunk = torch.nn.functional.interpolate(masks, inputs.shape[-2:], mode="bilinear", antialias=True)[:, 0] > 127.5
    predicted = network.logits(model, said, inputs)[:, 0] > 0
    both = (predicted & shrunk).sum((1, 2)) * 2 / (predicted.sum((1, 2)) + shrunk.sum((1, 2)))
    table = pd.read_parquet(run.folder / "away-lungs.parquet")
    assert (table["predicted"] - predicted.sum((1, 2)).numpy()).abs().max() <= 1
    found = finished.read_finished(run)["scores"]
    assert found["away_lungs_dice"] == pytest.approx(float(both.mean()), abs=0.02)  # of which pixel an edge has
    assert {name for name in found if name.startswith("corrupted_")} == {
        "corrupted_noise_1_dice", "corrupted_noise_5_dice"
    }  # fmt: skip


@pytest.mark.slow
def test_images_made_worse_are_the_same_for_every_seed_and_unchanged_at_severity_0(trained: Path) -> None:
    seen = []
    for seed in (0, 1):
        run = plan(trained, seed=seed, **AWAY, **WORSE)
        built, prepared = building.trainer(run)
        if seed == 0:
            built.model.load_state_dict(built.best())
            same = reading.corrupted(built, run.record, prepared, "noise", 0, 0).table
            pd.testing.assert_frame_equal(same, pd.read_parquet(run.folder / "predictions.parquet"))
            kept = pd.read_parquet(run.folder / "corrupted.parquet").query("kind == 'noise' and severity == 5")
            again = reading.corrupted(built, run.record, prepared, "noise", 5, 0).table
            assert kept["probability.Tuberculosis"].tolist() == again["probability.Tuberculosis"].tolist()
        inputs, forward = list[torch.Tensor](), built.model
        built.forward = lambda batch, kept=inputs, model=forward: kept.append(batch) or model(batch)
        reading.corrupted(built, run.record, prepared, "crop", 3, 0)
        seen.append(torch.cat(inputs))
    assert torch.equal(*seen)


@pytest.mark.slow
def test_results_travel_with_the_run(trained: Path, tmp_path: Path) -> None:
    run = plan(trained, **AWAY, **WORSE)
    names = {"cell.json", "predictions.parquet", "away-clinic.parquet", "corrupted.parquet"}
    assert set(finished.results_of(run)) == names
    benchmark.write_results([run], tmp_path / "shenzhen")
    assert {path.name for path in (tmp_path / "shenzhen" / run.digest).glob("*.*")} >= names
    (found,) = remote.finished(trained, ["shenzhen"])
    remote.bring(trained, [found], tmp_path / "remote")
    assert {path.name for path in (tmp_path / "remote/shenzhen" / run.digest).iterdir()} == names
    (run.folder / "away-clinic.parquet").unlink()
    assert not finished.whole(run)
    assert finished.finished(run)  # brought back from MLflow
    assert (run.folder / "away-clinic.parquet").is_file()


@pytest.mark.slow
def test_a_failure_between_test_and_other_tests_loses_nothing(
    trained: Path, tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    make(tmp_path, top)
    ready(tmp_path, "clinic", "lungs")
    run = plan(tmp_path, **AWAY, **WORSE)
    with monkeypatch.context() as broken:
        broken.setattr(reading, "corrupted", lambda *_: 1 / 0)
        with pytest.raises(UserError, match="division by zero"):
            benchmark.run_all([run])
    assert not (run.folder / "cell.json").exists()
    monkeypatch.setattr(Trainer, "_epoch", lambda *_: 1 / 0)  # it is trained already
    (cell,) = benchmark.run_all([run])
    before = finished.read_finished(plan(trained, **AWAY, **WORSE))
    assert before["digest"] == cell["digest"]
    assert before["scores"] == cell["scores"]


def test_a_run_that_asks_for_neither_is_the_run_that_it_was(root: Path) -> None:
    plain = {task: plan(root, task).digest for task in ("shenzhen", "montgomery")}
    assert plan(root, corruptions__seed="5").digest == plain["shenzhen"]
    assert plan(root, **{"tasks.montgomery.external": AWAY["tasks.montgomery.external"]}).digest == plain["shenzhen"]
    crop = {"corruptions__kinds": "[crop]", "corruptions__severities": "[2]"}
    assert plan(root, "montgomery", "finetune", **crop).digest == plain["montgomery"]  # masks would move
    linear = plan(root, protocol="linear")
    assert plan(root, protocol="linear", **AWAY, **WORSE).digest == linear.digest
    others = [
        plan(root, **AWAY).digest,
        plan(root, **WORSE).digest,
        plan(root, **WORSE, corruptions__seed="1").digest,
        plan(root, **crop).digest,
    ]  # fmt: skip
    assert len({*others, *plain.values()}) == len(others) + 2
    before = plan(root, **AWAY)
    other = replace(before.external[0], manifest_digest="other data")
    assert replace(before, external=(other,)).digest not in {*others, before.digest}
    assert plan(root, **WORSE).digest == plan(root, **{**WORSE, "corruptions.kinds": "[crop, noise]"}).digest


PAIRS = "labels: {Tuberculosis: TB}"


def refused(root: Path, external: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        plan(root, "shenzhen", "finetune", 0, **{"tasks.shenzhen.external": external})


def test_refusals_before_any_work(tmp_path: Path, top: Path) -> None:
    root = workspace.make(tmp_path, top)
    clinics.tuberculosis(root, "clinic")
    refused(root, "[{task: clinics}]", "unknown task 'clinics'; did you mean clinic?")
    refused(root, "[{task: shenzhen}]", "names shenzhen itself")
    refused(root, "[{task: montgomery}]", "shenzhen is a binary task, montgomery a segmentation one")
    refused(root, "[{task: clinic}]", r"no label of shenzhen \(Tuberculosis\) is one of clinic \(TB\)")
    refused(root, "[{task: clinic, labels: {Tuberculosis: tb}}]", "looked for the label 'tb' of clinic, which has TB")
    refused(root, "[{task: clinic, labels: {TB: TB}}]", "looked for the label 'TB' of shenzhen, which has Tubercul")
    refused(root, f"[{{task: clinic, {PAIRS}}}, {{task: clinic, {PAIRS}}}]", "names each task once")
    assert not (root / "data/prepared").exists()


@pytest.mark.slow
def test_refusals_of_caches(tmp_path: Path, top: Path) -> None:
    root = workspace.make(tmp_path, top, "shenzhen")
    clinics.tuberculosis(root, "clinic")
    clinics.tuberculosis(root, "folded", split={"folds": 2})
    clinics.tuberculosis(root, "leaking", seed=0)  # the very phantoms of Shenzhen
    refused(root, f"[{{task: clinic, {PAIRS}}}]", "clinic is not prepared.*`medtransfer prepare --task clinic`")
    ready(root, "folded", "leaking")
    refused(root, f"[{{task: folded, {PAIRS}}}]", r"folded has no test images of its own \(2 folds\)")
    refused(
        root, f"[{{task: leaking, {PAIRS}}}]", "identical images are in train or val of shenzhen and in the test of l"
    )


def test_labels_that_records_call_alike(top: Path) -> None:
    tasks = catalog.TASKS
    one = away.shared_labels(tasks["chestxray14"], tasks["chexpert"], {})
    assert one == {
        "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Effusion": "Pleural Effusion",
        "Consolidation": "Consolidation", "Edema": "Edema",
    }  # fmt: skip
    back = away.shared_labels(tasks["chexpert"], tasks["chestxray14"], {})
    assert {other: label for label, other in back.items()} == one
    said = away.shared_labels(tasks["chestxray14"], tasks["chexpert"], {"Pneumothorax": "Pneumothorax"})
    assert said == {"Pneumothorax": "Pneumothorax"}
    grades = replace(tasks["shenzhen"], kind="multiclass", labels=("none", "mild", "severe"))
    turned = replace(grades, name="other", labels=("severe", "none", "mild"))
    assert list(away.shared_labels(grades, turned, {})) == ["none", "mild", "severe"]
    with pytest.raises(UserError, match="classes exclude each other, so that all of none, mild, severe must be those"):
        away.shared_labels(grades, replace(turned, labels=("none", "mild")), {})


@pytest.mark.slow
def test_patients_and_look_alikes_in_both_are_refused(tmp_path: Path, root: Path) -> None:
    caches = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        shutil.copytree(root / "data/phantoms/shenzhen", folder / "data/phantoms/shenzhen")
        caches.append(prepare.prepare(catalog.lookup("shenzhen", root), settings(root, data__split_seed=seed), folder))
    with pytest.raises(UserError, match="patients are in train or val of shenzhen and in the test of shenzhen"):
        away.check(caches[0], caches[1], related=False)
    away.check(caches[0], caches[0], related=False)
    clinic = prepare.prepare(catalog.lookup("clinic", root), settings(root), root)
    away.check(caches[0], clinic, related=True)
    twin = replace(clinic, read_samples=lambda: clinic.samples.assign(split="train"))
    with pytest.raises(UserError, match="images that look alike are in train or val of clinic and in the test of clin"):
        away.check(twin, replace(clinic, manifest={**clinic.manifest, "dataset": "other"}), related=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers_away(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("finetune", "--init", "random", "--task", "shenzhen", "--seed", "0", "--classification.max_epochs", "6")
    words += tuple(
        word for name, value in {**AWAY, **WORSE}.items() for word in (f"--{name}", value) if "mont" not in name
    )
    found = []
    for name in ("whole", "killed"):
        root = tmp_path / name
        root.mkdir()
        make(root, top)
        ready(root, "clinic")
        if name == "killed":
            process = workspace.command(top, root, *words)
            end = time.monotonic() + 120
            while sum(len(p.read_text().splitlines()) for p in (root / "data/runs").glob("*/journal.jsonl")) < 3:
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert not list((root / "data/runs").glob("*/cell.json"))
        code, text = workspace.run(top, root, *words)
        assert code == 0, text
        (path,) = (root / "data/runs").glob("*/cell.json")
        cell: dict[str, Any] = json.loads(path.read_text())
        found.append((cell["scores"], {k: v for k, v in cell["parts"].items() if k != "best.safetensors"}))
    assert found[0] == found[1]
    assert "away_clinic_auc" in found[0][0]


@pytest.mark.slow
def test_a_fainter_site_is_found_and_one_alike_is_not(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    root = workspace.make(tmp_path, top)
    write.write("shenzhen", root / "data/phantoms/shenzhen", images=240, size=64, seed=0, contrast=2.5)
    for name, contrast in (("alike", 2.5), ("fainter", 0.25)):
        clinics.tuberculosis(root, name, images=240, size=64, seed=9, contrast=contrast)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["classification"] |= {"max_epochs": 12, "lr": 3e-3}
    tree["phantoms"]["images"]["shenzhen"] = 240
    tree["benchmark"] |= {"seeds": [0, 1, 2, 3], "tasks": ["shenzhen"]}
    tree["comparison"] |= {"against": [], "reference": "random"}
    pairs = {"Tuberculosis": "TB"}
    tree["tasks"]["shenzhen"]["external"] = [{"task": name, "labels": pairs} for name in ("alike", "fainter")]
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    values = parameters.load(root / "params.yaml", {}, catalog.sizes(root))
    for name in ("alike", "fainter"):
        prepare.prepare(catalog.lookup(name, root), values, root)
    runs = plan_runs(values, root, ["random"], ["shenzhen"], [0, 1, 2, 3])
    benchmark.run_all(runs)
    benchmark.write_results(runs, root / "data/results/cells/shenzhen")
    found = findings.of_benchmark(root / "data/results/cells", values, root)
    said = {one.task: section.sentence(found, "shenzhen", one) for one in found.away["shenzhen"]}
    print(said, [one.inits[0].drop for one in found.away["shenzhen"]])
    assert said["alike"] == "At alike, against shenzhen, no score is shown to fall or to rise."
    assert said["fainter"] == "At fainter, against shenzhen, scores are shown to fall for random."
