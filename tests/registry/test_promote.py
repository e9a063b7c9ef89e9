"""Decisions carried out in a registry of their own; no network is trained."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from medtransfer import tracking
from medtransfer.core import files
from medtransfer.core.errors import UserError
from medtransfer.registry import aliases, demote, fetch, register, timm_folder
from medtransfer.registry import promote as promoting
from medtransfer.runs.pretrain import link
from medtransfer.weights import backbones, licences, recipes, store
from medtransfer.weights.names import parse, seen
from medtransfer.weights.receipts import Lineage
from tests.support import fakes, promotions
from tests.support.promotions import MODEL, finish, promote

BETTER = {"a": 0.0, "b": 2.0}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, top: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.chdir(tmp_path)
    promotions.start(tmp_path, top)
    return tmp_path


def client(root: Path) -> MlflowClient:
    return tracking.connect(root)


def champion(root: Path, alias: str = "champion") -> str:
    found = aliases.holder(client(root), MODEL, alias)
    return found.version if found else ""


def decisions(root: Path) -> list[Any]:
    place = client(root).get_experiment_by_name("medtransfer/promotion")
    return list(client(root).search_runs([place.experiment_id])) if place else []


def versions(root: Path) -> list[str]:
    return sorted(str(one.version) for one in client(root).search_model_versions(f"name = '{MODEL}'"))


# What is done


def test_a_first_champion_is_registered_with_its_trail_and_again_nothing_changes(root: Path) -> None:
    here, found = finish(root, {"a": 0.0})
    said = promote(root, here, found)
    assert [(one["model"], one["outcome"], one["version"]) for one in said] == [
        (MODEL, "champion", "1"), ("medtransfer-shenzhen", "blocked", ""), ("medtransfer-montgomery", "blocked", ""),
    ]  # fmt: skip
    assert "looked for a fine-tuned network" in said[1]["reasons"][0]
    written, before = (root / promoting.RESULT).read_text(), len(decisions(root))
    assert promote(root, here, found) == said == json.loads(written)
    assert (champion(root), versions(root), len(decisions(root))) == ("1", ["1"], before)
    assert (root / promoting.RESULT).read_text() == written


def test_who_when_why_and_by_what_stands_in_the_decision_and_in_the_version(root: Path) -> None:
    here, found = finish(root, {"a": 0.0})
    (said, *_) = promote(root, here, found)
    one = client(root).get_run(said["mlflow_run_id"])
    tags = one.data.tags
    assert (tags["mlflow.user"], tags["verb"], tags["outcome"]) == ("ada", "promote", "champion")
    assert "old_version" not in tags
    assert (tags["new_version"], tags["comparison"], tags["manifests"]) == (
        "1", said["comparison"], "m-shenzhen m-montgomery",
    )  # fmt: skip
    assert one.data.params["promotion.margin"] == "1.0"
    kept = {file.path for file in client(root).list_artifacts(one.info.run_id)}
    assert {"decision.json", "decision.md", "report", "backbone"} <= kept
    version = client(root).get_model_version(MODEL, "1")
    sha = store.ready(parse("file:a.safetensors", fakes.BACKBONE), root)
    assert sha is not None
    assert version.tags["weights_sha256"] == version.tags["key"] == sha.tensors_sha256
    assert version.tags["manifest.shenzhen"] == "m-shenzhen"
    licence = "weights file:a.safetensors: not stated"
    assert [version.tags[name] for name in ("licence", "licences", "commercial")] == [licence, licence, "unclear"]
    words = "### Licence\n\nThe strictest licence of what this model is made of is not stated (of the weights file:"
    assert words in version.description
    for words in (
        "better than random@test_resnet, which one starts from without a champion",
        "local-dir:",
        "| init | shenzhen: AUC, test | val |",
        "### Origin",
    ):
        assert words in version.description
    page = client(root).get_registered_model(MODEL).description
    assert "`champion` passed the gate" in page
    assert "### champion\n\nBackbone weights **file:a.safetensors@test_resnet**" in page


def test_a_better_init_takes_the_alias_and_demote_gives_it_back_for_good(root: Path) -> None:
    promote(root, *finish(root, {"a": 0.0}))
    here, found = finish(root, BETTER)
    (said, *_) = promote(root, here, found)
    assert (said["outcome"], said["version"], said["champion_before"]) == ("champion", "2", "1")
    assert said["reasons"][0].startswith("better than the champion file:a.safetensors@test_resnet (version 1)")
    assert said["decided_before"] == {"shenzhen": 1, "montgomery": 1}
    assert champion(root) == "2"
    words = demote.demote(MODEL, "champion", "slow", root)
    assert "from version 2 back to version 1" in words
    assert champion(root) == "1"
    assert demote.demote(MODEL, "champion", "slow", root) == words  # the same command goes no step further back
    assert len([run for run in decisions(root) if run.data.tags["verb"] == "demote"]) == 1
    newest = decisions(root)[0].data.tags
    assert (newest["verb"], newest["old_version"], newest["new_version"], newest["reason"]) == (
        "demote",
        "2",
        "1",
        "slow",
    )
    promote(root, here, found)
    assert champion(root) == "1"
    (again, *_) = promote(root, *finish(root, BETTER, seeds=(0, 1, 2, 3)))
    assert (again["outcome"], again["version"]) == ("challenger", "2")
    assert "it was demoted: slow" in again["reasons"][0]
    with pytest.raises(UserError, match="had no champion before it"):
        demote.demote(MODEL, "champion", "", root)


def test_a_worse_init_or_a_tie_leaves_the_champion(root: Path) -> None:
    promote(root, *finish(root, {"a": 1.0}))
    (worse, *_) = promote(root, *finish(root, {"a": 1.0, "b": 0.0}))
    assert (worse["outcome"], worse["version"]) == ("kept", "1")
    (tie, *_) = promote(root, *finish(root, {"a": 1.0, "b": 0.0, "c": 1.05}))
    assert (tie["init"], tie["outcome"], tie["alias"]) == ("file:c.safetensors@test_resnet", "challenger", "challenger")
    assert (champion(root), champion(root, "challenger")) == ("1", "2")


def test_a_challenger_that_passes_later_is_the_same_version_and_loses_that_alias(root: Path) -> None:
    here, found = finish(root, {"a": 0.0}, marks=["leak-dropped"])
    (first, *_) = promote(root, here, found)
    assert (first["alias"], champion(root)) == ("challenger", "")
    (second, *_) = promote(root, *finish(root, {"a": 0.0}))
    assert (second["outcome"], second["version"], versions(root)) == ("champion", "1", ["1"])
    assert champion(root, "challenger") == ""


def test_phantoms_have_aliases_of_their_own(root: Path) -> None:
    promote(root, *finish(root, {"a": 0.0}, marks=["synthetic"]))
    assert (champion(root), champion(root, "demo-champion")) == ("", "1")
    assert "Synthetic phantoms" in client(root).get_model_version(MODEL, "1").description


def test_random_weights_are_not_registered(root: Path) -> None:
    (said, *_) = promote(root, *finish(root, {"random": 1.0, "a": -2.0}))
    assert said["outcome"] == "blocked"
    assert "drawn from the seed" in said["reasons"][0]


def test_a_dry_run_says_it_and_changes_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    here, found = finish(root, {"a": 0.0})
    with caplog.at_level(logging.INFO):
        (said, *_) = promote(root, here, found, dry=True)
    assert said["outcome"] == "champion"
    assert f"{MODEL}: would be decided so: file:a.safetensors@test_resnet: champion" in caplog.text
    assert decisions(root) == []
    assert not client(root).search_registered_models()
    assert not (root / promoting.RESULT).exists()


# Faults


def test_what_is_required_stands_in_the_log_the_tags_the_card_and_the_record(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require = {"promotion.require": "{auc: 0.5, calibration: 0.001, worst_group_drop: 0.05}"}
    here, found = finish(root, {"a": 1.0}, overrides=require)
    with caplog.at_level(logging.INFO, logger="medtransfer"):
        dry = promote(root, here, found, dry=True)
    assert "a.safetensors" in caplog.text
    assert "auc on shenzhen: within, 0." in caplog.text
    assert "worst_group_drop on montgomery: no data, the task has no groups of patients; at most 0.05" in caplog.text
    assert "challenger, alias challenger\n  required: " in caplog.text
    assert "\n  error left for later decisions on them: " in caplog.text
    assert dry[0]["outcome"] == "challenger"
    said = promote(root, here, found)
    verdicts = {(one["condition"], one["task"]): one["verdict"] for one in said[0]["required"]}
    assert verdicts == {
        ("auc", "shenzhen"): "within", ("calibration", "shenzhen"): "violated",
        ("worst_group_drop", "shenzhen"): "no data", ("worst_group_drop", "montgomery"): "no data",
    }  # fmt: skip
    tags = next(run for run in decisions(root) if run.data.tags["model"] == MODEL).data.tags
    assert tags["required.calibration.shenzhen"].startswith("calibration on shenzhen: violated, 0.")
    version = client(root).get_model_version(MODEL, said[0]["version"])
    assert version.tags["required.auc.shenzhen"].endswith("at least 0.5 is asked")
    assert "Required of it" in str(version.description)


def test_a_study_with_more_than_its_tables_hold_is_promoted(root: Path) -> None:
    more = {"benchmark.protocols": "[finetune, linear]"}
    here, _ = finish(root, {"a": 0.0}, overrides=more)
    finish(root, {"a": 0.0}, overrides=more, protocol="linear")
    found = promotions.report(root, here)
    assert found.beside
    assert promote(root, here, found)[0]["outcome"] == "champion"


def test_a_comparison_that_is_older_than_the_runs_is_refused(root: Path) -> None:
    promote(root, *finish(root, {"a": 0.0}))
    here, found = finish(root, BETTER)
    (root / "data/results/runs.csv").write_text("task\n")
    with pytest.raises(UserError, match=r"runs\.csv is not what the finished runs .* run `compare`"):
        promote(root, here, found)
    (root / "data/results/comparison.csv").unlink()
    promotions.report(root, here)
    shutil.rmtree(root / "data/results/report")
    with pytest.raises(UserError, match="looked for the report"):
        promote(root, here, found)
    assert champion(root) == "1"


def test_a_registry_that_cannot_be_reached_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, found = finish(root, {"a": 0.0})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/all.db")
    with pytest.raises(UserError, match="cannot be opened"):
        promote(root, here, found)


def test_a_registry_that_fails_midway_leaves_the_alias(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(root, *finish(root, {"a": 0.0}))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    here, found = finish(root, BETTER)
    with monkeypatch.context() as patched:
        patched.setattr(register, "_log", fail)
        with pytest.raises(UserError, match=r"the model registry .* failed: disk full"):
            promote(root, here, found)
    assert champion(root) == "1"
    assert decisions(root)[0].info.status == "FAILED"
    (said, *_) = promote(root, here, found)
    assert (said["outcome"], said["version"], versions(root)) == ("champion", "2", ["1", "2"])


def test_a_model_of_somebody_else_is_left_alone(root: Path) -> None:
    client(root).create_registered_model(MODEL)
    with pytest.raises(UserError, match="was not made by medtransfer"):
        promote(root, *finish(root, {"a": 0.0}))
    assert client(root).get_registered_model(MODEL).aliases == {}
    assert decisions(root) == []


def test_two_promotions_at_once_are_one(root: Path) -> None:
    here, found = finish(root, {"a": 0.0})
    with files.lock(aliases.lock_file(root)), pytest.raises(UserError, match="another promotion is at work"):
        promote(root, here, found)


def test_an_alias_that_was_moved_meanwhile_is_not_moved_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(root, *finish(root, {"a": 0.0}))
    promote(root, *finish(root, BETTER))
    here, found = finish(root, {"a": 0.0, "b": 2.0, "c": 5.0})
    log = register._log

    def meddle(*arguments: Any) -> None:
        log(*arguments)
        client(root).set_registered_model_alias(MODEL, "champion", "1")

    monkeypatch.setattr(register, "_log", meddle)
    with pytest.raises(UserError, match="the alias champion went from 2 to 1 while this decision was made"):
        promote(root, here, found)
    assert champion(root) == "1"
    assert decisions(root)[0].info.status == "FAILED"


def test_weights_that_are_not_the_evaluated_ones_are_refused(root: Path) -> None:
    here, _ = finish(root, {"a": 0.0})
    for path in (root / "data/results/cells").glob("*/*/cell.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "other"}))
    with pytest.raises(UserError, match="are not those of the compared runs"):
        promote(root, here, promotions.report(root, here))


@pytest.mark.parametrize(("alias", "words"), [("best", "alias must be champion"), ("champion", "found none")])
def test_nobody_is_demoted_who_is_not_there(root: Path, alias: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        demote.demote(MODEL, alias, "", root)


# Out of the registry


FOREIGN = """
import sys, timm, torch, segmentation_models_pytorch as smp
path, x = "local-dir:backbone", torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
backbone = timm.create_model(path, pretrained=True).eval()
shape = timm.create_model(path, pretrained=True, num_classes=3)(x).shape
encoder = smp.Unet(f"tu-{path}", encoder_weights=True, classes=1).encoder.model
with torch.inference_mode():
    torch.save([backbone(x), encoder.state_dict(), tuple(shape), "medtransfer" in sys.modules], "out.pt")
