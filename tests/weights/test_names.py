from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtransfer import params as parameters
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.params import OwnInit
from medtransfer.weights import names
from medtransfer.weights.names import check_backbone, expected, parse, seen


@pytest.mark.parametrize(
    ("name", "canonical", "slug"),
    [
        ("imagenet", "imagenet@tf_efficientnet_lite0", "imagenet--tf_efficientnet_lite0"),
        ("imagenet@resnet50", "imagenet@resnet50", "imagenet--resnet50"),
        ("swav", "swav@resnet50", "swav--resnet50"),
        ("random", "random@tf_efficientnet_lite0", "random--tf_efficientnet_lite0"),
        ("imagenet+inat2021", "imagenet+inat2021@resnet50", "imagenet_inat2021--resnet50"),
        ("dino@resnet50", "dino@resnet50", "dino--resnet50"),
        (
            "imagenet+chestxray14",
            "imagenet@tf_efficientnet_lite0+chestxray14",
            "imagenet--tf_efficientnet_lite0--chestxray14",
        ),
        ("swav+chexpert+shenzhen", "swav@resnet50+chexpert+shenzhen", "swav--resnet50--chexpert--shenzhen"),
        ("imagenet+inat2021+chexpert", "imagenet+inat2021@resnet50+chexpert", "imagenet_inat2021--resnet50--chexpert"),
        ("random@resnet18+mine", "random@resnet18+mine", "random--resnet18--mine"),
        ("moco-v3@vit_base_patch16_224", "moco-v3@vit_base_patch16_224", "moco-v3--vit_base_patch16_224"),
    ],
)
def test_names_resolve_their_backbone(name: str, canonical: str, slug: str) -> None:
    init = parse(name, "tf_efficientnet_lite0")
    assert (init.canonical, init.slug) == (canonical, slug)


def test_a_long_name_gives_a_file_name_that_file_systems_take() -> None:
    names_ = ["x" * 240 + end for end in "ab"]
    own = {name: OwnInit(file="w.pth", backbone="resnet18") for name in names_}
    slugs = [parse(f"{name}{chain}", "resnet50", own).slug for name in names_ for chain in ("", "+chexpert")]
    assert len(set(slugs)) == 4
    assert all(len(slug) == 200 and re.fullmatch(r"[A-Za-z0-9._-]+", slug) for slug in slugs)


def test_labels_differ_within_ten_letters() -> None:
    names_ = (
        "imagenet", "imagenet+chestxray14", "imagenet+chexpert", "random+chexpert", "swav", "timm:resnet50.a1_in1k",
        "file:/data/weights/mine.pth@resnet50",
    )  # fmt: skip
    labels = [parse(name, "tf_efficientnet_lite0").label for name in names_]
    assert labels == [
        "imagenet", "imag+chestxray14", "imag+chexpert", "rand+chexpert", "swav", "resnet50.a1_in1k", "mine.pth",
    ]  # fmt: skip
    assert len({label[:10] for label in labels}) == len(labels)


def test_only_known_datasets_are_split_off_a_file_name() -> None:
    assert parse("file:/a+b.pth", "resnet50").chain == ()
    init = parse("file:/a+b.pth@resnet18+chexpert", "resnet50")
    assert (init.local, init.backbone, init.chain) == ("/a+b.pth", "resnet18", ("chexpert",))
    assert parse("timm:resnet50.a1_in1k+chexpert", "resnet18").canonical == "timm:resnet50.a1_in1k+chexpert"


def test_what_is_drawn_and_trained_is_not_random() -> None:
    init = parse("random+chexpert", "resnet50")
    assert not init.random
    assert init.parent.random
    assert seen(init.canonical) == {"chexpert"}


def test_file_names_keep_their_own_at_signs() -> None:
    plain = parse("file:/a/b@2x.pth", "resnet50")
    assert (plain.local, plain.backbone) == ("/a/b@2x.pth", "resnet50")
    bound = parse("file:/a/b@2x.pth@resnet18", "resnet50")
    assert (bound.local, bound.backbone) == ("/a/b@2x.pth", "resnet18")
    assert bound.slug.startswith("file-")
    assert len({bound.slug, plain.slug, parse("file:/a/c.pth@resnet18", "resnet50").slug}) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imgenet", "Did you mean imagenet?"),
        ("moco", "Did you mean moco-v"),
        ("nothing-like-it", "unknown init 'nothing-like-it'. `medtransfer inits` lists the "),
        ("moco-v3@resnet18", "exists for the backbones resnet50, vit_base_patch16_224 only, got 'resnet18'"),
        ("timm:resnet50", "must be timm:<architecture>.<tag>"),
        ("timm:resnet50.a1_in1k@resnet50", "must be timm:<architecture>.<tag>"),
        ("swav@resnet18", "exists for the backbone resnet50 only"),
        ("imagenet++chexpert", "each dataset behind a + must be named, and once"),
        ("imagenet+chexpert+chexpert", "each dataset behind a + must be named, and once"),
        ("imgenet+chexpert", "Did you mean imagenet?"),
        ("swav@resnet18+chexpert", "exists for the backbone resnet50 only"),
    ],
)
def test_unknown_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        parse(name, "resnet50")
    assert words in str(error.value)


def test_unknown_backbones_are_refused_with_near_names() -> None:
    check_backbone("resnet50")
    with pytest.raises(UserError, match="resnet50"):
        check_backbone("resnet_50")
    with pytest.raises(UserError, match="no such architecture"):
        check_backbone("resnet50.tv_in1k")


def test_a_timm_tag_is_its_own_name() -> None:
    init = parse("timm:vit_base_patch16_224.augreg_in21k", "resnet50")
    assert init.canonical == "timm:vit_base_patch16_224.augreg_in21k"
    assert init.backbone == "vit_base_patch16_224"
    assert init.slug.endswith("--vit_base_patch16_224")
    assert init.slug != parse("timm:vit_base_patch16_224.mae", "resnet50").slug


def test_an_init_of_ones_own_is_a_name_like_others() -> None:
    entry = OwnInit(file="s3://b/w.pth", backbone="resnet18", prefix="encoder.", drop=("decoder.*",), licence="ours")
    init = parse("ours", "resnet50", {"ours": entry})
    assert (init.canonical, init.slug, init.local) == ("ours@resnet18", "ours--resnet18", "")
    assert init.source is not None
    assert (init.source.prefix, init.source.drop, init.source.layout) == ("encoder.", ("decoder.*",), "auto")
    with pytest.raises(UserError, match="only, got 'resnet50'"):
        parse("ours@resnet50", "resnet50", {"ours": entry})


@pytest.mark.parametrize(("name", "words"), [("swav", "is the name of a published init"), ("a/b", "may hold letters")])
def test_names_of_ones_own_do_not_clash(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse(name, "resnet50", {name: OwnInit(file="w.pth", backbone="resnet18")})


def test_the_benchmarks_inits_are_expected_by_canonical_name(top: Path) -> None:
    params = parameters.load(top / "params.yaml", {"benchmark.inits": "[random, swav]"})
    assert expected(params).inits == ("random@tf_efficientnet_lite0", "swav@resnet50")


def test_the_grammar_knows_the_datasets_of_all_tasks() -> None:
    assert {*TASKS, *(task.dataset for task in TASKS.values())} == names.DATASETS
