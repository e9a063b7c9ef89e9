from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from medtransfer import params as parameters
from medtransfer.cli import list_inits, main
from medtransfer.cli.list_inits import Filter, described, listed, read_filter
from medtransfer.core.errors import UserError
from medtransfer.weights import store
from medtransfer.weights.records import MODALITIES
from medtransfer.weights.zoo import RECORDS


@pytest.fixture
def params(top: Path) -> parameters.Params:
    return parameters.load(top / "params.yaml")


def names(lines: list[str]) -> list[str]:
    """Takes the inits out of a list: each stands at the start of a line."""
    return [word for line in lines if (word := line.partition(" ")[0]) in RECORDS]


def fields(title: str, lines: list[str]) -> str:
    """Joins the lines of an entry in what is said of one init."""
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{title} "))
    more = lines[start + 1 :]
    count = next((n for n, line in enumerate(more) if not line.startswith(" " * 12)), len(more))
    return " ".join(line[12:] for line in lines[start : start + 1 + count])


@pytest.mark.parametrize("width", [80, 140, 200])
def test_every_init_has_its_line_under_its_modality_and_nothing_is_cut_off(
    params: parameters.Params, tmp_path: Path, width: int
) -> None:
    lines = listed(params, tmp_path, Filter(), width)
    assert sorted(names(lines)) == sorted(RECORDS)
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.partition(" (")[0] in MODALITIES and line.endswith(")")]
    assert heads == [
        f"{modality} ({count})"
        for modality in MODALITIES
        if (count := sum(record.modality == modality for record in RECORDS.values()))
    ]
    place = lines.index(next(line for line in lines if line.startswith("ark-plus")))
    words = " ".join(lines[place : place + 3]).split()
    assert words[:2] == ["ark-plus", "?"]
    assert ("Swin-L/4" in words) == (width < 140)
    assert {"195M", "no", "form"} <= set(words)
    assert ({"chestxray14", "chexpert", "shenzhen", "ASU", "non-commercial"} <= set(words)) == (width >= 140)


def test_a_line_of_the_list_says_what_is_known(params: parameters.Params, tmp_path: Path) -> None:
    lines = {line.partition(" ")[0]: line.split() for line in listed(params, tmp_path, Filter(), 140)}
    assert lines["rad-dino"] == [
        "rad-dino",
        "?",
        "vit_base_patch14_dinov2",
        "87M",
        "MIT",
        "yes",
        "chestxray14",
        "chexpert",
    ]
    assert lines["imagenet"][:7] == ["imagenet", "*", "any", "of", "timm", "apache-2.0", "yes"]
    assert lines["moco-v1"] == ["moco-v1", "resnet50", "24M", "MIT", "(...)", "unclear"]
    assert lines["dinov2"] == ["dinov2", "vit_base_patch14_dinov2", "+7", "22M-1.1B", "apache-2.0", "yes"]
    assert lines["inat2021"][-2:] == ["by", "hand"]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("rad-dino", "ViT-B/14"), ("siglip-2", "ViT-B/16 +31"), ("eva-x-tiny", "EVA02-Ti/16"), ("medsam", "SAM-B/16"),
        ("uni2-h", "ViT-g/14"), ("swav", "resnet50"), ("sam-2", "sam2_hiera_tiny +3"), ("random", "any of timm"),
        ("medsiglip-448", "ViT-So400m/14"),
    ],
)  # fmt: skip
def test_a_narrow_list_names_backbones_briefly(
    params: parameters.Params, tmp_path: Path, name: str, short: str
) -> None:
    lines = {line.partition(" ")[0]: line for line in listed(params, tmp_path, Filter(), 80)}
    assert lines[name][31:50].rstrip() == short


