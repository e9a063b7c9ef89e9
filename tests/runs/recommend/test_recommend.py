from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import medtransfer as mt
from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.cli.main import run as command
from medtransfer.core.errors import UserError
from medtransfer.data import catalog, prepare
from medtransfer.data.cache import load as load_cache
from medtransfer.params import OwnInit
from medtransfer.results import recommendation
from medtransfer.results.recommendation import Recommendation
from medtransfer.runs import benchmark, building, finetune, finished
from medtransfer.runs.recommend import candidates, jobs, ledger
from medtransfer.runs.recommend import recommend as race
from medtransfer.runs.recommend.field import seeds_of
from medtransfer.runs.recommend.rates import Rates, enter
from medtransfer.runs.run import plan
from medtransfer.statistics.race import Rules
from medtransfer.weights.names import parse
from tests.support import workspace

FIELD = "random,random@test_nfnet,random@test_efficientnet"


@pytest.fixture
def root(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return study(tmp_path, top, monkeypatch)


def study(folder: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(folder)
    made = workspace.make(folder, top, "shenzhen")
    tree = yaml.safe_load((made / "params.yaml").read_text())
    tree["classification"]["max_epochs"] = 2
    tree["comparison"] |= {"reference": "random", "against": []}
    tree["recommend"] |= {"seeds": 2, "first_seeds": 2, "rungs": [0.5, 1.0]}
    (made / "params.yaml").write_text(yaml.safe_dump(tree))
    return made


def load(root: Path, **overrides: str) -> parameters.Params:
    return parameters.load(root / "params.yaml", {k.replace("__", "."): v for k, v in overrides.items()})


def answer(root: Path, task: str = "shenzhen") -> Recommendation:
    found = recommendation.read(recommendation.path(root, task))
    assert found is not None
    return found


def test_a_race_ends_in_three_sentences_a_page_and_runs_that_a_benchmark_finds_finished(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(["recommend", "shenzhen", "--minutes", "10", "--candidates", FIELD], root)
    found = answer(root)
    assert found.raced == 3
    assert found.looks == 2
    assert found.pick in {one.init for one in found.candidates if one.status == "pick"}
    assert {one.status for one in found.candidates} <= {"pick", "level", "racing", "dropped"}
    assert len(found.sentences) == 3
    said = capsys.readouterr().out.replace("\n", " ")
    assert all(word in said for word in found.sentences[0].split())
    page = (root / "data/recommend/shenzhen/index.html").read_text()
    assert found.sentences[0].replace("'", "&#39;") in page
    assert "Synthetic phantoms" in page

    # The runs are ordinary ones: test was read of the pick and of the reference alone.
    params = load(root)
    both = list(dict.fromkeys((found.pick or "", found.reference)))
    runs = plan(params, root, both, ["shenzhen"], (0, 1))
    assert all(finished.whole(run) for run in runs)
    assert sorted(found.test_runs) == sorted(run.digest for run in runs)
    others = plan(params, root, [c.init for c in found.candidates if c.init not in both], ["shenzhen"], (0, 1))
    assert not any((run.folder / "cell.json").is_file() for run in others)
    assert not any("test" in path.name for run in others for path in run.folder.iterdir())

    # What a finished run scores on val is what the race saw of it.
    for init in both:
        seen = next(point for point in found.points[::-1] if point.init == init)
        own = [run for run in runs if run.init.canonical == init]
        scores = [finished.read_finished(run)["scores"]["best_val_auc"] for run in own]
        assert seen.score == pytest.approx(np.mean(scores), abs=1e-12)

    # A parent run in MLflow, its stages and trainings below it.
    client = tracking.connect(root)
    experiment = client.get_experiment_by_name("medtransfer/shenzhen")
    held = list(client.search_runs([experiment.experiment_id]))
    parent = next(run for run in held if run.info.run_name == "recommend · shenzhen")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["pick"] == found.pick
    assert found.sentences[0] in parent.data.tags["mlflow.note.content"]
    below = [run for run in held if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    stages = {run.data.tags["stage"] for run in below if "stage" in run.data.tags}
    assert stages == {"features and probes", "round 1", "round 2", "race", "the end"}
    assert {run.data.tags["digest"] for run in below if "stage" not in run.data.tags} == {
        run.digest for run in (*runs, *others)
    }

    # A second call costs nothing.
    begun = {path: path.stat().st_mtime_ns for path in root.rglob("*") if "mlflow.db" not in path.name}
    command(["recommend", "shenzhen", "--minutes", "10", "--candidates", FIELD], root)
    again = {path: path.stat().st_mtime_ns for path in root.rglob("*") if "mlflow.db" not in path.name}
    assert {path for path in again if path.is_file() and begun.get(path) != again[path]} <= {
        path for path in again if "/runs/raw" in str(path)
    }
    assert mt.recommend("shenzhen", minutes=10, candidates=FIELD.split(","), root=root) == found


def test_without_time_it_answers_undecided_and_trains_nothing(root: Path) -> None:
    command(["recommend", "shenzhen", "--minutes", "0.01", "--candidates", FIELD], root)
    found = answer(root)
    assert found.verdict == "undecided"
    assert found.looks == 0
    assert found.probability is None
    assert "Undecided" in found.sentences[0]
    assert "not at all" in found.sentences[1]
    assert not list(root.glob("data/runs/*/checkpoint.pt"))


@pytest.mark.slow
def test_a_candidate_that_cannot_be_trained_is_named_and_the_race_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = finetune.advance

    def diverges(run: Any, *rest: Any) -> Any:
        if run.init.backbone == "test_efficientnet":
            raise UserError("the training loss of epoch 0 is nan")
        return real(run, *rest)

    monkeypatch.setattr(finetune, "advance", diverges)
    (root / "broken.pth").write_bytes(b"no weights")
    field = f"{FIELD},file:{root}/broken.pth"
    command(["recommend", "shenzhen", "--minutes", "10", "--candidates", field], root)
    found = answer(root)
    assert found.of("random@test_efficientnet").status == "failed"
    assert "loss of epoch 0 is nan" in found.of("random@test_efficientnet").why
    out = {one.init: one.why for one in found.candidates if one.status == "left out"}
    assert len(out) == 1
    assert found.pick in ("random@test_resnet", "random@test_nfnet")
    assert found.pick != "random@test_efficientnet"


@pytest.mark.slow
def test_a_race_that_was_cut_off_three_times_goes_on_to_the_same_pick(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recommend", "shenzhen", "--minutes", "10", "--candidates", FIELD]
    first = study(tmp_path / "first", top, monkeypatch)
    command(words, first)
    whole = answer(first)

    real, calls = jobs.work, 0

    def cut(job: Any, report: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (2, 6, 11):  # a probe, and trainings of two rounds
            raise KeyboardInterrupt
        return real(job, report)

    second = study(tmp_path / "second", top, monkeypatch)
    monkeypatch.setattr(race, "work", cut)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            command(words, second)
    command(words, second)
    again = answer(second)
    assert (again.pick, again.equals, again.verdict) == (whole.pick, whole.equals, whole.verdict)
    assert [(p.init, p.score, p.status) for p in again.points] == [(p.init, p.score, p.status) for p in whole.points]
    assert again.probability == whole.probability


@pytest.mark.slow
def test_a_race_that_was_killed_three_times_ends_with_the_same_pick(
    tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["recommend", "--task", "shenzhen", "--minutes", "20", "--candidates", FIELD, "--execution.workers", "2"]
    first, second = (study(tmp_path / name, top, monkeypatch) for name in ("first", "second"))
    code, said = workspace.run(top, first, *words)
    assert code == 0, said
    for progress in (1, 3, 8):  # events that are written down: in the probes, and in both rounds
        process = workspace.command(top, second, *words)
        end = time.monotonic() + 200
        while _events(second) < progress and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert _events(second) >= progress
        assert recommendation.read(recommendation.path(second, "shenzhen")) is None
    code, said = workspace.run(top, second, *words)
    assert code == 0, said
    whole, again = answer(first), answer(second)
    assert (again.pick, again.equals, again.verdict) == (whole.pick, whole.equals, whole.verdict)
    assert [(p.init, p.score, p.status) for p in again.points] == [(p.init, p.score, p.status) for p in whole.points]
    assert again.probability == whole.probability
    code, said = workspace.run(top, second, *words)
    assert "this was answered before" in said


def _events(root: Path) -> int:
    """Counts what a race has written down: probes and trainings."""
    paths = list(root.glob("data/runs/*/ledger.json"))
    if not paths:
        return 0
    tree = json.loads(paths[0].read_text())
    return len(tree["probes"]) + len(tree["trained"])


def test_a_training_pauses_at_an_epoch_and_goes_on_to_the_numbers_of_one_that_did_not(root: Path) -> None:
    run = plan(load(root), root, ["random"], ["shenzhen"], (0,))[0]
    fit, val, complete = finetune.advance(run, 1, lambda: False, lambda progress: None)
    assert (fit.epoch, complete) == (1, False)
    values, _ = jobs.contributions(run.record, val)
    assert values is not None
    assert values.mean() == pytest.approx(fit.history[0]["val_auc"], abs=1e-9)
    assert finetune.advance(run, 2, lambda: True, lambda progress: None)[0].epoch == 1  # time is over
    fit, _, complete = finetune.advance(run, 2, lambda: False, lambda progress: None)
    assert (fit.epoch, complete) == (2, True)
    built, _ = building.trainer(run)
    built.folder = root / "straight"
    built.folder.mkdir()
    straight = built.run(lambda metrics, epoch: None, lambda progress: None)
    assert [_plain(line) for line in straight.history] == [_plain(line) for line in fit.history]


def _plain(line: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "images_per_second"}


def test_a_run_that_went_further_is_scored_as_it_was_at_the_rung(root: Path) -> None:
    run = plan(load(root), root, ["random"], ["shenzhen"], (0,))[0]
    first = finetune.advance(run, 1, lambda: False, lambda progress: None)[0].history[0]["val_auc"]
    benchmark.run_all([run])
    job = jobs.Stretch(run=run, epochs=1, until=time.time() + 100, values=root / "x.npy")
    found = jobs.train(job, lambda progress: None)
    assert found.score == pytest.approx(first, abs=1e-12)
    assert np.load(root / "x.npy").mean() == pytest.approx(first, abs=1e-9)
    assert found.epochs == 1


def test_probes_score_val_and_transferability_train(root: Path) -> None:
    run = plan(load(root), root, ["random@test_nfnet"], ["shenzhen"], (0,), protocols=["linear"])[0]
    found = jobs.probe(jobs.Probe(run=run))
    assert set(found.scores) == {"linear", "knn", "logme", "h_score"}
    assert all(value is not None and math.isfinite(value) for value in found.scores.values())
    result = finetune.execute(run, lambda progress: None)
    assert found.scores["linear"] == pytest.approx(result["scores"]["best_val_auc"])
    assert len(load_cache(run.prepared).images) > 0


@pytest.mark.parametrize(
    ("budget", "entered"),
    [(100.0, ["a", "b", "c"]), (8.0, ["a", "c"]), (5.0, ["a", "c"]), (3.0, []), (2.0, [])],
)
def test_as_many_enter_as_the_time_reaches_for_and_none_alone(budget: float, entered: list[str]) -> None:
    assert enter(["a", "b", "c"], {"a": 3.0, "b": 6.0, "c": 2.0}, budget) == entered


def test_the_reference_enters_first(root: Path) -> None:
    assert enter(["a", "b", "c"], {"a": 3.0, "b": 6.0, "c": 2.0}, 8.0, "b") == ["b", "c"]


def test_rates_are_those_measured_and_guesses_are_scaled_by_them() -> None:
    rates = Rates(guesses={"a": 2.0, "b": 4.0})
    assert rates.epoch("b") == 4.0
    done = jobs.Trained(epochs=2, score=0.5, seconds=8.0, wall=9.0, complete=False)
    rates.trained("a", done, 2)
    assert rates.epoch("a") == 4.0
    assert rates.epoch("b") == 8.0
    assert rates.stretch("b", 3) == pytest.approx(1.0 + 24.0)
    assert rates.stretch("b", 0) == 0.0


def test_who_takes_part_is_said_with_a_reason(root: Path) -> None:
    params = load(root, recommend__use="commercial", recommend__max_parameters="1000000")
    settings = dataclasses.replace(
        params.recommend, candidates=("random@resnet18", "moco-v2", "random@test_nfnet", "random", "random+shenzhen")
    )
    params = dataclasses.replace(params, recommend=settings)

    found, out = candidates.choose(params, root, catalog.lookup("shenzhen", root))
    assert {init.canonical for init in found} == {"random@test_resnet", "random@test_nfnet"}
    reasons = {one.init: one.why for one in out}
    assert "11.2 million parameters, at most 1" in reasons["random@resnet18"]
    assert "commercial use is unclear" in reasons["moco-v2@resnet50"]
    assert "pre-trained on the task's own dataset" in reasons["random@test_resnet+shenzhen"]


def test_weights_whose_training_list_holds_images_of_val_or_test_take_no_part(root: Path) -> None:
    task, params = catalog.lookup("shenzhen", root), load(root)
    samples = prepare.prepare(task, params, root).samples
    names = samples["id"][samples["split"].isin(["val", "test"])].tolist()
    (root / "seen.txt").write_text("\n".join(names[:4]))
    (root / "train.txt").write_text("\n".join(samples["id"][samples["split"] == "train"]))

    def why(name: str) -> str:
        entries = {name: OwnInit(file="w.pth", backbone="test_resnet", images=f"{name}.txt")}
        return candidates._unfit(parse(name, "", entries), params, root, task)

    assert why("seen") == f"4 of {len(names)} images of val and test are in its training list seen.txt"
    assert not why("train")


def test_a_chain_has_the_strictest_licence_of_its_weights_and_images(root: Path) -> None:
    def of(name: str) -> str:
        return candidates.strictest_licence(parse(name, "resnet50"), root)

    assert of("random") == ""
    assert of("random+chexpert").startswith("images of chexpert: Stanford University")
    assert of("swav+chestxray14") == "weights swav: CC-BY-NC-4.0"
    assert of("imagenet+chexpert").startswith("images of chexpert")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "soon"], "--minutes must be a number above 0, got 'soon'"),
        (["--minutes", "1", "--hours", "1"], "the same time"),
        (["--use", "fun"], "--use must be research or commercial, got 'fun'"),
        (["--max-parameters", "many"], "--max-parameters must be a number such as 30M, got 'many'"),
        (["--candidates", "random,mystery"], "unknown init 'mystery'"),
        (["--candidates", "random,file:nothere.pth"], "found none"),
        (["--candidates", "random"], "two candidates or more on shenzhen, found 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(root: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        command(["recommend", "shenzhen", *words], root)
    assert message in str(refusal.value)


def test_python_asks_for_what_the_command_line_does(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medtransfer.cli.recommend import asked_for

    asked: list[parameters.Params] = []
    monkeypatch.setattr("medtransfer.runs.recommend.answer.answer", lambda params, *_, **__: asked.append(params))
    mt.recommend("shenzhen", hours=0.5, use="commercial", max_parameters=2_500_000, candidates=["random"], root=root)
    assert asked == [asked_for(load(root), "params", "0.5", "commercial", "2.5M", "random")]
    with pytest.raises(mt.UserError, match="the same time"):
        mt.recommend("shenzhen", hours=1, minutes=60, root=root)
    with pytest.raises(mt.UserError, match=r"recommend\.use must be one of"):
        mt.recommend("shenzhen", use="fun", root=root)


def test_max_parameters_takes_either_spelling(root: Path) -> None:
    from medtransfer.cli.recommend import asked_for

    asked = asked_for(load(root), "params", "0.5", "commercial", "2.5M", "a, b")
    assert asked.recommend.minutes == 30
    assert asked.recommend.max_parameters == 2_500_000
    assert asked.recommend.candidates == ("a", "b")


def test_withdrawn_candidates_keep_their_last_look(tmp_path: Path) -> None:
    trained = {
        f"{init}{seed}-{epochs}": jobs.Trained(
            epochs=epochs, score=score + seed / 100, seconds=1.0, wall=1.0, complete=False
        )
        for epochs in (1, 2)
        for init, score in (("a", 0.9), ("b", 0.5), ("c", 0.7))
        for seed in (0, 1, 2)
    }
    digests = {(init, seed): f"{init}{seed}" for init in "abc" for seed in (0, 1, 2)}
    rungs = (
        ledger.Rung(epochs=1, seeds=(0, 1, 2), entered=("a", "b", "c"), closed=True, drift=0.1),
        ledger.Rung(epochs=2, seeds=(0, 1, 2), entered=("a", "b"), cut={"c": "no time"}, closed=True),
    )
    book = ledger.Ledger(key="k", trained=trained, rungs=rungs)
    state, inits = ledger.race_of(book, Rules(rounds=2, margin=0.01, error=0.05), tmp_path, digests)
    assert inits == ["a", "b", "c"]
    assert state.standings[2].words == "no time"
    assert state.standings[2].difference == pytest.approx(-0.2)
    differences, errors, _ = state.against(0)
    assert differences.tolist() == pytest.approx([-0.4, -0.2]) or len(differences) == 1
    assert (errors > 0).all()


def test_a_ledger_that_is_not_whole_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledger.write(ledger.Ledger(key="k", spent=3.0), path)
    assert ledger.read(path, "k").spent == 3.0
    assert ledger.read(path, "other").spent == 0.0
    path.write_text(path.read_text()[:20])
    assert ledger.read(path, "k").spent == 0.0


def test_seeds_are_those_of_the_benchmark_then_the_next(root: Path) -> None:
    params = load(root, benchmark__seeds="[7, 3]", tuning__seed="0", tuning__finalist_seeds="[2]")
    params = dataclasses.replace(params, recommend=dataclasses.replace(params.recommend, seeds=5))
    assert seeds_of(params) == (7, 3, 1, 4, 5)
