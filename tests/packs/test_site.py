from __future__ import annotations

import dataclasses
import html.parser
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import UserError
from medtransfer.packs import counted
from medtransfer.packs.records import Contribution, Pack
from medtransfer.packs.site import board, layout, write
from medtransfer.packs.site.board import Board
from medtransfer.results.result import Result
from tests.support import leaderboards

RANDOM, SWAV, DINO, PIRL = "random@resnet50", "swav@resnet50", "dino@resnet50", "pirl@resnet50"
MEANS = {
    "alpha": {RANDOM: 0.70, SWAV: 0.72, DINO: 0.71},
    "beta": {RANDOM: 0.60, SWAV: 0.66, DINO: 0.66},
}
SHIFTS = (-0.01, 0.0, 0.01)
EVIL = '<script>alert("1")</script> & Söhne/../x'


def runs(means: Mapping[str, Mapping[str, float]], shifts: Sequence[float] = SHIFTS, **changes: Any) -> list[Result]:
    """Makes runs whose mean over seeds is known: each seed shifts every init alike, and a hair by init."""
    return [
        leaderboards.result(task, init, seed, mean + shift * (1 + 0.1 * place), margin=0.01, **changes)
        for task, inits in means.items()
        for place, (init, mean) in enumerate(inits.items())
        for seed, shift in enumerate(shifts)
    ]


def one_lab(*more: Result, **changes: Any) -> Contribution:
    return leaderboards.contribution("North", [*runs(MEANS), *more], **changes)


@pytest.fixture(scope="module")
def tiny() -> Board:
    return board.build(Pack(contributions=(one_lab(),)))


@pytest.fixture(scope="module")
def lively() -> Board:
    """Is of three labs, with few seeds."""
    one, two = leaderboards.lively(seeds=2)
    return board.build(
        Pack(contributions=one.contributions + two.contributions, certificates=one.certificates + two.certificates)
    )


def of(found: Board, init: str) -> tuple[float, float]:
    """Gives the win rate and the mean rank of an init over all tasks."""
    scope = found.scopes[0]
    place = scope.ranked.index(init)
    return round(scope.wins.rate[place], 9), round(scope.ranks.mean[place], 9)


def test_win_rates_and_mean_ranks_are_those_by_hand(tiny: Board) -> None:
    # alpha: swav 1st, dino 2nd, random 3rd; beta: swav and dino tie
    assert of(tiny, SWAV) == ((1.0 + 0.75) / 2, (1 + 1.5) / 2)
    assert of(tiny, DINO) == ((0.5 + 0.75) / 2, (2 + 1.5) / 2)
    assert of(tiny, RANDOM) == (0.0, 3.0)
    assert [tiny.scopes[0].place(init) for init in (SWAV, DINO, RANDOM)] == [1, 2, 3]


def test_the_improvement_is_the_mean_in_margins_and_all_intervals_hold_at_once(tiny: Board) -> None:
    column = tiny.scopes[0].column
    swav, dino = tiny.against(column, SWAV), tiny.against(column, DINO)
    assert swav is not None
    assert dino is not None
    assert column is not None
    assert swav.estimate == pytest.approx((0.02 + 0.06) / 0.01 / 2)
    assert dino.estimate == pytest.approx((0.01 + 0.06) / 0.01 / 2)
    assert tiny.against(column, RANDOM) is None
    assert tiny.number == 3 * 3  # pairs, on two tasks and over both
    assert column.share == pytest.approx(board.ALPHA / 9)
    assert swav.low is not None
    assert swav.low < swav.estimate


def test_an_init_that_lacks_a_task_is_in_no_mean_over_tasks_and_changes_none(tiny: Board) -> None:
    alone = runs({"alpha": {PIRL: 0.99}})
    found = board.build(Pack(contributions=(one_lab(*alone),)))
    scope = found.scopes[0]
    assert PIRL not in scope.ranked
    assert scope.left == {PIRL: ("beta",)}
    assert of(found, SWAV) == of(tiny, SWAV)
    assert found.columns["alpha"].candidates == (PIRL,)
    page = write.files_of(found)[layout.INDEX]
    assert "lacks beta" in page
    assert page.count(">pirl<") == 2  # among those that are not ranked, and in the scores by task