@pytest.mark.parametrize(
    ("wanted", "held", "not_held"),
    [
        (Filter(modality="fundus"), {"retfound-cfp", "retfound-green"}, {"retfound-oct", "imagenet"}),
        (Filter(family="domain-adapted"), {"imagenet+chexpert-published"}, {"rad-dino"}),
        (Filter(commercial="yes"), {"rad-dino", "imagenet"}, {"swav", "retfound-cfp", "uni"}),
        (Filter(commercial="no"), {"swav", "retfound-cfp"}, {"rad-dino", "uni"}),
        (Filter(commercial="unclear"), {"uni", "inat2021"}, {"rad-dino", "swav"}),
        (Filter(max_parameters=23_600_000), {"random", "imagenet", "dinov2", "swav"}, {"rad-dino", "virchow"}),
        (Filter(open=True), {"rad-dino", "swav"}, {"ark-plus", "retfound-cfp", "inat2021", "medsam"}),
        (Filter(modality="fundus", max_parameters=90_000_000, open=True), {"retfound-green"}, {"retfound-cfp"}),
    ],
)
def test_filters_keep_what_they_say(
    params: parameters.Params, tmp_path: Path, wanted: Filter, held: set[str], not_held: set[str]
) -> None:
    found = set(names(listed(params, tmp_path, wanted, 140)))
    assert held <= found
    assert not not_held & found


def test_a_limit_of_parameters_binds_the_backbones_that_are_small_enough(
    params: parameters.Params, tmp_path: Path
) -> None:
    lines = listed(params, tmp_path, Filter(max_parameters=22_100_000), 140)
    line = next(line for line in lines if line.startswith("dinov2 "))
    assert line.split()[:4] == ["dinov2", "vit_small_patch14_dinov2", "+1", "22M"]


def test_what_no_init_is_is_said_as_it_was_asked(params: parameters.Params, tmp_path: Path) -> None:
    wanted = Filter(modality="oct", commercial="yes", max_parameters=5, open=True)
    with pytest.raises(UserError, match="no init fits --modality oct --commercial yes --max-parameters 5 --open;"):
        listed(params, tmp_path, wanted, 80)


