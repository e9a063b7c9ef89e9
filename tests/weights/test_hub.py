from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from medtransfer import api
from medtransfer import params as parameters
from medtransfer.core import downloads
from medtransfer.core.errors import UserError
from medtransfer.params import OwnInit, Params
from medtransfer.weights import hub as names_of_a_hub
from medtransfer.weights import hub_client, hub_configs, hub_names, locate, store
from medtransfer.weights.names import Initialization, parse, seen
from medtransfer.weights.records import Record, Source
from medtransfer.weights.zoo import RECORDS
from tests.support import fake_hub
from tests.support.fake_hub import Hub

NAME = "hf:lab/net"
WEIGHTS = b"some weights" * 1000
CARD = b"---\nlicense: mit\ndatasets:\n- lab/CheXpert-small\n---\n# A network\n"
CONFIG = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}


def packed(tree: Any) -> bytes:
    return json.dumps(tree).encode()


FILES = {"model.safetensors": WEIGHTS, "config.json": packed(CONFIG), "README.md": CARD}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with fake_hub.running() as running:
        fake_hub.point(monkeypatch, running.url, tmp_path / "home")
        yield running


@pytest.fixture(scope="module")
def plain(top: Path) -> Params:
    return parameters.load(top / "params.yaml", {})


def described(params: Params, name: str, root: Path) -> Params:
    return names_of_a_hub.bring(params, [name], root)


def init(params: Params, name: str, root: Path) -> Initialization:
    return parse(name, "resnet50", described(params, name, root).inits)


def lock(root: Path) -> dict[str, str]:
    path = root / downloads.LOCK_FILE
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:lab/net", ("lab/net", "", "")),
        ("hf-hub:timm/resnet50.a1_in1k", ("timm/resnet50.a1_in1k", "", "")),
        ("hf:lab/net@v1.0", ("lab/net", "v1.0", "")),
        ("hf:lab/net/sub/a@b.pth", ("lab/net", "", "sub/a@b.pth")),
        ("hf:lab/net@refs/pr/3/sub/a.pth", ("lab/net", "refs/pr/3", "sub/a.pth")),
        ("hf://lab/net@v1/a.pth", ("lab/net", "v1", "a.pth")),
    ],
)
def test_the_grammar_of_names(text: str, parts: tuple[str, str, str]) -> None:
    found = hub_names.read(text)
    assert (found.repo, found.revision, found.file) == parts
    assert hub_names.read(found.name) == hub_names.read(found.address) == found