def test_an_init_that_lacks_a_seed_has_no_mean() -> None:
    seven = leaderboards.contribution("North", runs(MEANS, [seed / 100 for seed in range(7)]))
    for there, kept in ((5, (0, 1, 2, 3, 4)), (3, tuple(range(7)))):  # nobody is left out for more than five
        few = leaderboards.contribution("South", runs({task: {PIRL: 0.9} for task in MEANS}, [0.01] * there))
        found = board.build(Pack(contributions=(seven, few)))
        assert found.seeds["alpha"] == kept
        assert (found.rows["alpha", PIRL].summary is None) == (there == 3)
        assert (PIRL in found.scopes[0].left) == (there == 3)
    assert "3 of 7 seeds" in write.files_of(found)[layout.path_of("tasks", "alpha")]


def test_over_few_tasks_no_interval_of_a_win_rate_is_claimed(tiny: Board) -> None:
    assert tiny.scopes[0].wins.low is None
    assert "No interval: 2 of the 5 groups of tasks" in write.files_of(tiny)[layout.INDEX]


def test_tasks_that_share_images_count_as_one() -> None:
    third = {"gamma": {RANDOM: 0.5, SWAV: 0.4, DINO: 0.3}}
    shared = runs(third, images=("alpha", "gamma"))
    found = board.build(Pack(contributions=(one_lab(*shared),)))
    wins = {task: {RANDOM: a, SWAV: b} for task, a, b in (("alpha", 0, 1), ("gamma", 1, 0.5), ("beta", 0, 0.75))}
    for init in (RANDOM, SWAV):
        by_hand = ((wins["alpha"][init] + wins["gamma"][init]) / 2 + wins["beta"][init]) / 2
        assert of(found, init)[0] == pytest.approx(by_hand)
    assert found.scopes[0].wins.groups == 2


# which runs count


def why(found: Board, lab: str) -> list[str]:
    return list(dict.fromkeys(run.why for run in found.runs if run.lab == lab))


def test_a_run_in_two_packs_counts_once(tiny: Board) -> None:
    again = leaderboards.contribution("South", runs(MEANS), created="2026-04-01T12:00:00Z")
    found = board.build(Pack(contributions=(again, one_lab())))
    assert why(found, "North") == [""]
    assert why(found, "South") == ["the same run as in an earlier contribution of North"]
    assert found.rows["alpha", SWAV] == tiny.rows["alpha", SWAV]


def test_of_equal_runs_of_two_labs_one_counts_and_both_are_laid_beside_each_other() -> None:
    few = {"alpha": {RANDOM: 0.75}}
    other = leaderboards.contribution("A lab", runs(few, device="NVIDIA H200"), created="2026-01-01T12:00:00Z")
    found = board.build(Pack(contributions=(other, one_lab())))
    assert why(found, "A lab") == ["of equal init, task and seed, that of North counts"]
    (beside,) = board.labs_beside(found)
    assert (beside.one, beside.two, beside.runs) == ("A lab", "North", 3)
    assert beside.difference == pytest.approx(0.70 - 0.75)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "linear"}, "another protocol (linear)"),
        ({"recipe": "tuned"}, "another recipe (tuned)"),
        ({"fraction": "0.1"}, "not with all labels"),
        ({"manifest_digest": "other"}, "other data or another split than most runs of its task"),
        ({"params": {"classification.lr": 1.0}}, "other parameters than most runs of its task"),
        ({"protocol_version": 0}, "earlier protocol version"),
    ],
)
def test_what_may_not_stand_in_one_table_does_not_count(changes: dict[str, Any], words: str) -> None:
    odd = leaderboards.contribution("South", runs({"alpha": {PIRL: 0.99}}, **changes))
    found = board.build(Pack(contributions=(one_lab(), odd)))
    assert why(found, "South") == [words]
    assert words in write.files_of(found)[layout.PACKS]