"""
"""what a person does who has timm and segmentation-models-pytorch, and not medtransfer"""


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_timm_and_smp_load_a_registered_backbone_with_the_evaluated_features(root: Path, fresh: bool) -> None:
    promote(root, *finish(root, {"a": 0.0}))
    client(root).download_artifacts(client(root).get_model_version(MODEL, "1").run_id, "backbone", str(root))
    if fresh:
        environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([sys.executable, "-W", "ignore", "-c", FOREIGN], cwd=root, env=environment, check=True)
    else:
        exec(FOREIGN, {})
    features, encoder, shape, loaded = torch.load(root / "out.pt", weights_only=True)
    tensors = load_file(root / "a.safetensors")
    assert (shape, loaded) == ((1, 3), not fresh)
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in encoder.items())
    evaluated = backbones.bare_backbone(fakes.BACKBONE).eval()
    backbones.load_into(evaluated, tensors, fakes.BACKBONE)
    with torch.inference_mode():
        assert torch.equal(features, evaluated(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)))


def test_a_registered_backbone_is_an_init_like_any_other(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    promote(root, *finish(root, {"a": 0.0}))
    here = promotions.load(root, ["a"])
    for version in ("champion", "1"):
        name = f"registry:{MODEL}/{version}"
        brought = fetch.bring(here, ["a", f"{name}+chexpert", name], root)
        init = parse(name, "resnet50", brought.inits)
        assert (init.canonical, init.chain) == (f"{name}@{fakes.BACKBONE}", ())
        assert parse(init.canonical, "resnet50", brought.inits) == init
        assert parse(f"{name}+chexpert", "resnet50", brought.inits).chain == ("chexpert",)
        found = store.ready(init, root)
        assert found is not None
        assert found.tensors_sha256 == client(root).get_model_version(MODEL, "1").tags["key"]
        tensors = store.state(init, root, 0, "one")
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in load_file(root / "a.safetensors").items())
        assert store.verify(init, root) < 1e-6
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/none/all.db")
    with caplog.at_level(logging.WARNING):
        assert fetch.bring(here, [name], root) == brought
    assert "version 1, fetched before, is used" in caplog.text


def test_what_a_registered_backbone_has_seen_its_input_and_its_marks_go_with_it(root: Path) -> None:
    chained = promotions.pretrain(root, "a", "chestxray14", ["synthetic"])
    here, found = finish(root, {chained: 0.0})
    (said, *_) = promote(root, here, found)
    assert said["version"] == "1"
    name = f"registry:{MODEL}/1"
    brought = fetch.bring(here, [name], root)
    init = parse(name, "", brought.inits)
    assert seen(init.canonical) == {"chestxray14"}
    assert recipes.normalization(init) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    receipt = store.ready(init, root)
    assert isinstance(receipt, Lineage)
    assert receipt.marks == ("synthetic",)
    assert brought.inits[name].licence == "not stated; images of chestxray14: CC0"
    with pytest.raises(UserError, match="have seen chestxray14 before"):
        link.check(parse(f"{name}+chestxray14", "", brought.inits), brought, root)


def test_a_chain_is_registered_under_its_strictest_licence_and_keeps_all_when_it_comes_back(root: Path) -> None:
    images = [f"images of set{number}: a licence of many words, {'word ' * 40}." for number in range(30)]
    chain = ("weights a: MIT", *images, "images of chestxray14: CC BY-NC-SA 4.0")
    chained = promotions.pretrain(root, "a", "chestxray14", ["synthetic"], chain)
    here, found = finish(root, {chained: 0.0})
    promote(root, here, found)
    version = client(root).get_model_version(MODEL, "1")
    assert (version.tags["licence"], version.tags["commercial"]) == (chain[-1], "no")
    assert "CC BY-NC-SA 4.0 (of the images of chestxray14): it forbids commercial use" in version.description
    assert "keep it under the same licence" in version.description
    name = f"registry:{MODEL}/1"
    brought = fetch.bring(here, [name], root)
    assert brought.inits[name].licence == licences.joined(chain)
    assert licences.commercial(brought.inits[name].licence) == "no"
    again = timm_folder.gather(parse(name, "", brought.inits), root)
    assert again is not None
    assert again.licences == chain


def test_the_list_of_images_that_a_registered_backbone_has_seen_comes_back_with_it(root: Path) -> None:
    own = {"file": "a.safetensors", "backbone": fakes.BACKBONE, "images": "lists/seen.csv"}
    (root / "lists").mkdir()
    (root / "lists/seen.csv").write_text("image\na_1.png\n")
    here, found = finish(root, {"ours": 0.0}, overrides={"inits": json.dumps({"ours": own})})
    promote(root, here, found)
    shutil.rmtree(root / "lists")
    name = f"registry:{MODEL}/1"
    brought = fetch.bring(here, [name], root)
    record = parse(f"{name}+chexpert", "", brought.inits).record
    assert Path(record.images).name == "seen.csv"
    assert (root / record.images).read_text() == "image\na_1.png\n"
    (root / record.images).unlink()
    assert fetch.bring(here, [name], root) == brought
    assert (root / record.images).is_file()
    client(root).set_model_version_tag(MODEL, "1", "training_list", "0" * 64)
    (root / record.images).unlink()
    with pytest.raises(UserError, match="looked among the artifacts of version 1 for the list of images"):
        fetch.bring(here, [name], root)


def test_an_init_of_ones_own_may_say_what_it_has_seen(root: Path) -> None:
    own = {"file": "a.safetensors", "backbone": fakes.BACKBONE, "datasets": ["chestxray14"]}
    here = promotions.load(root, ["ours"], overrides={"inits": json.dumps({"ours": own})})
    assert seen(parse("ours", "", here.inits).canonical) == {"chestxray14"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"registry:{MODEL}/best", "its aliases: champion"),
        (f"registry:{MODEL}/9", "looked for 9 of"),
        ("registry:other/champion", "there is no such registered model"),
        ("registry:other", "must be registry:<registered model>/<alias or version>"),
    ],
)
def test_a_name_that_the_registry_does_not_hold_is_refused(root: Path, name: str, words: str) -> None:
    here, found = finish(root, {"a": 0.0})
    promote(root, here, found)
    with pytest.raises(UserError, match=words):
        fetch.bring(here, [name], root)


def test_a_registered_init_that_was_not_fetched_is_refused() -> None:
    with pytest.raises(UserError, match="is not fetched"):
        parse(f"registry:{MODEL}/champion", "resnet18")
