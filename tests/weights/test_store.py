from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medtransfer.core import downloads
from medtransfer.core.errors import UserError
from medtransfer.params import OwnInit
from medtransfer.weights import backbones, convert, locate, recipes, store
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.zoo import RECORDS
from tests.support.quick import quick

SMALL = "resnet10t"
"""a timm backbone of 5 M parameters"""


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(backbones.bare_backbone(SMALL).state_dict())


def file_init(path: Path) -> Initialization:
    return parse(f"file:{path}@{SMALL}", "resnet50")


@pytest.mark.parametrize(
    ("prefix", "container", "suffix"),
    [("", "", ".pth"), ("module.", "state_dict", ".pth.tar"), ("backbone.", "model", ".pt"), ("", "", ".safetensors"),
     ("module.encoder.", "model", ".pth")],
)  # fmt: skip
def test_a_file_is_converted_whatever_its_wrapping(
    tmp_path: Path, tensors: dict[str, Tensor], prefix: str, container: str, suffix: str
) -> None:
    content: Any = {prefix + k: v for k, v in tensors.items()} | {f"{prefix}fc.weight": torch.ones(3, 512)}
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({container: content, "epoch": 3} if container else content, path)
    receipt = store.obtain(file_init(path), tmp_path)
    assert receipt is not None
    assert set(receipt.keys) == set(tensors)
    assert receipt.dropped == {f"{prefix}fc.*": (f"{prefix}fc.weight",)}
    back = store.state(file_init(path), tmp_path, 0, "one")
    assert all(torch.equal(back[k], v) for k, v in tensors.items())
    assert convert.digest(back) == receipt.tensors_sha256 == convert.digest(tensors)
    assert store.read_receipt(next((tmp_path / "data/weights/adhoc").glob("*.safetensors"))) == receipt


