from __future__ import annotations

import json
import random
import shutil
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from numpy.typing import NDArray

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.core.errors import UserError
from medtransfer.data.cache import Prepared
from medtransfer.data.catalog import TASKS
from medtransfer.data.tasks import Task
from medtransfer.report import gallery
from medtransfer.report.figures import drawings
from medtransfer.results import examples as stored
from medtransfer.results.examples import Examples
from medtransfer.runs import benchmark, finished
from medtransfer.runs import run as runs
from medtransfer.training import examples, fitting, networks
from medtransfer.training.trainer import TaskTrainer
from medtransfer.weights import architectures, backbones
from tests.support import fakes, workspace
from tests.support.quick import quick

NAN = float("nan")
PAIR = replace(TASKS["shenzhen"], kind="multilabel", labels=("A", "B b"))
CLASSES = replace(TASKS["shenzhen"], kind="multiclass", labels=("No", "Yes"), metric="balanced_accuracy")
REGIONS = replace(TASKS["montgomery"], labels=("Disc", "Top"))

FORMS = {
    "test_resnet": (64, "first"),
    "test_efficientnet": (64, "first"),
    "test_convnext": (64, "first"),
    "test_mambaout": (64, "last"),
    "swin_tiny_patch4_window7_224": (64, "last"),
    "hiera_tiny_224": (64, "tokens"),
    "test_vit3": (48, "tokens"),
    "test_vit4": (48, "tokens"),
}
"""architecture -> side of the input and layout of timm's last features"""


def build(
    top: Path, folder: Path, task: Task = TASKS["shenzhen"], data: Prepared | None = None, **overrides: str
) -> tuple[TaskTrainer, Prepared]:
    """Builds a trainer whose network sees the cached pixels as they are, in 2 x 2 features."""
    whole = {f"{kind}__crop_fraction": "1.0" for kind in ("classification", "segmentation")}
    sizes = {f"tasks__{task.name}__{name}_size": "64" for name in ("cache", "image")}
    params = fakes.load_params(top, **(whole | sizes | overrides))
    return fakes.assemble(params, task, data or large(folder, task), folder)


def large(folder: Path, task: Task) -> Prepared:
    """Makes a cache of 64 pixels a side."""
    data = fakes.prepared(folder, segmentation=task.segmentation)
    pad = ((0, 0), (12, 12), (12, 12))
    masks = None if data.masks is None else np.pad(data.masks, pad)
    return replace(data, images=np.pad(data.images, pad, mode="reflect"), masks=masks)


def table_of(trainer: TaskTrainer) -> pd.DataFrame:
    collected, _ = trainer.predict("test", views=1)
    return trainer.objective.finish(collected, trainer.rows["test"], None).table


def collected(trainer: TaskTrainer, task: Task = TASKS["shenzhen"]) -> Examples:
    found = examples.collect(trainer, task, table_of(trainer))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("errors", "patients", "worst", "best"),
    [
        ([5, 1, 4, NAN, 3, 0, 2], "abcdefg", [0, 2, 4], [5, 1, 6]),
        ([5, 1, 4, 3, 0, 2, 6], "aabcdef", [6, 0, 2], [4, 5, 3]),
        ([5, 4, 3, 2], "aabb", [0], [3]),
        ([1, 2, 3], "abc", [2, 1], [0]),
        ([7, 7, 7, 7, 7, 7, 7, 7], "abcdefgh", [0, 1, 2], [7, 6, 5]),
        ([NAN, NAN], "ab", [], []),
    ],
)
def test_the_most_extreme_images_are_chosen_one_of_a_patient(
    errors: list[float], patients: str, worst: list[int], best: list[int]
) -> None:
    assert examples.choose(np.array(errors, dtype=np.float64), list(patients)) == (worst, best)


def predictions(targets: list[list[int]], probabilities: list[list[float]], task: Task) -> pd.DataFrame:
    names = [label.replace(" ", "_") for label in task.labels]
    truth = {f"target.{name}": [row[k] for row in targets] for k, name in enumerate(names)}
    return pd.DataFrame(
        truth | {f"probability.{name}": [row[k] for row in probabilities] for k, name in enumerate(names)}
    )