@pytest.mark.parametrize("text", ["hf:net", "hf:", "hf:lab/", "hf:lab/../x", "hf:lab/net/../../etc", "hf:lab/a b"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be hf:<owner>/<repository>"):
        hub_names.read(text)


def test_a_web_address_with_a_token_is_refused_without_showing_it() -> None:
    with pytest.raises(UserError) as error:
        hub_names.read("hf:https://user:hf_SECRETSECRET@huggingface.co/lab/net")
    assert "SECRET" not in str(error.value)


def test_a_name_is_described_bound_and_pinned(hub: Hub, plain: Params, tmp_path: Path) -> None:
    commit = hub.add("lab/net", FILES).refs["main"]
    params = described(plain, NAME, tmp_path)
    address = f"hf://lab/net@{commit}/model.safetensors"
    assert params.inits[NAME] == OwnInit(
        file=address, backbone="test_resnet", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), licence="mit",
        data="lab/CheXpert-small", datasets=("chexpert",),
    )  # fmt: skip
    found = parse(f"{NAME}+chexpert", "resnet50", params.inits)
    assert (found.canonical, found.chain) == (f"{NAME}@test_resnet+chexpert", ("chexpert",))
    assert (found.label, found.parent.label) == ("net+chexpert", "net")
    assert re.fullmatch("hf-[0-9a-f]{8}--test_resnet--chexpert", found.slug)
    assert parse(found.canonical, "resnet50", params.inits) == found
    assert parse("hf-hub:lab/net", "resnet50", params.inits) == found.parent
    assert parse("hf://lab/net", "resnet50", params.inits) == found.parent
    assert seen(found.parent.canonical) == {"chexpert"}
    assert lock(tmp_path) == {NAME: address}


def test_a_backbone_in_the_name_is_the_one_that_is_taken(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.add("lab/net", {**FILES, "config.json": packed({})})
    name = f"{NAME}@v1/model.safetensors@resnet18"
    found = init(plain, f"{name}+shenzhen", tmp_path)
    assert found.canonical == f"{name}+shenzhen"
    assert seen(found.canonical) == {"chexpert", "shenzhen"}


def test_a_pinned_name_asks_for_its_revision_alone(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.add("lab/net", FILES)
    before = described(plain, NAME, tmp_path)
    hub.asked.clear()
    assert described(plain, NAME, tmp_path).inits == before.inits
    assert [path for _, path, _ in hub.asked] == ["/api/models/lab/net"]


def test_a_moved_revision_is_said_and_not_followed(
    hub: Hub, plain: Params, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = hub.add("lab/net", FILES)
    before = described(plain, NAME, tmp_path).inits[NAME]
    later = there.push({**FILES, "model.safetensors": b"other weights"})
    with caplog.at_level(logging.WARNING, "medtransfer"):
        assert described(plain, NAME, tmp_path).inits[NAME] == before
    assert f"main is commit {later[:12]} by now" in caplog.text
    (tmp_path / downloads.LOCK_FILE).unlink()
    assert later in described(plain, NAME, tmp_path).inits[NAME].file


def test_a_commit_is_never_asked_for_again(hub: Hub, plain: Params, tmp_path: Path) -> None:
    commit = hub.add("lab/net", FILES).refs["main"]
    described(plain, f"{NAME}@{commit}", tmp_path)
    hub.asked.clear()
    described(plain, f"{NAME}@{commit}", tmp_path)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("pytorch_model.bin", "model.safetensors", "open_clip_model.safetensors"), "model.safetensors"),
        (("open_clip_pytorch_model.bin", "open_clip_model.safetensors"), "open_clip_model.safetensors"),
        (("model.safetensors.index.json", "model-1-of-2.safetensors", "pytorch_model.bin"),
         "model.safetensors.index.json"),
        (("pytorch_model.bin", "a.pth"), "pytorch_model.bin"),
        (("README.md", "encoder.pth"), "encoder.pth"),
    ],
)  # fmt: skip
def test_the_file_with_the_weights(hub: Hub, plain: Params, tmp_path: Path, there: tuple[str, ...], taken: str) -> None:
    hub.add("lab/net", {"config.json": packed(CONFIG), "README.md": CARD, **dict.fromkeys(there, CARD)})
    assert described(plain, NAME, tmp_path).inits[NAME].file.endswith(f"/{taken}")


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (("a.pth", "b.pth"), "Found 2 that might be it; name one.*It holds: a.pth, b.pth"),
        (("notes.txt",), "Found none that looks like weights.*notes.txt"),
    ],
)
def test_a_choice_that_is_not_clear_is_asked_for(
    hub: Hub, plain: Params, tmp_path: Path, there: tuple[str, ...], words: str
) -> None:
    hub.add("lab/net", {"README.md": CARD, **dict.fromkeys(there, WEIGHTS)})
    with pytest.raises(UserError, match=words):
        described(plain, NAME, tmp_path)
    assert lock(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf:lab/nett", "looked for http.*/lab/nett, found none; if it is a private repository, set HF_TOKEN"),
        ("hf:lab/unlisted", "looked for http.*/lab/unlisted, found none; if it is a private repository, set HF_TOKEN"),
        ("hf:lab/net@v3", "has no revision v3; it has .*v1"),
        ("hf:lab/net/model.safetensor", "looked for model.safetensor in .*; near names: model.safetensors"),
        ("hf:lab/gated", r"gated: open http.*/lab/gated, accept its conditions, then set HF_TOKEN .* `hf auth login`"),
    ],
)
def test_what_is_not_there_or_not_for_everybody(hub: Hub, plain: Params, tmp_path: Path, name: str, words: str) -> None:
    for repo, facts in (("lab/net", {}), ("lab/gated", {"gated": True}), ("lab/unlisted", {"private": True})):
        hub.add(repo, FILES, **facts)
    with pytest.raises(UserError, match=words):
        described(plain, name, tmp_path)
    assert lock(tmp_path) == {}


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        (
            "hf_OFSOMEONEELSE",
            "hf:lab/gated",
            "was not let in: open http.*/lab/gated as that user",
        ),
        ("hf_OFSOMEONEELSE", "hf:lab/unlisted", "found none that the token opens"),
        ("hf_EXPIREDLONGAGO", "hf:lab/gated", r"does not let it be read \(401\); the token may have expired"),
    ],
)
def test_a_token_that_does_not_open_it(
    hub: Hub, plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, words: str
) -> None:
    hub.add("lab/gated", FILES, gated=True)
    hub.add("lab/unlisted", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words) as error:
        described(plain, name, tmp_path)
    assert token not in str(error.value)