def broken(tensors: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    key = "layer1.0.conv1.weight"
    if what == "missing":
        return {k: v for k, v in tensors.items() if k != key}
    if what == "unexpected":
        return tensors | {"layer9.weight": torch.ones(1)}
    if what == "twice":
        return {f"{part}.{k}": v for k, v in tensors.items() for part in ("encoder_q", "encoder_k")}
    return tensors | {key: torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("missing", "1 are missing (layer1.0.conv1.weight)"),
        ("unexpected", "1 unexpected (layer9.weight)"),
        ("shape", "1 have another shape (layer1.0.conv1.weight (2, 2) for (64, 64, 3, 3))"),
        ("twice", "stands in it twice: by timm's names, prefix 'encoder_q.', and by timm's names, prefix 'encoder_k.'"),
    ],
)
def test_files_that_do_not_account_for_the_backbone_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], what: str, words: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save(broken(tensors, what), path)
    with pytest.raises(UserError) as error:
        store.obtain(file_init(path), tmp_path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert not list(tmp_path.glob("data/weights/*/*"))


def test_truncated_files_and_code_in_pickles_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(tensors, whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cut\.pth is damaged or not complete"):
        store.obtain(file_init(cut), tmp_path)

    class Harm:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/harmed",)

    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": Harm()}, evil)
    with pytest.raises(UserError, match=r"evil\.pth"):
        store.obtain(file_init(evil), tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_a_changed_source_is_converted_again_and_a_changed_copy_refused(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    init = file_init(path)
    first = store.obtain(init, tmp_path)
    torch.save({k: v + 1 for k, v in tensors.items()}, path)
    second = store.obtain(init, tmp_path)
    assert first is not None
    assert second is not None
    assert first.tensors_sha256 != second.tensors_sha256
    converted = next((tmp_path / "data/weights/adhoc").glob("*.safetensors"))
    save_file({k: v + 2 for k, v in tensors.items()}, converted)
    with pytest.raises(UserError, match="differs from its receipt"):
        store.state(init, tmp_path, 0, "one")


def test_packaged_imagenet_weights_are_real(tmp_path: Path) -> None:
    init = parse("imagenet", "tf_efficientnet_lite0")
    receipt = store.obtain(init, tmp_path)
    assert receipt is not None
    assert len(receipt.keys) == 294
    assert receipt.dropped == {"_fc.*": ("_fc.weight", "_fc.bias")}
    assert receipt.parameters == 3_371_008
    assert (receipt.mean, receipt.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert receipt.files[0].sha256.startswith("57934424")
    tensors = store.state(init, tmp_path, 0, "one")
    model = backbones.bare_backbone("tf_efficientnet_lite0").eval()
    backbones.load_into(model, tensors, init.backbone)
    with torch.inference_mode():
        features = model(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(features).all()
    assert features.std() > 0.01


def test_a_run_says_what_it_starts_from(tmp_path: Path) -> None:
    init = parse("imagenet", "tf_efficientnet_lite0")
    store.obtain(init, tmp_path)
    lines = store.description(init, tmp_path).splitlines()
    assert lines[0].startswith("imagenet@tf_efficientnet_lite0: ImageNet-1k; supervised")
    assert any("294 tensors matched" in line and line.startswith("- ") for line in lines)
    assert "drawn from the seed" in store.description(parse("random", "resnet50"), tmp_path)


def test_random_is_drawn_from_the_seed_as_torchvision_or_timm_draws(tmp_path: Path) -> None:
    init = parse("random", "resnet50")
    assert store.obtain(init, tmp_path) is None
    one, again = (store.state(init, tmp_path, 3, "one") for _ in range(2))
    other, zero = store.state(init, tmp_path, 4, "one"), store.state(init, tmp_path, 3, "zero")
    assert convert.digest(one) == convert.digest(again) != convert.digest(other)
    assert (one["layer1.0.bn3.weight"] == 1).all()
    assert (zero["layer1.0.bn3.weight"] == 0).all()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:  # the handler's own name
            if "short" not in self.path:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 500)  # says more than it sends
            return None

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def swav_like(url: str) -> Initialization:
    record = RECORDS["swav"]
    source = replace(record.sources["resnet50"], url=url)
    return Initialization(record=replace(record, sources={SMALL: source}), backbone=SMALL)


def test_a_published_file_is_fetched_and_its_heads_dropped(
    tmp_path: Path, tensors: dict[str, Tensor], server: str
) -> None:
    content = {f"module.{k}": v for k, v in tensors.items()}
    content |= {"module.projection_head.0.weight": torch.ones(2), "module.prototypes.weight": torch.ones(2)}
    torch.save(content, tmp_path / "served/swav.pth.tar")
    receipt = store.obtain(swav_like(f"{server}/swav.pth.tar"), tmp_path)
    assert receipt is not None
    assert {k for keys in receipt.dropped.values() for k in keys} == {
        "module.projection_head.0.weight", "module.prototypes.weight",
    }  # fmt: skip
    assert (tmp_path / "data/downloads/swav.pth.tar").is_file()
    assert receipt.std == (0.228, 0.224, 0.225)


@pytest.mark.parametrize("name", ["absent.pth.tar", "short.pth.tar"])
def test_a_failed_download_says_where_to_get_and_put_the_file_and_leaves_nothing(
    tmp_path: Path, server: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "BACKOFF", 0.01)
    with pytest.raises(UserError) as error:
        store.obtain(swav_like(f"{server}/{name}"), tmp_path)
    assert f"{server}/{name}" in str(error.value)
    assert str(tmp_path / "data/downloads" / name) in str(error.value)
    assert [path.name for path in (tmp_path / "data/downloads").iterdir()] == [f".{name}.lock"]


@pytest.mark.parametrize("backbone", ["resnet10t", "convnext_atto", "tf_efficientnet_lite0", "densenet121"])
def test_a_feature_extractor_takes_the_backbones_tensors(backbone: str) -> None:
    tensors = backbones.bare_backbone(backbone).state_dict()
    extractor = timm.create_model(backbone, features_only=True, pretrained=False)
    backbones.load_into(extractor, tensors, backbone)
    own = list(extractor.state_dict().values())
    assert sum(any(torch.equal(a, b) for b in tensors.values() if b.shape == a.shape) for a in own) == len(own)
    lacking = {k: v for k, v in tensors.items() if k != next(iter(tensors))}
    with pytest.raises(UserError, match="lack"):
        backbones.load_into(extractor, lacking, backbone)


def test_timm_names_are_imagenet_1k_alone() -> None:
    def tag(name: str) -> str:
        return locate.timm_name(parse(name, "resnet50"))

    assert tag("imagenet") == "resnet50.tv_in1k"
    assert tag("imagenet@convnext_tiny") == "convnext_tiny.fb_in1k"
    assert tag("imagenet@swin_base_patch4_window7_224") == "swin_base_patch4_window7_224.ms_in1k"
    assert tag("imagenet-v2@resnet152") == "resnet152.tv2_in1k"
    assert tag("dino@resnet50") == ""
    assert locate.resolve(parse("timm:gcvit_tiny.in1k", "x")).sha256 == "ac783954"
    assert locate.resolve(parse("imagenet@resnet50", "x")).url == (
        "https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("dinov2@resnet50", "exists for vit_"), ("timm:resnet50.nothing", "with the tag nothing; its tags: a1_in1k"),
     ("imagenet@test_vit4", "from ImageNet-1k alone")],
)  # fmt: skip
def test_tags_that_timm_lacks_are_refused_with_those_it_has(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        locate.timm_name(parse(name, "resnet50"))


def own(path: Path, **fields: Any) -> Initialization:
    return parse("ours", "resnet50", {"ours": OwnInit(file=str(path), backbone=SMALL, **fields)})


def test_a_key_rule_of_ones_own_is_followed_to_the_letter(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    content = {f"student.{k}": v for k, v in tensors.items()} | {f"teacher.{k}": v + 1 for k, v in tensors.items()}
    torch.save({"ckpt": content}, path)
    rule: dict[str, Any] = {"nested": ("ckpt",), "prefix": "teacher."}
    with pytest.raises(UserError, match=r"unexpected \(student"):
        store.obtain(own(path, **rule), tmp_path)
    rule["drop"] = ("student.*",)
    receipt = store.obtain(own(path, **rule, mean=(0.1, 0.2, 0.3), licence="ours alone"), tmp_path)
    assert receipt is not None
    assert (receipt.mean, receipt.licence, receipt.commercial) == ((0.1, 0.2, 0.3), "ours alone", "unclear")
    back = store.state(own(path, **rule), tmp_path, 0, "one")
    assert torch.equal(back["conv1.0.weight"], tensors["conv1.0.weight"] + 1)
    other = store.obtain(own(path, nested=("ckpt",), prefix="student.", drop=("teacher.*",)), tmp_path)
    assert other is not None
    assert other.tensors_sha256 != receipt.tensors_sha256


def test_a_first_convolution_of_gray_images_gives_the_same_features(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    gray = tensors | {"conv1.0.weight": tensors["conv1.0.weight"].sum(1, keepdim=True)}
    path = tmp_path / "gray.pth"
    torch.save(gray, path)
    receipt = store.obtain(file_init(path), tmp_path)
    assert receipt is not None
    assert receipt.adapted == ("conv1.0.weight: one channel spread over three by thirds",)
    model = backbones.bare_backbone(SMALL).eval()
    backbones.load_into(model, store.state(file_init(path), tmp_path, 0, "one"), SMALL)
    original = backbones.bare_backbone(SMALL).eval()
    backbones.load_into(original, tensors, SMALL)
    image = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), original(image), rtol=1e-4, atol=1e-5)


def test_features_that_another_machine_computes_otherwise_are_told(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    store.obtain(file_init(path), tmp_path)
    assert store.verify(file_init(path), tmp_path) < store.TOLERANCE
    receipt = next((tmp_path / "data/weights/adhoc").glob("*.receipt.json"))
    said = json.loads(receipt.read_text())
    said["fingerprint"][3] += 0.01 * max(map(abs, said["fingerprint"]))
    receipt.write_text(json.dumps(said))
    with pytest.raises(UserError, match="deviate from the receipt's by 1"):
        store.verify(file_init(path), tmp_path)


def test_a_receipt_of_an_earlier_version_is_written_anew(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    receipt = store.obtain(file_init(path), tmp_path)
    written = next((tmp_path / "data/weights/adhoc").glob("*.receipt.json"))
    written.write_text(json.dumps({"init": "x", "backbone": SMALL, "matched": 3}))
    assert store.obtain(file_init(path), tmp_path) == receipt


def test_the_first_download_is_noted_and_a_later_one_held_to_it(
    tmp_path: Path, tensors: dict[str, Tensor], server: str
) -> None:
    torch.save({f"module.{k}": v for k, v in tensors.items()}, tmp_path / "served/swav.pth.tar")
    init = swav_like(f"{server}/swav.pth.tar")
    receipt = store.obtain(init, tmp_path)
    assert receipt is not None
    noted = json.loads((tmp_path / downloads.LOCK_FILE).read_text())
    assert noted == {"swav.pth.tar": receipt.files[0].sha256}
    for path in (*tmp_path.glob("data/weights/adhoc/*"), tmp_path / "data/downloads/swav.pth.tar"):
        path.unlink()
    torch.save({f"module.{k}": v + 1 for k, v in tensors.items()}, tmp_path / "served/swav.pth.tar")
    with pytest.raises(UserError, match=receipt.files[0].sha256):
        store.obtain(init, tmp_path)
    assert not list(tmp_path.glob("data/weights/adhoc/*"))
    assert not (tmp_path / "data/downloads/swav.pth.tar").exists()


def test_a_file_from_the_net_of_ones_own_is_fetched(tmp_path: Path, tensors: dict[str, Tensor], server: str) -> None:
    torch.save(tensors, tmp_path / "served/mine.pth")
    init = parse(f"file:{server}/mine.pth@{SMALL}", "resnet50")
    receipt = store.obtain(init, tmp_path)
    assert receipt is not None
    assert receipt.source == f"{server}/mine.pth"
    assert [p.name for p in (tmp_path / "data/downloads").glob("*mine.pth")] == [f"{init.slug}-mine.pth"]


def test_saved_layout_is_timms(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save({f"module.{k}": v for k, v in tensors.items()}, path)
    store.obtain(file_init(path), tmp_path)
    saved = load_file(next((tmp_path / "data/weights/adhoc").glob("*.safetensors")))
    backbones.bare_backbone(SMALL).load_state_dict(saved, strict=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path: Path, tensors: dict[str, Tensor], value: float) -> None:
    first = next(iter(tensors))
    torch.save(tensors | {first: tensors[first].index_fill(0, torch.tensor([0]), value)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"1 tensors hold values that are not finite .*\({first}\)"):
        store.obtain(file_init(tmp_path / "w.pth"), tmp_path)
    torch.save({k: v.double() * (1e42 if k == first else 1) for k, v in tensors.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not finite"):  # as float32, which the backbone is
        store.obtain(file_init(tmp_path / "w.pth"), tmp_path)
    assert not list(tmp_path.glob("data/weights/*/*"))


@pytest.mark.parametrize(
    "kind", quick([torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64], torch.int8)
)
def test_numbers_that_mean_weights_by_a_scale_are_no_weights(
    tmp_path: Path, tensors: dict[str, Tensor], kind: torch.dtype
) -> None:
    first = next(iter(tensors))
    torch.save(tensors | {first: (tensors[first] * 50).to(kind)}, tmp_path / "w.pth")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(UserError, match=rf"1 tensors of the backbone are of the type {name} \({first}\)"):
        store.obtain(file_init(tmp_path / "w.pth"), tmp_path)
    for whole in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({key: t.to(whole) if t.is_floating_point() else t for key, t in tensors.items()}, tmp_path / "w.pth")
        assert store.obtain(file_init(tmp_path / "w.pth"), tmp_path) is not None


@pytest.mark.parametrize(("end", "factor"), [("running_var", -1.0), (".weight", 1e30)])
def test_a_checkpoint_that_computes_nothing_finite_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], end: str, factor: float
) -> None:
    torch.save({key: t * factor if key.endswith(end) else t for key, t in tensors.items()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="computes features that are not finite"):
        store.obtain(file_init(tmp_path / "w.pth"), tmp_path)
    assert not list(tmp_path.glob("data/weights/*/*"))


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("state_dict", "ema_state_dict")],
)
def test_of_raw_and_averaged_weights_the_averaged_are_taken_as_timm_does_and_it_is_said(
    tmp_path: Path, tensors: dict[str, Tensor], raw: str, averaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.pth"
    ema = {key: tensor * 0.5 if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    torch.save({raw: tensors, averaged: ema, "epoch": 3, "optimizer": {"state": {}}}, path)
    with caplog.at_level("INFO", "medtransfer"):
        receipt = store.obtain(file_init(path), tmp_path)
    assert receipt is not None
    assert receipt.tensors_sha256 == convert.digest(ema)
    words = f"took the averaged weights (EMA), as timm does, of {averaged}; the file holds tensors under {raw}, too"
    assert words in receipt.adapted[0]
    assert words in "\n".join(store.summary(receipt))
    assert words in caplog.text
    if averaged in ("state_dict_ema", "model_ema"):
        theirs = timm.models.load_state_dict(str(path))
        assert convert.digest(theirs) == receipt.tensors_sha256
    chosen = store.obtain(own(path, nested=(raw,)), tmp_path)
    assert chosen is not None
    assert chosen.tensors_sha256 == convert.digest(tensors)
    assert "took the weights, of" in chosen.adapted[0]


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "module.encoder_q."])
@pytest.mark.parametrize(
    "head",
    [
        "projection_head.0.weight",
        "segmentation_head.0.weight",
        "aux_classifier.4.bias",
        "head.mlp.0.weight",
        "fc.weight",
        "predictor.2.bias",
    ],
)
def test_heads_beside_the_backbone_are_left_out_and_nothing_else(
    tmp_path: Path, tensors: dict[str, Tensor], prefix: str, head: str
) -> None:
    content = {prefix + key: tensor for key, tensor in tensors.items()}
    roots = {prefix, "module." if prefix.startswith("module.") else "", ""}
    content |= {root + head: torch.ones(3) for root in roots}
    path = tmp_path / "w.pth"
    torch.save(content, path)
    receipt = store.obtain(file_init(path), tmp_path)
    assert receipt is not None
    assert receipt.tensors_sha256 == convert.digest(tensors)
    assert {key for keys in receipt.dropped.values() for key in keys} == {root + head for root in roots}
    torch.save(content | {"neck.0.weight": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"1 unexpected \(neck\.0\.weight\)"):
        store.obtain(file_init(path), tmp_path)


def test_a_path_with_a_tilde_is_at_home_and_a_folder_is_said_to_be_one(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home/run").mkdir(parents=True)
    torch.save(tensors, tmp_path / "home/run/last.pth")
    receipt = store.obtain(parse(f"file:~/run/last.pth@{SMALL}", "resnet50"), tmp_path)
    assert receipt is not None
    assert receipt.source == "~/run/last.pth"
    with pytest.raises(UserError, match=r"home/run, found a folder; name the file in it .*\(it holds \(last\.pth\)\)"):
        store.obtain(parse(f"file:~/run@{SMALL}", "resnet50"), tmp_path)
    with pytest.raises(UserError, match=r"home/none, found none"):
        store.obtain(parse(f"file:~/none@{SMALL}", "resnet50"), tmp_path)


@pytest.mark.parametrize("backbone", ["test_vit", "resnet10t", "tf_efficientnet_lite0"])
def test_a_bare_file_gets_the_input_that_timm_takes_for_its_architecture_and_says_so(
    tmp_path: Path, backbone: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = timm.create_model(backbone, num_classes=0).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    config = timm.models.get_pretrained_cfg(backbone)
    bare = parse(f"file:{tmp_path}/w.safetensors@{backbone}", "resnet50")
    with caplog.at_level("INFO", "medtransfer"):
        receipt = store.obtain(bare, tmp_path)
    assert receipt is not None
    assert (receipt.mean, receipt.std) == (config.mean, config.std) == recipes.normalization(bare)
    words = f"mean and std not stated, so timm's for {backbone}"
    assert receipt.input.startswith(words)
    assert words in caplog.text
    assert words in "\n".join(store.summary(receipt))
    named = parse("ours", "resnet50", {"ours": OwnInit(file="w", backbone=backbone, mean=(0.1,) * 3, std=(0.2,) * 3)})
    assert recipes.normalization(named) == ((0.1,) * 3, (0.2,) * 3)


def test_a_receipt_that_is_cut_off_is_named_and_made_anew(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, tmp_path / "w.pth")
    init = file_init(tmp_path / "w.pth")
    receipt = store.obtain(init, tmp_path)
    [path] = tmp_path.glob("data/weights/adhoc/*.receipt.json")
    for text in (path.read_text()[:100], "", "[]", "{}", json.dumps({"init": 1})):
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{path} is no .*receipt .*delete it and .*start the same command again"):
            store.state(init, tmp_path, 0, "one")
        assert store.obtain(init, tmp_path) == receipt