@pytest.mark.parametrize(
    ("given", "count"), [("90M", 90_000_000), ("1.5b", 1_500_000_000), ("25000000", 25_000_000), ("800k", 800_000)]
)
def test_a_number_of_parameters_is_read_with_its_unit(given: str, count: int) -> None:
    assert read_filter("all", "all", "all", given, "no").max_parameters == count


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("fundsu", "all", "all", "none", "no"), "--modality: unknown fundsu; the nearest valid name is fundus"),
        (("all", "free", "all", "none", "no"), "--commercial: unknown free; valid names: yes, no, unclear"),
        (("all", "all", "medicine", "none", "no"), "--family: unknown medicine; the nearest valid name is medical"),
        (("all", "all", "all", "90 MB", "no"), "--max-parameters must be a number such as 90M"),
        (("all", "all", "all", "none", "perhaps"), "--open: unknown perhaps"),
    ],
)
def test_a_filter_that_is_none_is_refused(given: tuple[str, str, str, str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_filter(*given)


def test_of_one_init_all_is_said(params: parameters.Params, tmp_path: Path) -> None:
    lines = described("ark-plus", params, tmp_path, 80)
    assert lines[0] == "ark-plus@swin_large_patch4_window12_384:img_size=768"
    assert "195M parameters, 768 pixels" in fields("backbone", lines)
    assert fields("licence", lines) == "ASU non-commercial; commercial use: no"
    assert fields("gate", lines) == "a form, which a person fills in"
    assert f"put it at {tmp_path / 'data/downloads/Ark6_swinLarge768_ep50.pth.tar'}" in fields("from", lines)
    assert fields("has seen", lines) == "chestxray14, chexpert, shenzhen"
    assert "prefix" in fields("not known", lines)
    assert all(len(line) <= 80 or "/" in line for line in lines)


def test_of_one_init_its_address_is_not_broken(params: parameters.Params, tmp_path: Path) -> None:
    address = RECORDS["rad-dino"].sources["vit_base_patch14_dinov2"].url
    assert any(line.endswith(address) for line in described("rad-dino", params, tmp_path, 40))


@pytest.mark.parametrize("name", RECORDS)
def test_every_init_can_be_asked_for(params: parameters.Params, tmp_path: Path, name: str) -> None:
    lines = described(name, params, tmp_path, 100)
    assert lines[0].startswith(name)
    for title in ("trained on", "how", "family", "backbone", "licence", "from", "input"):
        assert fields(title, lines)
    assert "{" not in " ".join(lines)


def test_a_backbone_may_be_asked_for(params: parameters.Params, tmp_path: Path) -> None:
    lines = described("dinov2@vit_small_patch14_dinov2", params, tmp_path, 100)
    assert fields("backbone", lines) == "vit_small_patch14_dinov2: 22M parameters, 518 pixels, patches of 14"
    for name in ("dinov2@resnet50", "swav@resnet18", "siglip@resnet50"):
        with pytest.raises(UserError, match="exists for"):
            described(name, params, tmp_path, 100)


def test_of_a_chain_its_start_is_said_and_all_that_it_has_seen(params: parameters.Params, tmp_path: Path) -> None:
    lines = described("rad-dino+shenzhen", params, tmp_path, 100)
    assert fields("further", lines) == "pre-trained here on shenzhen"
    assert fields("has seen", lines) == "chestxray14, chexpert, shenzhen"


def test_what_is_here_is_said(params: parameters.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data/downloads"
    folder.mkdir(parents=True)
    (folder / "swav_800ep_pretrain.pth.tar").touch()
    monkeypatch.setattr(store, "converted", lambda root: {"uni": ["vit_large_patch16_224:init_values=1e-05"]})
    lines = {line.partition(" ")[0]: line.split()[-1] for line in listed(params, tmp_path, Filter(), 140) if line}
    assert (lines["swav"], lines["uni"], lines["imagenet"]) == ("downloaded", "here", "installed")
    assert fields("here", described("swav", params, tmp_path, 100)) == "resnet50, downloaded"
    assert fields("here", described("uni", params, tmp_path, 100)).endswith("converted")
    assert fields("here", described("mae", params, tmp_path, 100)) == "no"


def test_own_inits_stand_in_the_list_too(params: parameters.Params, tmp_path: Path) -> None:
    own = parameters.OwnInit(file="mine.pth", backbone="resnet18", licence="ours")
    mine = dataclasses.replace(params, inits={"our-mae": own})
    lines = listed(mine, tmp_path, Filter(family="yours"), 80)
    assert "not-stated (1)" in lines
    assert any(line.split() == ["our-mae", "resnet18", "11M", "unclear"] for line in lines)
    assert "mine.pth" in fields("from", described("our-mae", mine, tmp_path, 80))


def test_of_an_own_init_its_list_of_images_is_said(params: parameters.Params, tmp_path: Path) -> None:
    entry = parameters.OwnInit(file="w.pth", backbone="resnet18", images="lists/seen.csv")
    lines = described("ours", dataclasses.replace(params, inits={"ours": entry}), tmp_path, 100)
    assert fields("its images", lines) == "listed in lists/seen.csv"


def test_the_verb_prints_the_list_the_one_and_refuses_both(
    tmp_path: Path, top: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    main.run(["inits", "--modality", "fundus", "--max-parameters", "90M", "--open"], tmp_path)
    assert names(capsys.readouterr().out.splitlines()) == ["retfound-green"]
    main.run(["inits", "--commercial", "yes", "--family", "medical"], tmp_path)
    assert {"rad-dino", "biomedclip"} <= set(names(capsys.readouterr().out.splitlines()))
    main.run(["inits", "rad-dino"], tmp_path)
    assert capsys.readouterr().out.startswith("rad-dino@vit_base_patch14_dinov2\n")
    with pytest.raises(UserError, match="inits rad-dino says all of one init"):
        main.run(["inits", "rad-dino", "--open"], tmp_path)


@pytest.mark.parametrize("option", ["modality", "family", "commercial"])
def test_the_shell_completes_what_a_filter_takes(option: str) -> None:
    assert main._candidates(option) == ["all", *list_inits.WORDS[option]]
