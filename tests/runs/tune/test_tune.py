from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.params import Dimension, Params
from medtransfer.results import study as ledger
from medtransfer.results.study import Ledger
from medtransfer.runs.execution.pull import WorkerLost
from medtransfer.runs.run import plan
from medtransfer.runs.tune import space as spaces
from medtransfer.runs.tune import tune
from medtransfer.runs.tune.study import Study
from medtransfer.runs.tune.trial import Job, Outcome
from medtransfer.runs.tune.trial import storage as stored
from tests.support import workspace

FIELDS = {"lr": 1e-3, "batch_size": 8, "optimizer": "adam", "weight_decay": 0.0, "loss": "dice"}
TUNING: dict[str, Any] = {
    "inits": ["random", "random@test_vit"], "tasks": ["shenzhen"], "trials": 5, "startup": 2, "finalists": 2,
    "finalist_seeds": [1001],
    "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": {"choices": [0.0, 1e-3]}},
}  # fmt: skip
FULL = 84
"""images of a training to its full length: 28 images, 3 epochs"""


@pytest.fixture(scope="module")
def root(top: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = workspace.make(tmp_path_factory.mktemp("tuning"), top, "shenzhen")
    tree = yaml.safe_load((made / "params.yaml").read_text())
    tree["tuning"] |= TUNING
    (made / "params.yaml").write_text(yaml.safe_dump(tree))
    return made


def settings(root: Path, **overrides: Any) -> Params:
    return parameters.load(root / "params.yaml", {f"tuning.{k}": json.dumps(v) for k, v in overrides.items()})


@pytest.fixture
def study(root: Path, tmp_path: Path) -> Callable[..., Study]:
    """Opens a study on a database of the test's own; called again, it goes on."""

    def open_study(init: str = "random", **overrides: Any) -> Study:
        run = plan(settings(root, **overrides), root, [init], ["shenzhen"], (1000,))[0]
        return Study(run, 28, f"sqlite:///{tmp_path}/optuna.db")

    return open_study


def outcome(value: float | None, *, images: int = FULL, pruned: bool = False, error: str = "") -> Outcome:
    history = ({"val_loss": value or 0.0},)
    return Outcome(
        history=history, best=value, val=value, best_epoch=0, epochs=1, images=images, seconds=1.0, gpu_seconds=0.0,
        pruned=pruned, error=error,
    )  # fmt: skip


def loss(job: Job) -> Outcome:
    """A loss that is least at lr 3e-3, and a little less with another seed."""
    return outcome(abs(job.run.training.lr - 3e-3) + job.run.training.weight_decay - (0.001 if job.repeat else 0))


def drive(study: Study, answer: Callable[[Job], Outcome | Exception] = loss, jobs: int = 10**6) -> list[Job]:
    """Lets a study ask, one training at a time, until it has nothing more to ask."""
    asked: list[Job] = []
    while len(asked) < jobs and (job := study.take()) is not None:
        asked.append(job)
        study.tell(job, answer(job))
    return asked


def points(found: Ledger, *states: str) -> list[Any]:
    return [tuple(t.params.values()) for t in found.trials if t.state in (states or ledger.COUNTED)]


def test_fields_keep_their_kind() -> None:
    space = {
        "lr": Dimension(low=1e-4, high=1e-2, log=True),
        "batch_size": Dimension(low=8, high=32, step=8),
        "weight_decay": Dimension(choices=(0, 0.1)),
    }
    found = spaces.distributions(space, FIELDS)
    assert [type(found[name]).__name__ for name in space] == [
        "FloatDistribution", "IntDistribution", "CategoricalDistribution",
    ]  # fmt: skip
    assert spaces.holds(found, {"lr": 1e-3, "batch_size": 16, "weight_decay": 0.0})
    assert not spaces.holds(found, {"lr": 1e-5, "batch_size": 16, "weight_decay": 0.0})
    assert not spaces.holds(found, {"lr": 1e-3, "batch_size": 16, "weight_decay": 0.5})


@pytest.mark.parametrize(
    ("value", "log", "flags"),
    [(9e-3, True, 1), (1.05e-4, True, 1), (5e-3, True, 0), (9e-3, False, 0), (1e-4, False, 1)],
)
def test_a_best_value_near_an_end_is_flagged_on_the_scale_of_the_range(value: float, log: bool, flags: int) -> None:
    found = spaces.near_ends({"lr": Dimension(low=1e-4, high=1e-2, log=log)}, {"lr": value}, {})
    assert len(found) == flags
    assert all("space too narrow: the best lr" in flag for flag in found)


def test_an_end_that_the_field_itself_has_is_not_too_narrow() -> None:
    space = {"layer_decay": Dimension(low=0.5, high=1.0)}
    assert spaces.near_ends(space, {"layer_decay": 1.0}, {"layer_decay": (0.0, 1.0)}) == []
    assert len(spaces.near_ends(space, {"layer_decay": 0.5}, {"layer_decay": (0.0, 1.0)})) == 1


def test_a_field_that_changes_the_loss_needs_a_metric_as_monitor() -> None:
    space = {"loss": Dimension(choices=("dice", "bce"))}
    spaces.check(space, "drive", "val_dice")
    with pytest.raises(UserError, match=r"tuning\.space\.loss changes what val_loss means.*Set the monitor"):
        spaces.check(space, "drive", "val_loss")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"space": {"lrr": {"low": 1, "high": 2}}}, r"unknown parameter tuning\.space\.lrr.*nea.*tuning\.space\.lr"),
        ({"space": {"lr": {"low": 3, "high": 1}}}, r"`tuning\.space\.lr: low < high` must hold, got low=3"),
        ({"space": {"lr": {"low": 1}}}, r"tuning\.space\.lr has low and high, or choices"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, r"low > 0 where log is true"),
        ({"space": {"lr": {"low": -1, "high": 1}}}, r"tuning\.space\.lr holds -1\.0, which classification refuses"),
        ({"space": {"optimizer": {"choices": ["adam", "lion"]}}}, r"holds 'lion', which classification refuses"),
        ({"space": {"max_epochs": {"low": 1, "high": 9}}}, "which all trials share"),
        ({"sampler": "grid"}, "grid needs choices or a step"),
        ({"sampler": "cma-es"}, "cma-es needs low and high"),
        ({"seed": 0}, r"tuning's seeds are none of benchmark\.seeds"),
        ({"finalist_seeds": [1000]}, "none of finalist_seeds"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused(root: Path, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settings(root, **overrides)


def test_a_study_spends_its_budget_and_repeats_the_best(study: Callable[..., Study]) -> None:
    opened = study()
    jobs = drive(opened)
    found = opened.ledger()
    assert found.finished
    assert (found.spent, found.budget_images) == (5 * FULL, 5 * FULL)
    assert len(set(points(found))) == len(points(found)) == 5
    assert [(job.number, job.run.seed) for job in jobs if job.repeat] == [(f.number, 1001) for f in found.finalists]
    assert all(job.run.seed == 1000 for job in jobs if not job.repeat)
    best = min((t for t in found.trials), key=lambda t: t.value or 9)
    assert found.values == best.params
    assert found.finalists[0].mean == pytest.approx((best.value or 0) - 0.0005)


def test_the_fixed_recipe_is_the_first_trial_where_it_lies_in_the_space(study: Callable[..., Study]) -> None:
    assert drive(study(), jobs=1)[0].run.training.lr == 1e-3


def test_a_winner_is_named_by_the_mean_over_seeds(study: Callable[..., Study]) -> None:
    opened = study()
    drive(opened, lambda job: outcome(2.0 if job.repeat and job.number == 0 else 0.1 * (1 + job.number)))
    found = opened.ledger()
    assert [f.number for f in found.finalists] == [0, 1]
    assert found.winner == 1


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_continued_study_goes_on_as_if_it_had_not_been_stopped(
    study: Callable[..., Study], root: Path, tmp_path: Path, sampler: str
) -> None:
    whole = study(sampler=sampler, study="whole")
    drive(whole)
    for stop in (1, 3):
        drive(study(sampler=sampler, study="stopped"), jobs=stop)
        dead = study(sampler=sampler, study="stopped")
        assert dead.take() is not None  # asked, and never told: the process died
    last = study(sampler=sampler, study="stopped")
    drive(last)
    found = last.ledger()
    assert points(found) == points(whole.ledger())
    assert found.states() == {"complete": 5, "pruned": 0, "failed": 0, "lost": 2, "repeated": 0}


def test_all_initializations_try_the_same_points_at_random(study: Callable[..., Study]) -> None:
    found = []
    for init in ("random", "random@test_vit"):
        opened = study(init, sampler="random")
        drive(opened)
        found.append(points(opened.ledger()))
    assert found[0] == found[1]


def test_pruned_trials_leave_images_for_more(study: Callable[..., Study]) -> None:
    opened = study()
    drive(opened, lambda job: loss(job) if job.number < 2 else outcome(1.0, images=FULL // 3, pruned=True))
    found = opened.ledger()
    assert found.states() == {"complete": 2, "pruned": 7, "failed": 0, "lost": 0, "repeated": 0}
    assert found.spent <= found.budget_images < found.spent + FULL


def test_a_failed_trial_counts_and_says_why(study: Callable[..., Study]) -> None:
    opened = study()
    drive(opened, lambda job: outcome(None, error="UserError: the loss is nan") if job.number == 1 else loss(job))
    found = opened.ledger()
    assert found.states()["failed"] == 1
    assert found.trials[1].why == "UserError: the loss is nan"
    assert found.spent == 5 * FULL
    assert found.winner != 1


def test_a_point_is_tried_again_when_its_worker_dies_and_fails_the_second_time(study: Callable[..., Study]) -> None:
    opened = study()
    bad: list[float] = []

    def answer(job: Job) -> Outcome | Exception:
        if len(bad) < 1 and job.number == 1:
            bad.append(job.run.training.lr)
        return WorkerLost("killed") if job.run.training.lr in bad and not job.repeat else loss(job)

    drive(opened, answer)
    found = opened.ledger()
    assert (found.states()["lost"], found.states()["failed"]) == (1, 1)
    assert [t.params["lr"] for t in found.trials if t.state in ("lost", "failed")] == [bad[0], bad[0]]
    assert found.finished


def test_a_finalist_whose_worker_died_is_trained_again(study: Callable[..., Study]) -> None:
    opened, deaths = study(), itertools.count()
    drive(opened, lambda job: WorkerLost("killed") if job.repeat and next(deaths) == 0 else loss(job))
    found = opened.ledger()
    assert found.finished
    assert all(f.mean is not None for f in found.finalists)


def test_a_point_is_never_tried_twice_and_a_small_space_is_exhausted(study: Callable[..., Study]) -> None:
    space = {"weight_decay": {"choices": [0.0, 1e-4, 1e-3]}}
    opened = study(space=space, sampler="random", trials=9)
    drive(opened)
    found = opened.ledger()
    assert sorted(points(found)) == [(0.0,), (1e-4,), (1e-3,)]
    assert found.exhausted
    assert found.finished


def test_a_grid_is_tried_whole_and_once(study: Callable[..., Study]) -> None:
    space = {"weight_decay": {"choices": [0.0, 1e-3]}, "lr": {"low": 1e-3, "high": 3e-3, "step": 1e-3}}
    opened = study(space=space, sampler="grid", trials=20)
    drive(opened, jobs=3)
    opened = study(space=space, sampler="grid", trials=20)
    drive(opened)
    found = opened.ledger()
    assert sorted(points(found)) == sorted(itertools.product((0.0, 1e-3), (1e-3, 2e-3, 3e-3)))
    assert found.exhausted


def test_cma_es_goes_on_after_a_stop(study: Callable[..., Study]) -> None:
    space = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "layer_decay": {"low": 0.5, "high": 1.0}}
    drive(study("random@test_vit", space=space, sampler="cma-es", trials=8), jobs=4)
    opened = study("random@test_vit", space=space, sampler="cma-es", trials=8)
    drive(opened)
    assert len(set(points(opened.ledger()))) == 8


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"space": {"lr": {"low": 1e-5, "high": 1e-2, "log": True}}}, r"begun with tuning\.space\.(lr|weight_decay)"),
        ({"space": TUNING["space"] | {"weight_decay": {"choices": [0.0, 1e-2]}}}, r"space\.weight_decay .*0\.01"),
        ({"sampler": "random"}, r"begun with tuning\.sampler 'tpe', got 'random'; restore it, or give .*tuning\.study"),
        ({"trials": 3}, r"a budget can only grow: .* tuning\.trials=5, got 3"),
    ],
)  # fmt: skip
def test_a_study_keeps_what_it_was_begun_with(
    study: Callable[..., Study], overrides: dict[str, Any], words: str
) -> None:
    drive(study(), jobs=1)
    with pytest.raises(UserError, match=words):
        study(**overrides)