def test_other_weights_under_one_name_do_not_count() -> None:
    odd = leaderboards.contribution("South", runs({"alpha": {SWAV: 0.99}}, weights_sha256="other"))
    found = board.build(Pack(contributions=(one_lab(), odd)))
    assert why(found, "South") == ["other weights under this name than most runs of it"]


def test_without_a_run_that_counts_it_is_said_why() -> None:
    with pytest.raises(UserError, match=r"no run counts by lora.*18 runs: another protocol \(finetune\)"):
        board.build(Pack(contributions=(one_lab(),)), protocol="lora")
    with pytest.raises(UserError, match="'rando' is no init of the packs; the nearest valid name is random"):
        board.build(Pack(contributions=(one_lab(),)), reference="rando")


def test_each_init_is_compared_with_the_reference_on_its_own_backbone() -> None:
    large, its = "imagenet@convnext_large", "random@convnext_large"
    more = runs({task: {its: 0.5, large: 0.8} for task in MEANS})
    found = board.build(Pack(contributions=(one_lab(*more),)))
    contrast = found.against(found.columns["alpha"], large)
    assert contrast is not None
    assert contrast.against == its
    assert contrast.estimate == pytest.approx(0.3)
    named = board.build(Pack(contributions=(one_lab(*more),)), reference=RANDOM)
    contrast = named.against(named.columns["alpha"], large)
    assert contrast is not None
    assert contrast.against == RANDOM
    assert contrast.estimate == pytest.approx(0.1)


def test_what_saw_test_images_is_shown_and_compared_with_nothing() -> None:
    clean = runs({"gamma": {RANDOM: 0.5, DINO: 0.6}})
    dirty = runs({"gamma": {SWAV: 0.9}}, marks=("contaminated",))
    found = board.build(Pack(contributions=(one_lab(*clean, *dirty),)))
    assert found.columns["gamma"].inits == (DINO, RANDOM)
    assert found.scopes[0].tasks == ("alpha", "beta")
    assert found.scopes[0].lacking == ("gamma",)
    texts = write.files_of(found)
    assert "Left out, because too few initializations have them: gamma." in texts[layout.INDEX]
    assert "90.00 ± 1.00 <small>contaminated</small>" in texts[layout.path_of("tasks", "gamma")]


def test_folds_have_the_correction_of_folds() -> None:
    folds = [
        run
        for fold in range(5)
        for run in runs(
            {"gamma": {init: mean + fold / 100 for init, mean in MEANS["alpha"].items()}}, fold=fold, folds=5
        )
    ]
    found = board.build(Pack(contributions=(one_lab(*folds),)))
    row, column = found.rows["gamma", SWAV], found.columns["gamma"]
    assert (row.unit, len(row.scores), row.redrawn) == ("fold", 5, True)
    assert column.pairs.ratio == 200 / 1000  # test images per training image
    assert write.files_of(found)[layout.path_of("tasks", "gamma")].count("This rests on 5 folds") == 1


def test_a_single_task_answers_for_itself() -> None:
    found = board.build(Pack(contributions=(leaderboards.contribution("North", runs({"alpha": MEANS["alpha"]})),)))
    assert "Start from swav" in write.files_of(found)[layout.INDEX]


# statuses


