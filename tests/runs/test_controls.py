"""Controls as runs: which there are, what they score, and that a planted leak is found by labels drawn anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data.cache import load
from medtransfer.params import Params
from medtransfer.runs import (
    benchmark,
    building,
    controls,
    dry_run,
    feature_cache,
    finetune,
    finished,
    frozen,
    prior,
    status,
)
from medtransfer.runs.run import Run, plan
from medtransfer.training import loader as loading
from tests.support import workspace

EVERY = "[prior, permuted, random-frozen, texture]"
TASKS = ("shenzhen", "montgomery")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Iterator[Path]:
    """A study with data that is prepared once for all tests."""
    folder = tmp_path_factory.mktemp("controls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.chdir(folder)
        yield workspace.make(folder, top, *TASKS)


def settings(root: Path, asked: str = EVERY, **more: str) -> Params:
    given = {"benchmark.controls": asked, "comparison.reference": "random"}
    return parameters.load(root / "params.yaml", given | {k.replace("__", "."): v for k, v in more.items()})


def test_each_control_runs_once_per_task_and_seed_whatever_the_inits(root: Path) -> None:
    params = settings(root, benchmark__seeds="[0, 1]")
    runs = controls.add([], params, root, TASKS)
    assert len({run.digest for run in runs}) == len(runs) == 4 * 2 * 2
    assert {run.init.canonical for run in runs if run.protocol in ("prior", "texture")} == {"none"}
    assert {run.name for run in runs if run.task == "shenzhen" and run.seed == 1} == {
        "none-s1-prior", "random@test_resnet-s1-permuted", "random@test_resnet-s1-linear", "none-s1-texture",
    }  # fmt: skip
    first = next(run for run in runs if run.protocol == "texture")
    assert first.title == "none · shenzhen · s0 · texture"
    other = settings(root, benchmark__seeds="[0, 1]", benchmark__inits="[random, random@test_vit]")
    assert [run.digest for run in controls.add([], other, root, TASKS)] == [run.digest for run in runs]


def test_runs_of_the_benchmark_stay_and_one_that_is_a_control_too_is_there_once(root: Path) -> None:
    params = settings(root, benchmark__protocols="[finetune, linear]")
    own = plan(params, root, ["random"], TASKS, [0], protocols=["finetune", "linear"])
    every = controls.add(own, params, root, TASKS)
    assert every[: len(own)] == own
    assert len(every) == len(own) + 3 * len(TASKS)
    none = settings(root, "[]")
    assert controls.add(own, none, root, TASKS) == own
    plain = plan(none, root, ["random"], TASKS, [0], protocols=["finetune", "linear"])
    assert [run.digest for run in plain] == [run.digest for run in own]


def test_masks_drawn_anew_are_learnt_without_what_moves_images(root: Path) -> None:
    permuted = {run.task: run for run in controls.add([], settings(root, "[permuted]"), root, TASKS)}
    masks = permuted["montgomery"].fields
    assert [masks[f"segmentation.augmentation.{name}"] for name in ("crop", "distortion", "intensity")] == [0, 0, 0.3]
    assert permuted["shenzhen"].fields["classification.augmentation.crop"] == 1.0


def test_controls_are_read_on_nothing_but_their_test(root: Path) -> None:
    worse = {"corruptions__kinds": "[noise]", "corruptions__severities": "[1]"}
    plain = controls.add([], settings(root), root, TASKS)
    asked = controls.add([], settings(root, **worse), root, TASKS)
    assert [run.digest for run in asked] == [run.digest for run in plain]
    assert {name for run in asked for name in finished.results_of(run)} == {*finished.RESULTS}
    (own,) = plan(settings(root, **worse), root, ["random"], ["shenzhen"], [0])
    assert own.corrupted["corruptions.kinds"] == ["noise"]


def test_a_control_has_its_own_line_in_the_grid_unless_it_is_a_run_of_the_benchmark(root: Path) -> None:
    params = settings(root, "[random-frozen, texture]", benchmark__inits="[random]")
    runs = [*plan(params, root, ["random"], ["shenzhen"], [0]), *controls.add([], params, root, ["shenzhen"])]
    inits = ["random@test_resnet"]
    lines = [status._line(run, params.benchmark, inits) for run in runs]
    assert lines == ["random@test_resnet", "control: random-frozen", "control: texture"]
    both = settings(root, "[random-frozen]", benchmark__inits="[random]", benchmark__protocols="[finetune, linear]")
    assert status._line(runs[1], both.benchmark, inits) == "random@test_resnet"


def test_what_several_kinds_of_runs_miss_is_said_once() -> None:
    gaps = [dry_run.Gap("fixed runs of a", "why"), dry_run.Gap("controls of a", "why"), dry_run.Gap("data of b", "no")]
    found = dry_run.Survey([], {}, gaps)
    assert dry_run.gap_lines(found) == ["Missing, fixed runs of a, controls of a: why", "Missing, data of b: no"]


def test_the_survey_counts_controls_and_those_whose_weights_are_not_here(root: Path) -> None:
    elsewhere = settings(root, tasks__shenzhen__cache_size="40")  # of which nothing is prepared
    found = dry_run.survey(elsewhere, root, ["shenzhen"])
    assert (len(found.runs), found.nameless) == (0, {"shenzhen": 5})
    controls.add([], settings(root, "[prior]"), root, ["shenzhen"])  # which prepares
    found = dry_run.survey(settings(root), root, ["shenzhen"])
    assert (len(found.runs), found.nameless) == (5, {"shenzhen": 0})
    away = settings(root, comparison__reference="imagenet@test_vit")
    found = dry_run.survey(away, root, ["shenzhen"])
    assert (len(found.runs), found.nameless) == (4, {"shenzhen": 1})


def test_controls_are_named_before_another_site_is_prepared(root: Path) -> None:
    plain = controls.add([], settings(root), root, ["shenzhen"])
    asked = settings(root, tasks__shenzhen__external="[{task: chexpert, labels: {Tuberculosis: Edema}}]")
    found = dry_run.survey(asked, root, ["shenzhen"])
    assert {run.digest for run in found.runs} == {run.digest for run in plain}
    assert found.nameless == {"shenzhen": 1}  # of the benchmark: its network would be read there
    assert [gap.name for gap in found.gaps] == ["fixed runs of shenzhen"]
    assert "chexpert" in found.gaps[0].words


def test_what_is_no_control_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark.controls"):
        settings(root, "[priors]")
    with pytest.raises(UserError, match=r"benchmark.controls has no duplicates"):
        settings(root, "[prior, prior]")


def dice(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    return float(np.mean([2 * (mask & one).sum() / (mask.sum() + one.sum()) for one in truth]))


def test_priors_are_what_they_are_by_hand_and_texture_is_computed_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = settings(root, "[prior, texture]", benchmark__seeds="[0, 1]", tasks__montgomery__cache_size="32")
    every = controls.add([], params, root, TASKS)
    assert len({feature_cache.folder(run) for run in every if run.protocol == "texture"}) == len(TASKS)
    with caplog.at_level(logging.INFO, "medtransfer"):
        feature_cache.make_all(every)
    assert [text.split(":")[0] for text in caplog.messages if text.startswith("features of")] == [
        f"features of texture on {task}" for task in TASKS
    ]
    found = {(run.task, run.protocol): measured(run) for run in every if run.seed == 0}
    assert found["shenzhen", "prior"][1]["auc"] == 0.5
    folder = next(run for run in every if (run.task, run.protocol) == ("montgomery", "prior")).prepared
    cache = load(folder)
    assert cache.masks is not None
    mean = (cache.masks[cache.rows("train")] & 1).mean(axis=0)
    val, test = ((cache.masks[cache.rows(split)] & 1).astype(bool) for split in ("val", "test"))
    on_val = [dice(mean > threshold, val) for threshold in prior.THRESHOLDS]
    chosen = prior.THRESHOLDS[int(np.argmax(on_val))]
    assert found["montgomery", "prior"][1]["dice"] == pytest.approx(dice(mean > chosen, test), abs=1e-9)
    assert found["montgomery", "prior"][0]["dice"] == pytest.approx(max(on_val), abs=1e-9)
    assert found["shenzhen", "texture"][1]["auc"] > 0.5
    assert found["montgomery", "texture"][1]["dice"] > 0.5


def measured(run: Run) -> tuple[dict[str, float], dict[str, float]]:
    """Does a run without telling MLflow: scores of val and of test."""
    given = run, building.labelled(run), building.loader(run), lambda entry, number: None
    _, val, test, *_ = frozen.run_frozen(*given) if run.frozen else prior.run_prior(*given)
    return val.scores, test.scores


@pytest.mark.slow
def test_a_finished_control_is_found_again_with_all_that_it_leaves(root: Path) -> None:
    runs = controls.add([], settings(root), root, TASKS)
    cells = benchmark.run_all(runs)
    assert benchmark.run_all(runs) == cells
    assert [(cell["protocol"], cell["init"]) for cell in cells if cell["protocol"] in ("prior", "texture")] == [
        ("prior", "none"), ("prior", "none"), ("texture", "none"), ("texture", "none"),
    ]  # fmt: skip
    assert all(finished.whole(run) for run in runs)
    assert {run.protocol for run in runs if (run.folder / "curves.png").is_file()} == {"permuted"}


def test_the_launcher_s_table_says_which_control_a_run_is_of(root: Path) -> None:
    runs = controls.add([], settings(root, "[prior, texture, random-frozen]"), root, ["shenzhen"])
    result = {"task": "shenzhen", "seed": 0, "scores": {}, "cost": {"epochs": 0, "seconds": 1.0}, "mlflow_run_id": "x"}
    table = benchmark.markdown_table(runs, [{**result, "init": run.init.canonical} for run in runs])
    inits = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| shenzhen")]
    assert inits == ["none prior", "none texture", "random@test_resnet linear"]


def test_shares_leave_out_what_is_not_known() -> None:
    truth = np.array([[1, -1, 0], [0, -1, 0], [1, 1, 0], [1, -1, 0]], dtype=np.float32)
    assert prior.label_shares(truth) == pytest.approx([0.75, 1.0, 0.0])
    assert prior.label_shares(truth[:2]) == pytest.approx([0.5, 0.5, 0.0])


def trained(root: Path, seeds: str) -> list[float]:
    fields = {"max_epochs": "10", "lr": "0.003", "batch_size": "8"}
    more = {f"classification__{name}": value for name, value in fields.items()}
    params = settings(root, "[permuted]", benchmark__seeds=seeds, **more)
    found = []
    for run in controls.add([], params, root, ["shenzhen"]):
        finetune.execute(run, lambda progress: None)
        found.append(finished.read_finished(run)["scores"]["test_auc"])
    return found


@pytest.mark.slow
def test_a_pipeline_that_trains_on_test_images_is_found_by_labels_drawn_anew(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: batches of training hold rows of test, whose labels nobody permutes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    images: Any = workspace.CHANGES["phantoms"]["images"]
    monkeypatch.setitem(images, "shenzhen", 120)
    clean = workspace.make(tmp_path, top, "shenzhen")
    honest = trained(clean, "[0, 1, 2, 3, 4]")
    order = loading.Loader.order
    test: list[Any] = []

    def leaky(self: Any, rows: Any, *more: Any) -> Any:
        return order(self, np.concatenate([rows, test[0]]), *more)

    def built(run: Run, *more: Any) -> Any:
        found = train(run, *more)
        test[:] = [found[1].rows("test")]
        return found

    train = building.trainer
    monkeypatch.setattr(loading.Loader, "order", leaky)
    monkeypatch.setattr(building, "trainer", built)
    faulty = trained(clean, "[5, 6, 7, 8, 9]")
    print("honest", honest, "faulty", faulty)
    assert np.mean(faulty) > 0.7 > np.mean(honest)