def test_a_longer_budget_keeps_what_was_tried(study: Callable[..., Study]) -> None:
    opened = study()
    drive(opened)
    before = points(opened.ledger())
    longer = study(trials=7)
    assert not longer.ledger().finished
    drive(longer)
    assert points(longer.ledger())[:5] == before
    assert len(points(longer.ledger())) == 7


def test_a_budget_is_changed_for_all_or_none(root: Path, tmp_path: Path, top: Path) -> None:
    run = plan(settings(root), root, ["random"], ["shenzhen"], (1000,))[0]
    other = dataclasses.replace(run, root=tmp_path)
    made = Study(run, 28, f"sqlite:///{tmp_path}/a.db").ledger()
    ledger.write(dataclasses.replace(made, init="imagenet@x"), tmp_path / ledger.FOLDER / "shenzhen/x.json")
    tune._refuse_alone([other], tmp_path)
    longer = dataclasses.replace(other, params=settings(root, trials=9))
    with pytest.raises(
        UserError, match=r"for all studies of a task: imagenet@x on shenzhen has tuning\.trials=5, asked for 9"
    ):
        tune._refuse_alone([longer], tmp_path)


def test_hyperband_with_few_trials_is_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = settings(root, pruner="hyperband")
    tune._warn(params, plan(params, root, ["random"], ["shenzhen"], (1000,)))
    assert "hyperband divides 5 trials among 2 brackets" in caplog.text