def test_only_another_labs_certificate_verifies_and_a_difference_refutes() -> None:
    north, south = one_lab(), leaderboards.contribution("South", runs({"alpha": {PIRL: 0.99}}))
    ok, own = (
        leaderboards.certificate(north, "South", ["equal", "within"]),
        leaderboards.certificate(north, "North", ["equal"]),
    )
    wrong = leaderboards.certificate(south, "North", ["equal", "different"])
    status = {
        "own": board.build(Pack(contributions=(north,), certificates=(own,))).verified(SWAV),
        "other": board.build(Pack(contributions=(north,), certificates=(own, ok))).verified(SWAV),
    }
    assert status == {"own": ("claimed", ""), "other": ("verified", "")}
    found = board.build(Pack(contributions=(north, south), certificates=(wrong,)))
    assert why(found, "South") == ["its contribution is refuted"]
    assert found.verified(PIRL) == ("refuted", "")
    assert PIRL not in found.columns["alpha"].inits
    texts = write.files_of(found)
    assert '<span class="verdict refuted">refuted</span>' in texts[layout.INDEX]
    page = texts[layout.path_of("packs", south.digest)]
    assert "Trained again by North, 2026-04-01" in page
    assert "1 equal, 1 different" in page


def test_an_init_of_verified_and_claimed_runs_says_how_many() -> None:
    north, south = one_lab(), leaderboards.contribution("South", runs({"alpha": {PIRL: 0.9}}))
    more = leaderboards.contribution("West", runs({"beta": {PIRL: 0.9}}))
    seal = leaderboards.certificate(south, "North", ["equal"])
    found = board.build(Pack(contributions=(north, south, more), certificates=(seal,)))
    assert found.verified(PIRL) == ("claimed", "3 of 6 runs verified")


# pages