def test_a_token_opens_a_gate_and_stays_with_the_hub(
    hub: Hub, plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("lab/gated", FILES, gated=True)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    checkpoint = locate.find(init(plain, "hf:lab/gated", tmp_path), tmp_path)
    assert checkpoint.path.read_bytes() == WEIGHTS
    to_store = [headers for _, path, headers in hub.asked if path.startswith("/store")]
    assert to_store
    assert fake_hub.TOKEN not in str(to_store)


def test_a_hub_that_is_down_is_said(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.status = 503
    with pytest.raises(UserError, match=f"the hub {hub.url} says 503: try again later"):
        described(plain, NAME, tmp_path)


def test_a_card_without_a_licence_is_refused_and_says_how_to_go_on(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.add("lab/net", {**FILES, "README.md": b"# no head\n"})
    with pytest.raises(UserError, match=r"states no licence(.|\n)*file: hf:lab/net\n      backbone: test_resnet\n"):
        described(plain, NAME, tmp_path)
    own = OwnInit(file=NAME, backbone="test_resnet", licence="CC-BY-4.0", std=(1.0, 1.0, 1.0))
    params = dataclasses.replace(plain, inits={"mine": own})
    entry = described(params, "mine@test_resnet+shenzhen", tmp_path).inits["mine"]
    assert entry.file.startswith("hf://lab/net@")
    assert (entry.licence, entry.mean, entry.std) == ("CC-BY-4.0", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    without = dataclasses.replace(plain, inits={"mine": dataclasses.replace(own, licence="not stated")})
    with pytest.raises(UserError, match=r"inits\.mine: the card .* states no licence"):
        described(without, "mine", tmp_path)
    assert described(params, "imagenet", tmp_path) == params  # what no name means is not asked for


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: other\nlicense_name: dinov3-license", "dinov3-license"),
        ("license: other\nlicense_link: https://x.org/l", "https://x.org/l"),
        ("license: [mit, cc-by-4.0]", "mit, cc-by-4.0"),
        ("license: other", "other"),
    ],
)
def test_the_licence_of_a_card(hub: Hub, plain: Params, tmp_path: Path, head: str, licence: str) -> None:
    hub.add("lab/net", {**FILES, "README.md": f"---\n{head}\n---\n".encode()})
    assert described(plain, NAME, tmp_path).inits[NAME].licence == licence


def test_a_backbone_that_nothing_names_is_asked_for_with_what_is_known(hub: Hub, plain: Params, tmp_path: Path) -> None:
    config = {"model_type": "vit", "hidden_size": 100, "num_hidden_layers": 3, "patch_size": 4, "image_size": 8}
    hub.add("lab/net", {**FILES, "config.json": packed(config)})
    with pytest.raises(UserError, match=r"transformers' vit with hidden_size 100, num_hidden_layers 3.*name it, as in"):
        described(plain, NAME, tmp_path)


VISION = {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16}


@pytest.mark.parametrize(
    ("config", "backbone"),
    [
        ({"model_type": "dinov2", **VISION, "patch_size": 14, "image_size": 518},
         "vit_base_patch14_dinov2:img_size=518"),
        ({"model_type": "dinov2_with_registers", **VISION, "patch_size": 14, "image_size": 224,
          "num_register_tokens": 4}, "vit_base_patch14_reg4_dinov2:img_size=224"),
        ({"model_type": "vit", **VISION, "image_size": 384}, "vit_base_patch16_384"),
        ({"model_type": "vit", **VISION, "image_size": 512}, "vit_base_patch16_224:img_size=512"),
        ({"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}},
         "vit_base_patch16_siglip_224"),
        ({"model_type": "clip_vision_model", **VISION, "image_size": 224}, "vit_base_patch16_clip_quickgelu_224"),
        ({"model_type": "clip", "vision_config": {**VISION, "hidden_act": "gelu"}}, "vit_base_patch16_clip_224"),
        ({"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}, "convnext_tiny"),
        ({"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "window_size": 7, "patch_size": 4,
          "image_size": 224}, "swin_base_patch4_window7_224"),
        ({"model_type": "vit_mae", **VISION, "image_size": 224}, ""),
        ({"architecture": "vit_small_patch14_dinov2", "model_args": {"img_size": 224, "init_values": 1e-5,
          "dynamic_img_size": True, "num_classes": 0, "in_chans": 3}},
         "vit_small_patch14_dinov2:img_size=224:init_values=1e-05"),
        ({"architecture": "vit_small_patch14_dinov2", "model_args": {"qk_norm": True}}, ""),
        ({"architecture": "vit_unheard_of"}, ""),
    ],
)  # fmt: skip
def test_the_architecture_that_a_configuration_names(config: dict[str, Any], backbone: str) -> None:
    assert hub_configs.read(config, {}, {}).backbone == backbone


def test_a_configuration_of_open_clip_names_its_trunk_and_input() -> None:
    clip = {
        "model_cfg": {"vision_cfg": {"timm_model_name": "vit_base_patch16_224"}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    }
    found = hub_configs.read({}, clip, {})
    assert (found.backbone, found.mean, found.std) == ("vit_base_patch16_224", (0.5,) * 3, (0.2,) * 3)


def test_the_preprocessor_says_the_input_of_a_model_of_transformers(hub: Hub, plain: Params, tmp_path: Path) -> None:
    files = {"config.json": packed({"model_type": "convnext", "depths": [3, 3, 9, 3],
                                    "hidden_sizes": [96, 192, 384, 768]}),
             "preprocessor_config.json": packed({"image_mean": [0.53] * 3, "image_std": [0.25] * 3})}  # fmt: skip
    hub.add("lab/net", {**FILES, **files})
    entry = described(plain, NAME, tmp_path).inits[NAME]
    assert (entry.backbone, entry.mean, entry.std) == ("convnext_tiny", (0.53,) * 3, (0.25,) * 3)


def test_weights_become_a_receipt_and_their_hash_is_noted(hub: Hub, plain: Params, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    content = save(dict(state))
    hub.add("lab/net", {**FILES, "model.safetensors": content})
    found = init(plain, NAME, tmp_path)
    receipt = store.obtain(found, tmp_path)
    assert receipt is not None
    address = lock(tmp_path)[NAME]
    file = receipt.files[0]
    assert (file.address, file.bytes) == (address, len(content))
    assert lock(tmp_path)[address] == file.sha256 == hashlib.sha256(content).hexdigest()
    assert (receipt.mean, receipt.licence, receipt.commercial) == ((0.1, 0.2, 0.3), "mit", "yes")
    assert not (tmp_path / "data/downloads").exists()
    hub.asked.clear()
    assert store.obtain(init(plain, NAME, tmp_path), tmp_path) == receipt
    assert len(hub.asked) == 1
    assert store.stale(found, next((tmp_path / "data/weights/adhoc").glob("*.safetensors"))) is False


def test_a_program_gets_a_backbone_by_its_name_on_the_hub(hub: Hub, top: Path, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    hub.add("lab/net", {**FILES, "model.safetensors": save(dict(model.state_dict()))})
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    network, mean, std = api.backbone(NAME, root=tmp_path)
    assert (mean, std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(network.state_dict()["conv1.0.weight"], model.state_dict()["conv1.0.weight"])


def test_shards_are_read_together(hub: Hub, plain: Params, tmp_path: Path) -> None:
    state = dict(timm.create_model("test_resnet", num_classes=0).state_dict())
    places = {key: f"model-{number % 2}.safetensors" for number, key in enumerate(state)}
    shards = {name: save({key: state[key] for key in state if places[key] == name}) for name in set(places.values())}
    index = packed({"metadata": {}, "weight_map": places})
    there = {"config.json": packed(CONFIG), "README.md": CARD, "model.safetensors.index.json": index}
    hub.add("lab/net", {**there, **shards})
    receipt = store.obtain(init(plain, NAME, tmp_path), tmp_path)
    assert receipt is not None
    assert set(receipt.keys) == set(state)
    assert len(receipt.files) == 3


def test_an_index_that_names_files_elsewhere_is_refused(hub: Hub, plain: Params, tmp_path: Path) -> None:
    index = packed({"weight_map": {"a": "../../../../token"}})
    hub.add("lab/net", {"config.json": packed(CONFIG), "README.md": CARD, "model.safetensors.index.json": index})
    with pytest.raises(UserError, match="names files outside of its folder"):
        locate.find(init(plain, NAME, tmp_path), tmp_path)


def test_a_transfer_that_is_cut_off_goes_on_where_it_stopped(
    hub: Hub, plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.add("lab/net", FILES)
    hub.cuts = [5000, 3000]
    with caplog.at_level(logging.DEBUG):
        checkpoint = locate.find(init(plain, NAME, tmp_path), tmp_path)
    assert checkpoint.path.read_bytes() == WEIGHTS
    ranges = [headers.get("range", headers.get("Range", "")) for _, path, headers in hub.asked if "/store" in path]
    assert ranges == ["", "bytes=5000-", "bytes=8000-"]
    assert "Trying to resume" in caplog.text
    assert "SIGNED" not in caplog.text


def test_other_bytes_than_the_hub_states_are_refused_and_removed(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.add("lab/net", FILES)
    found = init(plain, NAME, tmp_path)
    hub.wrong = True
    with pytest.raises(UserError, match=r"is not the file: expected sha256 .*; what came was removed"):
        locate.find(found, tmp_path)
    hub.wrong = False
    assert locate.find(found, tmp_path).path.read_bytes() == WEIGHTS


def test_a_file_is_held_to_the_hash_that_was_noted(hub: Hub, plain: Params, tmp_path: Path) -> None:
    hub.add("lab/net", {"a.txt": WEIGHTS, **FILES})
    found = init(plain, "hf:lab/net/a.txt", tmp_path)  # too small for the hub to state a SHA-256
    checkpoint = locate.find(found, tmp_path)
    locate.note(checkpoint, found, tmp_path)
    checkpoint.path.resolve().write_bytes(b"changed")
    with pytest.raises(UserError, match=r"expected sha256 .*delete .* to get it again"):
        locate.find(found, tmp_path)


def test_all_shards_are_files_of_the_checkpoint(hub: Hub, plain: Params, tmp_path: Path) -> None:
    shards = {f"model-{n}-of-2.safetensors": WEIGHTS + bytes([n]) for n in (1, 2)}
    index = packed({"weight_map": {f"layer{n}": name for n, name in enumerate((*shards, *shards))}})
    hub.add(
        "lab/net", {"config.json": packed(CONFIG), "README.md": CARD, "model.safetensors.index.json": index, **shards}
    )
    found = init(plain, NAME, tmp_path)
    checkpoint = locate.find(found, tmp_path)
    assert [file.address.rpartition("/")[2] for file in checkpoint.files] == ["model.safetensors.index.json", *shards]
    assert all((checkpoint.path.parent / name).read_bytes() == content for name, content in shards.items())
    locate.note(checkpoint, found, tmp_path)
    assert len(lock(tmp_path)) == 4


@pytest.mark.parametrize("away", ["offline mode", "no server"])
def test_without_a_network_a_filled_cache_does(
    hub: Hub, plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    hub.add("lab/net", FILES)
    before = init(plain, NAME, tmp_path)
    locate.find(before, tmp_path)
    if away == "no server":
        fake_hub.point(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", away == "offline mode")
    assert init(plain, NAME, tmp_path) == before
    assert locate.find(before, tmp_path).path.read_bytes() == WEIGHTS
    (tmp_path / downloads.LOCK_FILE).unlink()  # another workspace that shares the cache
    assert init(plain, NAME, tmp_path) == before


def test_without_hub_and_cache_the_receipt_says_what_is_known(
    hub: Hub, plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save(dict(timm.create_model("test_resnet", num_classes=0).state_dict()))
    hub.add("lab/net", {**FILES, "model.safetensors": content})
    before = described(plain, NAME, tmp_path)
    found = parse(NAME, "resnet50", before.inits)
    receipt = store.obtain(found, tmp_path)
    fake_hub.point(monkeypatch, "http://127.0.0.1:9", tmp_path / "empty")  # after `git pull` and `dvc pull` elsewhere
    assert described(plain, NAME, tmp_path) == before
    assert store.obtain(init(plain, NAME, tmp_path), tmp_path) == receipt
    with pytest.raises(UserError, match="cannot be reached"):
        described(plain, "hf:lab/other", tmp_path)


@pytest.mark.parametrize(
    ("offline", "words"),
    [
        (True, "in the cache .*, found none, and HF_HUB_OFFLINE keeps the hub from being asked: unset it"),
        (
            False,
            "in the cache .*, found none, and the hub .* cannot be reached .*: with a network, `medtransf",
        ),
    ],
)
def test_without_a_network_an_empty_cache_says_what_to_do(
    plain: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, words: str
) -> None:
    fake_hub.point(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match=words):
        described(plain, NAME, tmp_path)


def test_a_gated_file_of_the_table_is_asked_for_with_the_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("lab/gated", {"w.pth": WEIGHTS}, gated=True)
    source = Source(
        url="https://huggingface.co/lab/gated/resolve/main/w.pth", sha256=hashlib.sha256(WEIGHTS).hexdigest()
    )
    record = Record(name="gated", family="medical", sources={"resnet50": source}, gate="accept")
    found = Initialization(record=record, backbone="resnet50")
    with pytest.raises(UserError, match=r"is gated: open http.*/lab/gated.*put it at .*data/downloads/w.pth"):
        locate.find(found, tmp_path)
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    checkpoint = locate.find(found, tmp_path)
    assert checkpoint.path.read_bytes() == WEIGHTS
    assert checkpoint.files[0].address == source.url
    locate.note(checkpoint, found, tmp_path)
    assert lock(tmp_path) == {}


def test_a_file_of_the_table_that_was_renamed_is_looked_for_by_near_names(hub: Hub, tmp_path: Path) -> None:
    hub.add("lab/gated", {"weights.pth": WEIGHTS})
    source = Source(url="https://huggingface.co/lab/gated/resolve/main/weight.pth")
    record = Record(name="gated", family="medical", sources={"resnet50": source}, gate="accept")
    with pytest.raises(UserError, match=r"has no file weight.pth at main; near names: weights.pth"):
        locate.find(Initialization(record=record, backbone="resnet50"), tmp_path)


def test_a_record_without_a_gate_is_downloaded_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub.point(monkeypatch, "http://127.0.0.1:9", tmp_path / "home")
    found = parse("radimagenet", "resnet50")
    assert found.source is not None
    assert hub_names.of_web(found.source.url) == hub_names.HubFile("Lab-Rasool/RadImageNet", "main", "ResNet50.pt")
    assert not RECORDS["radimagenet"].gate
    assert hub_client.wanted() is False
    assert locate._better_by_hub(found, found.source, found.source.url) is None