def test_a_database_that_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:secret@127.0.0.1:9/studies")
    with pytest.raises(UserError, match=r"postgresql://me@127\.0\.0\.1:9/studies cannot be reached") as caught:
        tune.tune(settings(root), root, ["random"], ["shenzhen"])
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def tuned(root: Path, top: Path) -> list[Ledger]:
    """Two studies, trained."""
    code, output = workspace.run(top, root, "tune")
    assert code == 0, output
    return ledger.collect(root / ledger.FOLDER)


def children(root: Path, study: Ledger) -> list[Any]:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    place = client.get_experiment_by_name("medtransfer/tuning")
    assert place is not None
    return list(client.search_runs([place.experiment_id], f"tags.`mlflow.parentRunId` = '{study.mlflow_run_id}'"))


@pytest.mark.slow
def test_studies_of_all_initializations_have_equal_ledgers(tuned: list[Ledger]) -> None:
    assert [study.init for study in tuned] == ["random@test_resnet", "random@test_vit"]
    for study in tuned:
        assert study.finished
        assert study.states() == {"complete": 5, "pruned": 0, "failed": 0, "lost": 0, "repeated": 0}
        assert study.spent == study.budget_images == 5 * FULL
    assert tuned[0].trials[0].params == tuned[1].trials[0].params == {"lr": 1e-3, "weight_decay": 0.0}