class Links(html.parser.HTMLParser):
    """Reads where a page leads, which names it holds, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.heads: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.links += [value for name in ("href", "src") if (value := given.get(name)) is not None]
        self.ids += [value for value in [given.get("id")] if value]
        if tag == "th":
            self.heads.append(given.get("scope"))


def test_every_link_leads_to_a_file_of_the_site_and_nothing_to_the_network(lively: Board) -> None:
    texts = write.files_of(lively)
    pages = {path: Links(text) for path, text in texts.items() if path.endswith(".html")}
    assert len(pages) == 4 + len(lively.inits) + len(lively.tasks) + len(lively.contributions)
    reached = {layout.INDEX}
    for path, page in pages.items():
        assert len(set(page.ids)) == len(page.ids), path
        for link in page.links:
            target, _, anchor = link.partition("#")
            whole = str((Path("/s") / path).parent.joinpath(target).resolve().relative_to("/s")) if target else path
            assert whole in texts, (path, link)
            assert not anchor or anchor in pages[whole].ids, (path, link)
            reached.add(whole)
        assert page.tags.count("table") == page.tags.count("caption")
        assert {*page.heads} <= {"col", "row"}
    assert set(pages) <= reached
    assert not any("http" in text for path, text in texts.items() if path.endswith((".html", ".css", ".js")))


def test_names_are_text_and_their_files_lie_in_the_folder(tmp_path: Path) -> None:
    init = f"file:{EVIL}@resnet50"
    strange = runs({task: {init: 0.65} for task in MEANS})
    one = leaderboards.contribution(EVIL, [*runs(MEANS), *strange])
    card = leaderboards.init_card(init, licence=EVIL, family=EVIL)
    one = dataclasses.replace(
        one, inits=dict(one.inits) | {init: card}, environment={EVIL: EVIL}, params={"a": {"b": EVIL}}
    )
    pack = Pack(contributions=(one,), certificates=(leaderboards.certificate(one, f"{EVIL}2", ["equal"]),))
    write.write(pack, tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    texts = [path.read_text() for path in (tmp_path / "site").rglob("*.html")]
    assert len(texts) == 3 + 4 + 2 + 1
    for text in texts:
        assert Links(text).tags.count("script") == 1  # its own file
        assert "alert(&#34;1&#34;)" in text or "alert(" not in text
        assert 'alert("1")' not in text


def test_names_that_look_alike_have_files_of_their_own() -> None:
    names = ["a/b", "a-b", "a_b", "A-B", "..", "../x", "", "a" * 300, "a" * 299, "<", "CON"]
    paths = [layout.path_of("inits", name) for name in names]
    assert len({path.lower() for path in paths}) == len(names)
    for path in paths:
        assert path.count("/") == 1
        assert ".." not in path
        assert len(path) < 100


def test_equal_packs_give_equal_bytes(lively: Board) -> None:
    pack = lively.pack
    turned = Pack(contributions=pack.contributions[::-1], certificates=pack.certificates[::-1])
    assert write.files_of(board.build(turned)) == write.files_of(lively)


def test_the_site_says_what_it_rests_on(lively: Board) -> None:
    text = write.files_of(lively)[layout.INDEX]
    assert "Seeds alone count" in text
    assert f"{lively.number:,} comparisons" in text
    assert "(Bonferroni)" in text
    assert "with 2 seeds on each" in text
    assert "Not balanced over initializations: device" in text
    assert "learnt from chestxray14 and chexpert, which cannot test it" in text  # eva-x-tiny


def test_views_hold_every_init_once_by_what_it_is_chosen_by(lively: Board) -> None:
    text = write.files_of(lively)[layout.VIEWS]
    assert [text.count(f'href="{layout.path_of("inits", init)}"') for init in lively.inits] == [4] * len(lively.inits)
    assert "Backbone size: over 150 M" in text
    assert "Commercial use: unclear" in text


def test_tasks_on_one_kind_of_images_are_ranked_by_themselves(lively: Board) -> None:
    whole, chest = lively.scopes
    assert (chest.name, len(chest.tasks), len(whole.tasks)) == ("chest-x-ray", 5, 7)
    assert "mae@vit_base_patch16_224" in chest.ranked
    assert "mae@vit_base_patch16_224" in whole.left
    assert chest.column is not None
    assert whole.column is not None
    assert chest.column.share == whole.column.share


# the folder


def test_a_folder_of_other_files_is_refused_and_a_site_is_replaced(tmp_path: Path) -> None:
    pack, out = Pack(contributions=(one_lab(),)), tmp_path / "out"
    write.write(pack, out)
    (out / "index.html").write_text("old")
    write.write(pack, out)
    assert (out / "index.html").read_text() != "old"
    (out / "CNAME").write_text("mine")
    with pytest.raises(UserError, match=r"holds 1 file not of a site \(CNAME\)"):
        write.write(pack, out)
    assert (out / "CNAME").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        write.write(pack, tmp_path / "file")


def test_a_site_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, out = Pack(contributions=(one_lab(),)), tmp_path / "out"
    write.write(pack, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write.write(pack, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_as_many_cells_as_can_be_are_chosen() -> None:
    held = {"a": [0, 1, 2], "b": [0, 1, 2], "c": [0, 1], "d": [5]}
    assert counted.block(held, least=2) == (("a", "b", "c"), (0, 1))  # as many as a and b with all three
    assert counted.block(held | {"e": [0, 1, 2]}, least=2) == (("a", "b", "e"), (0, 1, 2))
    assert counted.block(held | {"e": [0, 1, 2]}, least=2, enough=2) == (("a", "b", "c", "e"), (0, 1))
    assert counted.block({"a": [0], "b": [1]}, least=2) == (("a",), (0,))


@pytest.mark.slow
def test_the_verb_makes_one_site_of_several_packs(top: Path, tmp_path: Path) -> None:
    one, two = leaderboards.lively(seeds=3)
    leaderboards.save(one, tmp_path / "a.pack")
    leaderboards.save(two, tmp_path / "b.pack")
    command = [sys.executable, "-m", "medtransfer", "site", "a.pack", "b.pack", "--out", "site"]
    answer = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(top / "src")}, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    mark = json.loads((tmp_path / "site" / write.MARK).read_text())
    assert len(mark["contributions"]) == 4
    assert sorted(mark["files"]) == sorted(
        str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.*") if path.name != write.MARK
    )
    assert "East: 40 runs, refuted" in answer.stderr
