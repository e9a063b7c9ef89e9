from __future__ import annotations

import dataclasses
import fnmatch
import gzip

import pytest
import timm

from medtransfer.core import extras
from medtransfer.weights import architectures, timm_index
from tests.timm_index import packed


def test_the_index_says_what_timm_says() -> None:
    assert list(timm_index.architectures()) == timm.list_models()
    assert timm_index.pretrained("*") == timm.list_pretrained()
    for pattern in ("resnet50.*", "*.in1k", "vit_small_patch16_224.*", "resnet?0.*", "*.no_such", "*.tv*_in1k"):
        assert timm_index.pretrained(pattern) == timm.list_pretrained(pattern)
    for name in timm_index.pretrained("*"):
        architecture, _, tag = name.partition(".")
        for pattern in (f"{architecture}.*", f"*.{tag}"):
            assert timm_index.pretrained(pattern) == fnmatch.filter(timm_index.pretrained("*"), pattern)
    for name in (*timm.list_models(), *timm.list_pretrained()):
        config, said = timm.models.get_pretrained_cfg(name), timm_index.find(name)
        assert said is not None
        for field, value in dataclasses.asdict(said).items():
            wanted = getattr(config, field)
            assert value == (tuple(wanted) if isinstance(wanted, list) else wanted), (name, field)


def test_what_is_kept_for_a_place_without_timm_is_what_this_timm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = timm_index.KEPT.read_bytes()
    assert gzip.decompress(kept) == gzip.decompress(packed()), "run `python -m tests.timm_index`"
    asked = timm_index._said()
    timm_index._said.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(extras, "installed", lambda _: False)
        assert timm_index._said().keys() == asked.keys()
        assert timm_index._said()["pretrained"] == list(asked["pretrained"])
    timm_index._said.cache_clear()


def test_a_name_that_timm_has_renamed_is_an_architecture_and_a_tag_is_none() -> None:
    for name in ("resnet50", "gluon_resnet18_v1b", "resnet50.a1_in1k", "resnet_50", ""):
        assert timm_index.is_architecture(name) == (timm.is_model(name) and "." not in name), name
    assert timm_index.find("gluon_resnet18_v1b") is None
    assert timm_index.find("resnet50.no_such_tag") is None


def test_strides_and_patches_are_those_of_the_built_network() -> None:
    for name, strides, patch in (("resnet50", (2, 4, 8, 16, 32), 1), ("vit_small_patch16_224", (16,) * 3, 16)):
        assert architectures.strides(name) == strides
        assert architectures.patch_size(name) == patch