def test_cross_entropy_counts_labels_that_are_defined_and_tested() -> None:
    table = predictions([[1, 0], [0, -1], [1, 1]], [[0.5, 0.2], [0.9, 0.7], [0.0, 1.0]], PAIR)
    expected = [[np.log(2), -np.log(0.8)], [np.log(10), NAN], [-np.log(examples.SMALLEST), 0]]
    np.testing.assert_allclose(examples.cross_entropies(PAIR, table), expected, atol=1e-12)
    only = examples.cross_entropies(replace(PAIR, tested=("B b",)), table)
    assert np.isnan(only[:, 0]).all()
    np.testing.assert_allclose(only[:, 1], [-np.log(0.8), NAN, 0], atol=1e-12)


def test_cross_entropy_of_classes_is_that_of_the_true_one() -> None:
    table = predictions([[1, 0], [0, 1]], [[0.3, 0.7], [0.4, 0.6]], CLASSES)
    np.testing.assert_allclose(examples.cross_entropies(CLASSES, table), [[-np.log(0.3), NAN], [NAN, -np.log(0.6)]])


def test_dice_sums_labels_and_two_empty_masks_agree() -> None:
    one = {"intersection": [0, 3, 0], "predicted": [0, 4, 5], "target": [0, 4, 0]}
    assert examples.dice(TASKS["montgomery"], pd.DataFrame(one)).tolist() == [1.0, 0.75, 0.0]
    two = {f"{name}.Disc": values for name, values in one.items()} | {f"{name}.Top": [1, 1, 5] for name in one}
    np.testing.assert_allclose(examples.dice(REGIONS, pd.DataFrame(two)), [1.0, 8 / 10, 10 / 15])


@pytest.mark.parametrize(
    ("losses", "targets", "kind", "label"),
    [
        ([0.1, 2.0, 0.5], [1, 0, 1], "worst", 1),
        ([0.1, 2.0, 0.5], [1, 0, 1], "best", 0),
        ([0.1, 0.2, 0.3], [0, 0, 0], "best", 2),
        ([NAN, 0.2, 0.3], [1, 0, 0], "best", 2),
        ([NAN, 0.7], [0, 1], "worst", 1),
    ],
)
def test_the_label_that_an_image_is_shown_with(losses: list[float], targets: list[int], kind: str, label: int) -> None:
    assert examples.shown_label(np.array(losses), np.array(targets), kind) == label


def classifier(backbone: str, side: int) -> Any:
    torch.manual_seed(0)
    return networks.Classifier(backbone, 2, side).eval()


def places(features: torch.Tensor, layout: str, prefix: int) -> list[torch.Tensor]:
    """Lists views of the features, one of each place in reading order."""
    if layout == "first":
        return [features[0, :, y, x] for y in range(features.shape[2]) for x in range(features.shape[3])]
    if layout == "last":
        return [features[0, y, x] for y in range(features.shape[1]) for x in range(features.shape[2])]
    return list(features[0, prefix:])