@pytest.mark.slow
def test_a_study_is_a_run_and_its_trials_are_below_it(tuned: list[Ledger], root: Path) -> None:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    for study in tuned:
        run = client.get_run(study.mlflow_run_id)
        assert run.info.status == "FINISHED"
        assert run.data.metrics["trials_complete"] == 5
        names = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"history.png", "best.yaml", "random--test_resnet.json"} - names <= {"random--test_resnet.json"}
        runs = children(root, study)
        assert len(runs) == 5 + 2
        first = next(one for one in runs if one.data.tags["trial"] == "0")
        assert first.data.params == {"lr": "0.001", "weight_decay": "0.0"}
        history = client.get_metric_history(first.info.run_id, "val_loss")
        assert [metric.step for metric in history] == [0, 1, 2]


@pytest.mark.slow
def test_a_finished_study_costs_nothing_again(tuned: list[Ledger], root: Path, top: Path) -> None:
    code, output = workspace.run(top, root, "tune")
    assert code == 0, output
    assert ledger.collect(root / ledger.FOLDER) == tuned
    assert len(children(root, tuned[0])) == 7


@pytest.mark.slow
def test_runs_of_the_tuned_recipe_take_the_studies_values_and_stand_beside_the_fixed(
    tuned: list[Ledger], root: Path, top: Path
) -> None:
    both = ["--benchmark.recipes", "[fixed, tuned]", "--benchmark.inits", "[random, random@test_vit]"]
    code, output = workspace.run(top, root, "benchmark", "--task", "shenzhen", *both)
    assert code == 0, output
    cells = [json.loads(path.read_text()) for path in (root / "data/results/cells").rglob("cell.json")]
    assert sorted(cell["recipe"] for cell in cells) == ["fixed", "fixed", "tuned", "tuned"]
    for cell in cells:
        if cell["recipe"] == "tuned":
            study = next(one for one in tuned if one.init == cell["init"])
            assert cell["params"]["classification.lr"] == study.values["lr"]
            assert cell["study"] == {
                "study": study.study, "trial": study.winner, "trials": 5, "images": study.spent,
            }  # fmt: skip
        else:
            assert cell["params"]["classification.lr"] == 1e-3
    only = ["--benchmark.tasks", "[shenzhen]", "--comparison.resamples", "0", "--comparison.reference", "random"]
    code, output = workspace.run(top, root, "compare", *both, *only)
    assert code == 0, output
    page = (root / "data/results/report/comparison.md").read_text()
    for title in ("Fixed recipe and tuned", "Tuning", "Ranking while the budget is spent"):
        assert f"# {title}" in page
    rows = (root / "data/results/report/tables/recipes.csv").read_text().splitlines()
    assert len(rows) == 1 + 2
    code, output = workspace.run(top, root, "compare", *both, *only, "--comparison.recipe", "tuned")
    assert code == 0, output


