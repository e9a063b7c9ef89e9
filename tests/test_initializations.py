from __future__ import annotations

from pathlib import Path

import pytest

from medtransfer import params as parameters
from medtransfer.errors import UserError
from medtransfer.initializations import RECORDS, check_backbone, expected, parse


@pytest.mark.parametrize(
    ("name", "canonical", "slug"),
    [
        ("imagenet", "imagenet@tf_efficientnet_lite0", "imagenet--tf_efficientnet_lite0"),
        ("imagenet@resnet50", "imagenet@resnet50", "imagenet--resnet50"),
        ("swav", "swav@resnet50", "swav--resnet50"),
        ("random", "random@tf_efficientnet_lite0", "random--tf_efficientnet_lite0"),
    ],
)
def test_names_resolve_their_backbone(name: str, canonical: str, slug: str) -> None:
    init = parse(name, "tf_efficientnet_lite0")
    assert (init.canonical, init.slug) == (canonical, slug)


def test_file_names_keep_their_own_at_signs() -> None:
    plain = parse("file:/a/b@2x.pth", "resnet50")
    assert (plain.path, plain.backbone) == ("/a/b@2x.pth", "resnet50")
    bound = parse("file:/a/b@2x.pth@resnet18", "resnet50")
    assert (bound.path, bound.backbone) == ("/a/b@2x.pth", "resnet18")
    assert bound.slug.startswith("file-")
    assert len({bound.slug, plain.slug, parse("file:/a/c.pth@resnet18", "resnet50").slug}) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imgenet", "Did you mean imagenet?"),
        ("moco", "Valid inits: imagenet, random, swav"),
        ("swav@resnet18", "exists for the backbone resnet50 only"),
        ("imagenet+chestxray14", "no `pretrain` stage yet"),
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


def test_every_record_states_what_it_is() -> None:
    for name, record in RECORDS.items():
        assert record.name == name
        assert record.licence
        assert record.method
        assert (record.source == "url") == bool(record.url)
        assert all(0 < s <= 1 for s in record.std)


def test_the_benchmarks_inits_are_expected_by_canonical_name(top: Path) -> None:
    params = parameters.load(top / "params.yaml", {"benchmark.inits": "[random, swav]"})
    assert expected(params).inits == ("random@tf_efficientnet_lite0", "swav@resnet50")