@pytest.mark.parametrize("backbone", FORMS)
def test_evidence_is_what_the_logit_gains_when_the_features_of_a_place_grow(backbone: str) -> None:
    side, layout = FORMS[backbone]
    model = classifier(backbone, side).double()
    inputs = torch.randn(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = examples.evidence(model, inputs, 1)
    assert found is not None
    assert found.shape[0] == found.shape[1] > 1

    def gain(place: int) -> float:
        logits = []
        for factor in (1 + 1e-5, 1 - 1e-5):
            features = model.backbone.forward_features(inputs).clone()
            places(features, layout, getattr(model.backbone, "num_prefix_tokens", 0))[place].mul_(factor)
            logits.append(float(model.head(model.backbone.forward_head(features))[0, 1]))
        return (logits[0] - logits[1]) / 2e-5

    with torch.no_grad():
        gains = [gain(place) for place in range(found.numel())]
    assert max(map(abs, gains)) > 1e-6
    np.testing.assert_allclose(found.flatten(), gains, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("padding", ["", "pool", "all"])
def test_under_average_pooling_evidence_is_the_class_activation_map(padding: str) -> None:
    spec = fitting.NetworkSpec(backbone="test_resnet", image_size=96, padding=padding)
    model: Any = networks.classifier(spec, 2, backbones.bare_state("test_resnet", 0, "one"), 0)
    inputs = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.eval().backbone.forward_features(inputs)[0]
        activation = torch.einsum("c,chw->hw", model.head.weight[1], features)
        logit = model(inputs)[0, 1]
    found = examples.evidence(model, inputs, 1)
    assert found is not None
    np.testing.assert_allclose(found, activation / 9, rtol=1e-4, atol=1e-7)
    assert float(found.sum() + model.head.bias[1].detach()) == pytest.approx(float(logit.detach()), abs=1e-5)


def test_features_that_are_no_grid_have_no_map() -> None:
    assert examples.evidence(classifier("test_resnet", 32), torch.zeros(1, 3, 32, 32), 0) is None
    with torch.device("meta"):
        for backbone in ("crossvit_tiny_240", "volo_d1_224", "pit_ti_224"):
            side = architectures.published_side(backbone)
            assert examples.evidence(classifier(backbone, side), torch.empty(1, 3, side, side), 0) is None


@pytest.mark.slow
def test_every_family_of_timm_has_a_map_or_none() -> None:
    firsts = {timm.models._registry._model_to_module[name]: name for name in reversed(timm.list_models())}
    without, count = set(), 0
    with torch.device("meta"):
        for name in firsts.values():
            side = architectures.published_side(name)
            try:
                model = classifier(name, side)
            except architectures.REFUSALS:  # an encoder that cannot be a classifier
                continue
            count += 1
            found = examples.evidence(model, torch.empty(1, 3, side, side), 0)
            if found is None:
                without.add(type(model.backbone).__name__)
            else:
                assert found.shape[0] == found.shape[1] > 1
    assert count > 70
    assert without <= {"CoaT", "CrossVit", "EfficientViM", "PoolingVisionTransformer", "VOLO"}


def test_maps_are_scaled_to_their_strongest_place(top: Path, tmp_path: Path) -> None:
    trainer, data = build(top, tmp_path)
    found = collected(trainer)
    assert found.kind.tolist() == ["worst"] * 3 + ["best"] * 3
    assert found.score[:3].min() >= found.score[3:].max()
    assert found.maps.shape == (6, 2, 2)
    assert found.maps.dtype == np.float16
    assert np.abs(found.maps).max(axis=(1, 2)).tolist() == [1.0] * 6
    assert str(found.note) == ""
    raw = examples.evidence(trainer.model, next(iter(trainer.loader.evaluate(row_of(data, found, 0), 1))).inputs, 0)
    assert raw is not None
    np.testing.assert_allclose(found.maps[0], raw / raw.abs().max(), atol=1e-3)


def row_of(data: Prepared, found: Examples, place: int) -> NDArray[np.int64]:
    """Finds the cached image that an example shows."""
    return np.flatnonzero((data.images == found.images[place]).all(axis=tuple(range(1, data.images.ndim))))


def test_an_example_shows_the_pixels_the_target_and_the_tested_probability(top: Path, tmp_path: Path) -> None:
    trainer, data = build(top, tmp_path)
    table, found = table_of(trainer), collected(trainer)
    for place in range(6):
        (row,) = row_of(data, found, place)
        (tested,) = np.flatnonzero(trainer.rows["test"] == row)
        assert found.targets[place, 0] == table["target.Tuberculosis"][tested]
        assert found.predictions[place, 0] == np.float32(table["probability.Tuberculosis"][tested])
        of_target = abs(1 - found.targets[place, 0] - found.predictions[place, 0])
        assert found.score[place] == pytest.approx(-np.log(of_target), rel=1e-5)


def test_the_head_of_a_class_token_gives_no_map_and_says_so(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "BACKBONE", "test_vit")
    found = collected(build(top, tmp_path)[0])
    assert found.maps.size == 0
    assert str(found.note) == examples.NO_PLACE
    assert len(found.images) == 6


def test_colour_images_keep_their_channels(top: Path, tmp_path: Path) -> None:
    data = large(tmp_path, TASKS["shenzhen"])
    colour = replace(data, images=np.stack([data.images, data.images // 2, data.images // 4], axis=-1))
    found = collected(build(top, tmp_path, data=colour)[0])
    assert found.images.shape == (6, 64, 64, 3)
    assert len(row_of(colour, found, 0)) == 1


def test_masks_are_those_that_were_scored(top: Path, tmp_path: Path) -> None:
    data = large(tmp_path, REGIONS)
    assert data.masks is not None
    upper = np.where(np.arange(64) < 20, 2, 0).astype(np.uint8)[:, None]
    trainer, _ = build(top, tmp_path, REGIONS, replace(data, masks=data.masks | upper))
    found = collected(trainer, REGIONS)
    assert found.segmentation
    assert found.targets.shape == found.predictions.shape == (6, 2, 64, 64)
    assert found.targets[:, 1, :20].all()
    assert not found.targets[:, 1, 20:].any()
    overlap = (found.targets & found.predictions).sum(axis=(1, 2, 3))
    total = found.targets.sum(axis=(1, 2, 3)) + found.predictions.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(found.score, 2 * overlap / total, rtol=1e-6)
    assert found.score[:3].max() <= found.score[3:].min()


def test_classes_are_shown_with_the_true_one(top: Path, tmp_path: Path) -> None:
    data = large(tmp_path, TASKS["shenzhen"])
    table = data.samples.rename(columns={"Tuberculosis": "Yes"}).assign(No=lambda t: 1 - t["Yes"])
    found = collected(build(top, tmp_path, CLASSES, replace(data, read_samples=lambda: table))[0], CLASSES)
    assert found.labels.tolist() == ["No", "Yes"]
    assert found.shown.tolist() == found.targets.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.score, -np.log(found.predictions[range(6), found.shown]), rtol=1e-5)


def test_a_fold_shows_its_own_test_images_one_of_a_patient(top: Path, tmp_path: Path) -> None:
    data = large(tmp_path, TASKS["shenzhen"])
    turned = np.roll(data.samples["split"].to_numpy(), 20)
    patients = [f"p{row // 4}" for row in range(len(data.samples))]
    folded = replace(data, read_samples=lambda: data.samples.assign(patient=patients, **{"split.1": turned}))
    found = collected(build(top, tmp_path, data=folded.of_fold(1))[0])
    shown = [int(row_of(data, found, place)[0]) for place in range(len(found.kind))]
    assert found.kind.tolist() == ["worst", "best"]
    assert set(shown) <= set(np.flatnonzero(turned == "test"))
    assert len({patients[row] for row in shown}) == 2


def test_a_test_without_defined_labels_has_no_examples(top: Path, tmp_path: Path) -> None:
    trainer, _ = build(top, tmp_path)
    assert examples.collect(trainer, TASKS["shenzhen"], table_of(trainer).assign(**{"target.Tuberculosis": -1})) is None


@pytest.mark.parametrize("task", [TASKS["shenzhen"], TASKS["montgomery"]], ids=lambda task: task.name)
def test_collecting_draws_nothing_and_changes_nothing(top: Path, tmp_path: Path, task: Task) -> None:
    trainer, _ = build(top, tmp_path, task)
    table = table_of(trainer)
    before = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    trainer.model.train()  # a model left so must not be learned from or dropped out of
    first, again = (examples.collect(trainer, task, table) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state(legacy=False)) == str(states[1])
    assert random.getstate() == states[2]
    assert all(torch.equal(tensor, before[key]) for key, tensor in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))


@pytest.mark.slow
def test_what_is_saved_is_read_back_and_names_nobody(top: Path, tmp_path: Path) -> None:
    trainer, data = build(top, tmp_path)
    found = collected(trainer)
    for name in ("a.npz", "b.npz"):
        stored.save(tmp_path / name, found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = stored.load(tmp_path / "a.npz")
    for field in fields(Examples):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(found, field.name))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        words = {word for name in archive for word in archive[name].ravel().tolist() if archive[name].dtype.kind == "U"}
    assert words == {"worst", "best", "Tuberculosis", ""}
    assert not words & {*data.samples["id"], *data.samples["patient"]}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive} | changes
    with open(path, "wb") as stream:
        np.savez_compressed(stream, **{name: array for name, array in arrays.items() if array is not None})


def lose_an_array(path: Path) -> None:
    rewrite(path, targets=None)


def lose_an_image(path: Path) -> None:
    rewrite(path, images=np.zeros((2, 64, 64), np.uint8))


def pickle_an_array(path: Path) -> None:
    rewrite(path, labels=np.array([{}], dtype=object))


def be_a_plain_array(path: Path) -> None:
    with open(path, "wb") as stream:
        np.save(stream, np.zeros(3))


@pytest.mark.parametrize(
    "damage", [cut, empty, flip, lose_an_array, lose_an_image, pickle_an_array, be_a_plain_array, Path.unlink]
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / stored.FILE
    stored.save(path, drawn())
    stored.load(path)
    damage(path)
    with pytest.raises(UserError, match=r"looked for the examples of a run in .*examples\.npz.*delete it"):
        stored.load(path)


@pytest.mark.parametrize("task", quick(["shenzhen", "montgomery"], "montgomery"))
@pytest.mark.slow
def test_a_run_keeps_examples_for_itself_and_its_numbers_are_those_without(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    workspace.make(tmp_path, top, task)
    params = parameters.load(tmp_path / "params.yaml", {})
    monkeypatch.chdir(tmp_path)
    cells = []
    for name in ("without", "with"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/{name}.db")
        (run,) = runs.plan(params, tmp_path, ["random"], [task], [0])
        shutil.rmtree(run.folder, ignore_errors=True)
        with monkeypatch.context() as patch:
            if name == "without":
                patch.setattr(examples, "collect", lambda *_: None)
            cells += benchmark.run_all([run])
        benchmark.write_results([run], tmp_path / name)
        assert (tmp_path / name / run.digest / stored.FILE).is_file() == (name == "with")
    assert numbers(cells[0]) == numbers(cells[1])
    assert len(stored.load(run.folder / stored.FILE).images) > 1
    client = tracking.connect(tmp_path)
    assert stored.FILE not in {file.path for file in client.list_artifacts(cells[1]["mlflow_run_id"])}
    shutil.rmtree(run.folder)
    assert benchmark.run_all([run]) == cells[1:]  # restored from MLflow, without examples
    benchmark.write_results([run], tmp_path / "restored")
    assert {file.name for file in (tmp_path / "restored" / run.digest).iterdir()} == set(finished.RESULTS)


def numbers(cell: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what no two runs share: times and the name in MLflow."""
    timed = ("seconds", "gpu_seconds", "images_per_second")
    kept = json.loads(json.dumps(cell), object_hook=lambda d: {k: v for k, v in d.items() if k not in timed})
    return {key: value for key, value in kept.items() if key not in ("mlflow_run_id", "finished")}


def drawn(*, masks: bool = False, note: str = "", count: int = 6) -> Examples:
    """Makes examples from a seed."""
    rng = np.random.default_rng(0)
    kind = np.array(["worst"] * (count - count // 2) + ["best"] * (count // 2))
    regions = rng.integers(0, 2, (2, count, 1, 64, 64)).astype(np.int8)
    regions[1, 0] = 0
    mapless = masks or bool(note)
    return Examples(
        kind=kind,
        score=np.linspace(1, 0.03, count),
        labels=np.array(["Enlarged Cardiomediastinum of a very long name"]),
        images=rng.integers(0, 256, (count, 64, 64), dtype=np.uint8),
        targets=regions[0] if masks else np.ones((count, 1), np.int8),
        predictions=regions[1] if masks else np.full((count, 1), 0.03, np.float32),
        shown=np.zeros(0 if masks else count, np.int64),
        maps=np.zeros((0, 0, 0), np.float16) if mapless else rng.uniform(-1, 1, (count, 7, 7)).astype(np.float16),
        note=np.array(note),
    )


def captions(found: Examples) -> list[str]:
    """Draws a gallery without a warning, and lists the visible captions from the best to the worst."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = gallery.figure(found, "imagenet on shenzhen")
        drawings.to_png(picture)
    axes = [axes for axes in picture.axes if axes.get_visible() and axes.images]
    assert [axes.get_ylabel() for axes in axes if axes.get_ylabel()] == [
        k for k in ("best", "worst") if k in found.kind
    ]
    return [axes.get_xlabel() for axes in axes]


def test_the_gallery_says_label_target_and_probability() -> None:
    (caption, *others) = captions(drawn())
    assert caption == "Enlarged Cardiomediastinum of a\nvery long name:\ntarget 1, p = 0.03"
    assert len(others) == 5


def test_the_gallery_says_dice_and_draws_empty_masks() -> None:
    assert captions(drawn(masks=True))[::5] == ["Dice 0.42", "Dice 0.61"]


@pytest.mark.parametrize("count", [1, 3])
def test_the_gallery_draws_fewer_images_than_it_could(count: int) -> None:
    assert len(captions(drawn(count=count))) == count


def test_the_gallery_says_why_there_is_no_map() -> None:
    picture = gallery.figure(drawn(note=examples.NO_PLACE), "imagenet on shenzhen")
    assert picture.get_supxlabel() == examples.NO_PLACE
    assert all(len(axes.images) == 1 for axes in picture.axes)