@pytest.mark.slow
def test_studies_of_other_data_are_not_used(tuned: list[Ledger], root: Path) -> None:
    run = plan(settings(root), root, ["random"], ["shenzhen"], (0,))[0]
    from medtransfer.runs.run import tuned as with_studies

    with pytest.raises(UserError, match="made with other manifest"):
        with_studies([dataclasses.replace(run, manifest_digest="0" * 32)])


def test_a_study_that_another_process_has_is_refused(root: Path) -> None:
    params = settings(root)
    run = plan(params, root, ["random"], ["shenzhen"], (1000,))[0]
    with tune._locked(run, root), pytest.raises(UserError, match="is being tuned by another process"):
        tune.tune(params, root, ["random"], ["shenzhen"])


@pytest.mark.slow
def test_a_pruner_ends_trainings_early(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"sqlite:///{tmp_path}/pruned.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    params = settings(root, pruner="median", startup=1, warmup=0, study="pruned", trials=6, finalists=1)
    [found] = tune.tune(params, root, ["random"], ["shenzhen"])
    assert found.states()["pruned"] > 0
    assert sum(found.states()[state] for state in ledger.COUNTED) > 6
    assert found.spent <= found.budget_images
    (root / ledger.FOLDER / "shenzhen/random--test_resnet.json").unlink()


def _at_work(root: Path) -> bool:
    """Says whether a trial has begun and not ended."""
    storage = stored(tune.url(root))
    studies = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
    return any(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]) for study in studies)


def _killed(top: Path, root: Path, words: list[str], after: int) -> None:
    """Kills `tune` with SIGKILL when so many more trials are in its ledgers."""

    def done() -> int:
        return sum(len(study.trials) for study in ledger.collect(root / ledger.FOLDER))

    start, process = done(), workspace.command(top, root, *words)
    while done() < start + after and process.poll() is None:
        time.sleep(0.05)
    while not _at_work(root) and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "database"), [(1, "sqlite"), (2, "sqlite"), (2, "postgresql")])
def test_killed_twice_every_study_ends_with_its_trials(
    top: Path,
    tmp_path: Path,
    workers: int,
    database: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if database == "postgresql":
        monkeypatch.setenv("OPTUNA_STORAGE", request.getfixturevalue("postgresql"))
    root = workspace.make(tmp_path, top, "shenzhen")
    inits = ["random", "random@test_vit", "random@test_convnext"]
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["tuning"] |= {**TUNING, "inits": inits, "trials": 12}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    words = ["tune", "--execution.workers", str(workers)]
    _killed(top, root, words, after=4)
    _killed(top, root, words, after=9)
    code, output = workspace.run(top, root, *words)
    assert code == 0, output
    found = ledger.collect(root / ledger.FOLDER)
    assert len(found) == 3
    for study in found:
        assert sum(trial.counted for trial in study.trials) == 12
        assert study.states()["complete"] == 12
        assert len(set(points(study))) == 12
        assert study.spent == study.budget_images == 12 * FULL
        runs = children(root, study)
        counted = [one for one in runs if one.data.tags["state"] == "complete"]
        assert sorted(int(one.data.tags["trial"]) for one in counted) == sorted(
            t.number for t in study.trials if t.counted
        )
        assert not [one for one in runs if one.info.status == "RUNNING"]
    assert sum(study.states()["lost"] for study in found) >= 2
