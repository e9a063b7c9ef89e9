"""What is decided, from runs of known effects; nothing is registered here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medtransfer import params
from medtransfer.comparison import findings
from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.controls import Against, Alarm, Controls
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.requirements import Measured
from medtransfer.data import catalog
from medtransfer.params import Promotion
from medtransfer.registry.decision import Decision, decide, select
from medtransfer.registry.gate import Candidate, Holder, Selected
from medtransfer.statistics.seeds_and_patients import JointInterval
from tests.support import results

ROOT = Path(__file__).parents[2]
RANDOM, IMAGENET, SWAV, TWIN = "random@resnet50", "imagenet@resnet50", "swav@resnet50", "barlow-twins@resnet50"
TASKS = ("shenzhen", "montgomery")
GATE = Promotion(
    use="research", alpha=0.05, margin=1.0, cheaper=0.1, require_complete=True, require_audit=True
)  # fmt: skip
Edit = Mapping[str, Any]


def found(
    folder: Path, effects: Mapping[str, float], *, seeds: Sequence[int] = range(4), tasks: Sequence[str] = TASKS,
    edits: Mapping[str, Edit] | None = None, expected: Sequence[int] | None = None, **options: Any,
) -> Findings:  # fmt: skip
    """Writes runs without marks and compares them; `edits`: init -> changed fields of its cells."""
    results.write(folder, effects, tasks, seeds, **{"marks": [], "cases": 120, **options})
    for path in folder.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps(cell | dict((edits or {}).get(cell["init"], {}))))
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    benchmark = params.Benchmark(
        inits=tuple(effects), tasks=tuple(tasks), seeds=tuple(expected or seeds), recipes=("fixed",)
    )
    return findings.find(folder, benchmark, here, ROOT, next(iter(effects)))


def candidate(init: str, **changes: Any) -> Candidate:
    said: dict[str, Any] = {"model": "m", "key": f"w-{init}", "parameters": 100, "licences": ("weights: mit",)}
    return Candidate(**(said | changes))


def holder(init: str, **changes: Any) -> Holder:
    said: dict[str, Any] = {"version": "1", "init": init, "key": f"w-{init}", "parameters": 100}
    return Holder(**(said | changes))


def overall(what: Findings) -> Selected:
    return next(one for one in select(what) if one.scope == ALL)


def judge(what: Findings, held: Holder | None, settings: Promotion = GATE, served: int = 0, **changes: Any) -> Decision:
    selected = overall(what)
    return decide(selected, candidate(selected.init, **changes), held, what, settings, served, lambda arch, side: 1e6)


def test_val_selects_over_all_tasks_and_for_each(tmp_path: Path) -> None:
    what = found(tmp_path, {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 1.5})
    assert [(one.scope, one.init, one.tasks) for one in select(what)] == [
        (ALL, SWAV, TASKS), ("shenzhen", SWAV, ("shenzhen",)), ("montgomery", SWAV, ("montgomery",)),
    ]  # fmt: skip


def test_test_scores_select_nothing(tmp_path: Path) -> None:
    results.write(tmp_path, {IMAGENET: 0.0, SWAV: 1.5}, TASKS, range(3), marks=[])
    for path in tmp_path.glob("*/*/cell.json"):
        cell = json.loads(path.read_text())
        name = f"best_val_{catalog.TASKS[cell['task']].metric}"
        cell["scores"][name] = 0.9 if cell["init"] == IMAGENET else 0.1
        path.write_text(json.dumps(cell))
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    benchmark = params.Benchmark(inits=(IMAGENET, SWAV), tasks=TASKS, seeds=(0, 1, 2), recipes=("fixed",))
    what = findings.find(tmp_path, benchmark, here, ROOT, IMAGENET)
    assert {one.init for one in select(what)} == {IMAGENET}
    assert judge(what, holder(SWAV)).outcome == "challenger"


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return found(tmp_path_factory.mktemp("clear"), {RANDOM: 0.0, IMAGENET: 0.5, SWAV: 1.5})


def test_the_first_of_its_kind_passes_the_gate_against_the_reference(clear: Findings) -> None:
    decision = judge(clear, None)
    assert (decision.outcome, decision.alias) == ("champion", "champion")
    assert decision.reasons[0].startswith("better than random@resnet50, which one starts from without a champion: ")
    assert decision.anchors == dict.fromkeys(TASKS, f"w-{SWAV}")


def test_the_first_of_its_kind_that_is_not_better_than_the_reference_is_a_challenger(tmp_path: Path) -> None:
    what = found(tmp_path, {IMAGENET: 0.5, SWAV: 0.505}, seeds=range(3), cases=60)
    selected = dataclasses.replace(overall(what), init=SWAV)
    decision = decide(selected, candidate(SWAV), None, what, GATE, 0, lambda arch, side: 1e6)
    assert decision.outcome == "challenger"
    assert "not shown to be non-inferior on" in decision.reasons[0]


def test_the_reference_itself_is_held_against_random_weights(tmp_path: Path) -> None:
    what = found(tmp_path, {IMAGENET: 1.5, RANDOM: 0.0})
    assert judge(what, None).reasons[0].startswith("better than random@resnet50, which one starts from")
    alone = found(tmp_path / "alone", {IMAGENET: 1.5}, seeds=range(2), cases=40)
    assert judge(alone, None).outcome == "challenger"
    assert "put the reference, or random weights, into benchmark.inits" in judge(alone, None).reasons[0]


def test_every_decision_on_the_same_test_sets_has_less_of_the_level(clear: Findings) -> None:
    levels = [judge(clear, holder(IMAGENET), served=served) for served in range(4)]
    assert [round(one.alpha, 5) for one in levels] == [0.0304, 0.0076, 0.00338, 0.0019]
    assert levels[0].alpha + levels[0].left == pytest.approx(0.05)
    assert levels[3].left == pytest.approx(0.05 - sum(one.alpha for one in levels))
    assert (levels[0].compared[0].low or 0) > (levels[3].compared[0].low or 0)


def test_better_on_one_task_does_not_pay_for_a_loss_on_another(tmp_path: Path) -> None:
    results.write(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, ("shenzhen",), range(5), marks=[], cases=300)
    what = found(tmp_path, {IMAGENET: 0.5, SWAV: 0.45}, tasks=("montgomery",), seeds=range(5), cases=300)
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    benchmark = params.Benchmark(inits=(IMAGENET, SWAV), tasks=TASKS, seeds=tuple(range(5)), recipes=("fixed",))
    what = findings.find(tmp_path, benchmark, here, ROOT, IMAGENET)
    assert what.columns["shenzhen"].contrast(SWAV, IMAGENET).better
    selected = dataclasses.replace(overall(what), init=SWAV)
    decision = decide(selected, candidate(SWAV), holder(IMAGENET), what, GATE, 0, lambda arch, side: 1e6)
    assert decision.outcome == "challenger"
    assert decision.reasons[0].startswith("better than the champion imagenet@resnet50 (version 1): shenzhen: +")
    assert "; but not shown to be non-inferior on montgomery (from imagenet@resnet50: at worst -" in decision.reasons[0]


def test_losses_within_the_margin_are_counted_from_what_was_last_better(tmp_path: Path) -> None:
    # One after the other a little worse: the second step is within the margin of the first, and not of the start.
    effects = {RANDOM: 0.78, SWAV: 0.64, IMAGENET: 0.5}
    wide = {init: {"margin": 0.02} for init in effects}
    what = found(tmp_path, effects, edits=wide, cases=1500, seed_std=0.001, tasks=("montgomery",))
    selected = dataclasses.replace(overall(what), init=IMAGENET)

    def decided(**changes: Any) -> Decision:
        held = holder(SWAV, parameters=1000, **changes)
        return decide(selected, candidate(IMAGENET, parameters=10), held, what, GATE, 0, lambda arch, side: 1e6)

    assert decided().outcome == "champion"
    assert decided().anchors == {"montgomery": f"w-{SWAV}"}  # not its own: it was not shown to be better
    still = decided(anchors={"montgomery": f"w-{RANDOM}"})
    assert still.outcome == "challenger"
    assert "not shown to be non-inferior on montgomery (from random@resnet50: at worst -" in still.reasons[0]
    assert "(key w-gone) is not in this comparison" in decided(anchors={"montgomery": "w-gone"}).reasons[0]


def test_a_better_one_takes_the_alias_with_the_numbers_as_reason(clear: Findings) -> None:
    decision = judge(clear, holder(IMAGENET))
    assert decision.outcome == "champion"
    assert decision.reasons[0].startswith("better than the champion imagenet@resnet50 (version 1): shenzhen: +")
    assert [each.task for each in decision.compared] == list(TASKS)
    assert all(each.low is not None and each.low > 0 for each in decision.compared)


def test_the_champion_that_is_selected_again_stays(clear: Findings) -> None:
    decision = judge(clear, holder(SWAV, version="7"))
    assert (decision.outcome, decision.alias) == ("kept", "champion")
    assert "version 7, the champion" in decision.reasons[0]


def test_a_champion_outside_of_the_comparison_is_not_beaten(clear: Findings) -> None:
    decision = judge(clear, holder(TWIN))
    assert (decision.outcome, decision.alias) == ("challenger", "challenger")
    assert "is not in this comparison" in decision.reasons[0]


def test_the_champion_is_known_by_its_tensors_under_any_name(clear: Findings) -> None:
    again = holder("registry:medtransfer-backbone-resnet50/champion@resnet50", key=f"w-{IMAGENET}")
    assert judge(clear, again).outcome == "champion"


@pytest.mark.parametrize(
    ("own", "its", "images", "outcome", "words"),
    [
        (100, 100, 1000, "challenger", "but neither better nor cheaper, so it stays"),
        (80, 100, 1000, "champion", "and cheaper: 80 parameters of the backbone, not 100"),
        (100, 80, 100, "challenger", "but neither better nor cheaper"),
        (100, 100, 600, "champion", "and cheaper: 1.20e+09 operations of training in the mean (images seen x"),
        (95, 100, 950, "challenger", "but neither better nor cheaper"),
    ],
)
def test_a_tie_goes_by_the_margin_and_then_by_the_cost(
    tmp_path: Path, own: int, its: int, images: int, outcome: str, words: str
) -> None:
    cost = {"epochs": 8, "images": images, "seconds": 3.0, "gpu_seconds": 3.0}  # seconds are the machine's mood
    effects = {SWAV: 0.501, IMAGENET: 0.5}
    what = found(
        tmp_path, effects, edits={SWAV: {"cost": cost, "margin": 0.2}, IMAGENET: {"margin": 0.2}}, seed_std=0.001
    )
    assert overall(what).init == SWAV
    decision = judge(what, holder(IMAGENET, parameters=its), parameters=own)
    assert decision.outcome == outcome
    assert (
        "non-inferior to the champion imagenet@resnet50 (version 1) within 20 points on shenzhen" in decision.reasons[0]
    )
    assert words in decision.reasons[0]


def test_what_cannot_be_shown_to_be_non_inferior_does_not_pass(tmp_path: Path) -> None:
    what = found(tmp_path, {SWAV: 0.501, IMAGENET: 0.5}, edits={init: {"margin": 1e-6} for init in (SWAV, IMAGENET)})
    decision = judge(what, holder(IMAGENET, parameters=1000), parameters=10)
    assert decision.outcome == "challenger"
    assert "not shown to be non-inferior on shenzhen (from imagenet@resnet50: at worst " in decision.reasons[0]


def test_one_seed_tests_nothing_and_moves_no_champion(tmp_path: Path) -> None:
    what = found(tmp_path, {SWAV: 1.5, IMAGENET: 0.5}, seeds=(0,), cases=40)
    assert judge(what, holder(IMAGENET)).outcome == "challenger"
    assert judge(what, None).outcome == "challenger"


@pytest.mark.parametrize(
    ("marks", "outcome", "alias", "words"),
    [
        (["synthetic"], "champion", "demo-champion", "better than random@resnet50"),
        (["synthetic", "partial"], "challenger", "demo-challenger", "marked partial"),
        (["partial"], "challenger", "challenger", "marked partial: images of a dataset are missing"),
        (["leak-dropped"], "challenger", "challenger", "marked leak-dropped: the audit is not clean"),
        (["look-alikes-reported (3)"], "challenger", "challenger", "marked look-alikes-reported (3): the audit is not"),
        (["patients unknown"], "champion", "champion", "better than random@resnet50"),
    ],
)
def test_marks_bar_from_the_championship(
    tmp_path: Path, marks: list[str], outcome: str, alias: str, words: str
) -> None:
    what = found(tmp_path, {RANDOM: -1.5, IMAGENET: 1.5}, seeds=range(5), tasks=("shenzhen",), marks=marks)
    decision = judge(what, None)
    assert (decision.outcome, decision.alias) == (outcome, alias)
    assert words in decision.reasons[0]


def test_an_alarm_of_labels_drawn_anew_bars_from_the_championship(clear: Findings) -> None:
    quiet = Alarm(
        task="shenzhen", init=IMAGENET, metric="auc", nothing=0.5, mean=0.9, low=0.8, high=1.0, p=0.001, raised=False,
        seeds=4,
    )  # fmt: skip
    held = Controls(
        asked=("permuted",), points=(), against=(), alarms=(quiet,), missing=(), runs=(), level=0.95, alpha=0.03,
        masks=(),
    )  # fmt: skip
    assert judge(dataclasses.replace(clear, controls=held), None).outcome == "champion"
    held = dataclasses.replace(held, alarms=(dataclasses.replace(quiet, raised=True),))
    decision = judge(dataclasses.replace(clear, controls=held), None)
    assert decision.outcome == "challenger"
    assert decision.reasons[0].startswith(
        "Labels drawn anew among patients were still predicted on shenzhen (AUC 90.00"
    )
    allowed = dataclasses.replace(GATE, require_audit=False)
    assert judge(dataclasses.replace(clear, controls=held), None, allowed).outcome == "champion"


def test_what_is_not_shown_to_beat_a_control_makes_no_champion(clear: Findings) -> None:
    chosen = judge(clear, None).selected.init
    weak = Against(
        task="shenzhen", init=chosen, control="texture", estimate=0.01, low=-0.1, high=0.12, p=0.8,
        unbeaten=("texture", "prior"),
    )  # fmt: skip
    held = Controls(
        asked=("prior", "texture"), points=(), against=(weak,), alarms=(), missing=(), runs=(), level=0.95, alpha=0.03,
        masks=(),
    )  # fmt: skip
    decision = judge(dataclasses.replace(clear, controls=held), None)
    assert decision.outcome == "challenger"
    assert decision.reasons[0] == "on shenzhen not shown to be better than texture features or the label prior"
    for other in (dataclasses.replace(weak, unbeaten=()), dataclasses.replace(weak, init="another@resnet50")):
        free = dataclasses.replace(held, against=(other,))
        assert judge(dataclasses.replace(clear, controls=free), None).outcome == "champion"


def test_an_audit_that_is_not_required_bars_nothing(tmp_path: Path) -> None:
    what = found(tmp_path, {RANDOM: -1.5, IMAGENET: 1.5}, seeds=range(5), tasks=("shenzhen",), marks=["leak-dropped"])
    assert judge(what, None, dataclasses.replace(GATE, require_audit=False)).outcome == "champion"


def test_a_contaminated_init_is_never_selected_and_as_published_never_champion(tmp_path: Path) -> None:
    edits = {SWAV: {"marks": ["contaminated"]}}
    what = found(tmp_path, {IMAGENET: 0.5, SWAV: 1.5}, seeds=(0, 1), cases=60, edits=edits)
    assert overall(what).init == IMAGENET
    selected = dataclasses.replace(overall(what), init=SWAV, marks=("contaminated",))
    decision = decide(selected, candidate(SWAV), None, what, GATE, 0, lambda arch, side: 1e6)
    assert decision.outcome == "challenger"
    assert "marked contaminated" in decision.reasons[0]


def test_runs_that_are_to_do_bar_and_are_named(tmp_path: Path) -> None:
    results.write(tmp_path, {SWAV: 0.0}, ("shenzhen",), (0,), marks=[])
    here = params.load(ROOT / "params.yaml", {"comparison.resamples": "0", "comparison.against": "[]"})
    results.write(tmp_path, {RANDOM: -1.5, IMAGENET: 1.5}, ("shenzhen",), range(5), marks=[])
    inits, seeds = (RANDOM, IMAGENET, SWAV), tuple(range(5))
    benchmark = params.Benchmark(inits=inits, tasks=("shenzhen",), seeds=seeds, recipes=("fixed",))
    what = findings.find(tmp_path, benchmark, here, ROOT, RANDOM)
    decision = judge(what, None)
    assert decision.outcome == "challenger"
    assert decision.reasons[0] == "the benchmark has runs to do: shenzhen swav@resnet50: 4 missing, 0 without a score"
    assert judge(what, None, dataclasses.replace(GATE, require_complete=False)).outcome == "champion"


@pytest.mark.parametrize(
    ("licence", "outcome"),
    [
        ("weights imagenet: bsd-3-clause", "champion"),
        ("weights x: CC-BY-NC-4.0", "blocked"),
        (
            "images of chexpert: Stanford University Dataset Research Use Agreement: registration, non-commercial",
            "blocked",
        ),
        ("weights x: not stated", "challenger"),
    ],
)
def test_a_licence_that_forbids_the_use_blocks_and_an_unclear_one_bars(
    clear: Findings, licence: str, outcome: str
) -> None:
    commercial = dataclasses.replace(GATE, use="commercial")
    decision = judge(clear, None, commercial, licences=("weights: mit", licence))
    assert decision.outcome == outcome
    assert licence in decision.reasons[0] or outcome == "champion"
    assert judge(clear, None, licences=(licence,)).outcome == "champion"


def test_what_is_drawn_from_the_seed_or_lacks_its_file_is_not_registered(clear: Findings) -> None:
    decision = judge(clear, holder(IMAGENET), hindrance="its weights are drawn from the seed")
    assert (decision.outcome, decision.alias) == ("blocked", "")


def test_what_a_person_demoted_does_not_come_back_by_itself(clear: Findings) -> None:
    decision = judge(clear, holder(IMAGENET), demoted="fails on portable X-rays")
    assert decision.outcome == "challenger"
    assert "it was demoted: fails on portable X-rays" in decision.reasons[0]


# What is required of it


def requiring(what: Findings, values: Mapping[str, tuple[float, float]]) -> Findings:
    """Puts measured conditions on shenzhen beside the findings: condition -> estimate and bound."""
    measured = [
        Measured(
            condition=name, task="shenzhen", init=SWAV, bound=bound, at_most=True,
            interval=JointInterval(
                method="", estimate=estimate, level=0.95, seeds=4, patients=100, patient_error=0.001, seed_error=0.001,
                df=50.0,
            ),
        )
        for name, (estimate, bound) in values.items()
    ]  # fmt: skip
    return dataclasses.replace(what, required=tuple(measured))


@pytest.mark.parametrize(
    ("estimate", "verdict", "outcome"),
    [(0.03, "within", "champion"), (0.0495, "not shown", "challenger"), (0.08, "violated", "challenger")],
)
def test_a_condition_blocks_unless_it_is_shown_to_be_kept(
    clear: Findings, estimate: float, verdict: str, outcome: str
) -> None:
    decision = judge(requiring(clear, {"calibration": (estimate, 0.05)}), None)
    assert [one.verdict for one in decision.required] == [verdict]
    assert decision.outcome == outcome
    words = [reason for reason in decision.reasons if reason.startswith("required: calibration on shenzhen: ")]
    assert bool(words) == (outcome == "challenger")
    if words:
        assert words[0].startswith(f"required: calibration on shenzhen: {verdict}, {estimate:.3f} (")
        assert words[0].endswith("; at most 0.05 is asked")


def test_what_is_asked_of_other_inits_and_tasks_is_not_asked_here(clear: Findings) -> None:
    what = requiring(clear, {"calibration": (0.08, 0.05)})
    one = what.required[0]
    others = (dataclasses.replace(one, init=IMAGENET), dataclasses.replace(one, task="drive"))
    assert judge(dataclasses.replace(what, required=others), None).outcome == "champion"


def test_a_later_decision_needs_a_narrower_interval(clear: Findings) -> None:
    what = requiring(clear, {"calibration": (0.0458, 0.05)})
    assert judge(what, None).required[0].verdict == "within"
    assert judge(what, None, served=2).required[0].verdict == "not shown"
