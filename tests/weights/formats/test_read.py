from __future__ import annotations

import argparse
import copyreg
import io
import os
import pickle
import random
import resource
import struct
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medtransfer.core.errors import UserError
from medtransfer.weights.formats import archives, pickles
from medtransfer.weights.formats.read import read
from tests.support import writers

GOLDEN = Path(__file__).parent / "golden"
BASE = torch.arange(24, dtype=torch.float32)
STATE = OrderedDict(
    {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
        "conv1.weight.t": BASE[:12].view(3, 4).t(),
        "same.storage": BASE[4:12].view(2, 4),
        "bn1.num_batches_tracked": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "double": torch.tensor([0.1, -0.2], dtype=torch.float64),
        "half": torch.tensor([1.5, -2], dtype=torch.float16),
        "bfloat": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "int": torch.tensor([[-1], [2]], dtype=torch.int32),
        "short": torch.tensor([-1], dtype=torch.int16),
        "char": torch.tensor([-1], dtype=torch.int8),
        "byte": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
)
ARRAYS: dict[str, np.ndarray] = {
    "base_model/conv2d/kernel": np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3),
    "base_model/batch_normalization_12/moving_mean": np.array([0.5, -0.25, 3], np.float32),
    "base_model/batch_normalization_12/gamma": np.array([1, 2, 4], np.float16),
    "global_step": np.array(225206, np.int64),
    "flags/double": np.array([0.1, 0.2]),
    "flags/int": np.array([[7], [-7]], np.int32),
    "flags/bool": np.array([True, False]),
}
"""what the golden TensorFlow checkpoint holds"""
BYOL: dict[str, dict[str, dict[str, Any]]] = {
    "online_params": {"res_net50/~/initial_conv": {"w": np.arange(12, dtype=np.float32).reshape(3, 4).T}},
    "target_params": {"res_net50/~/initial_conv": {"w": np.ones((1, 2), ">f4")}},
    "online_state": {
        "res_net50/~/initial_batchnorm/~/mean_ema": {
            "average": np.float32(0.5), "hidden": np.zeros((0, 2), np.float32), "counter": np.array(3, np.int32),
        }
    },
    "target_state": {},
    "opt_state": {"momentum": {"w": np.array([True, False])}},
}  # fmt: skip


def save_zip(path: Path, content: object = STATE) -> None:
    torch.save(content, path)


def save_pickle(path: Path, content: object = STATE) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_tar(path: Path, content: object = STATE) -> None:
    writers.write_legacy_tar(path, content)


def save_safetensors(path: Path) -> None:
    save_file({name: tensor.contiguous().clone() for name, tensor in STATE.items()}, path)


def save_tf(path: Path) -> None:
    """Saves enough keys for several blocks of the table; `path` is the index file."""
    many = {f"base_model/conv2d_{i}/kernel": np.full((i % 3, 2), i, np.float32) for i in range(60)}
    writers.write_tf_bundle(path.with_name(path.name.removesuffix(".index")), ARRAYS | many, shards=2)


def save_haiku(path: Path) -> None:
    writers.write_haiku_pickle(path, BYOL)


FORMATS: dict[str, Callable[[Path], None]] = {
    "a.pth": save_zip,
    "b.pth": save_pickle,
    "c.pth": save_tar,
    "d.safetensors": save_safetensors,
    "e.ckpt.index": save_tf,
    "f.pkl": save_haiku,
}
TREES = {"zip": save_zip, "pickle": save_pickle, "tar": save_tar}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(found) == set(expected) and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("save", "container"),
    [(save_zip, "torch state_dict"), (save_pickle, "torch state_dict"), (save_tar, "legacy tar"),
     (save_safetensors, "safetensors")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
def test_every_kind_of_tensor_comes_back_as_it_was_under_any_suffix(
    save: Callable[[Path], None], container: str, name: str, tmp_path: Path
) -> None:
    save(tmp_path / name)
    content = read(tmp_path / name)
    assert same(content.tensors, STATE)
    assert (content.container, content.beside) == (container, ())


@pytest.mark.parametrize("save", TREES.values(), ids=TREES)
def test_tensors_that_share_a_storage_still_share_it(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "w.pth")
    tensors = read(tmp_path / "w.pth").tensors
    tensors["conv1.weight.t"][0, 1] = 99.0
    assert tensors["same.storage"][0, 0] == 99.0


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tensorflow_checkpoint_is_read_by_its_index_or_prefix(shards: int, tmp_path: Path) -> None:
    many = {f"base_model/batch_normalization_{i}/gamma": np.full((i % 4, 3), i, np.float32) for i in range(200)}
    writers.write_tf_bundle(tmp_path / "model.ckpt-1", ARRAYS | many, shards)
    for name in ("model.ckpt-1", "model.ckpt-1.index"):
        content = read(tmp_path / name)
        assert same(content.tensors, {k: torch.from_numpy(v) for k, v in (ARRAYS | many).items()})
        assert (content.container, content.beside) == ("TF1 checkpoint", ())


def test_a_checkpoint_of_tensorflow_itself_is_read() -> None:
    content = read(GOLDEN / "tiny.ckpt-225206")
    assert same(content.tensors, {k: torch.from_numpy(v) for k, v in ARRAYS.items()})


@pytest.mark.parametrize("form", ["storage", "mapping", "argument"])
def test_every_array_of_a_byol_experiment_has_its_path_as_name(form: str, tmp_path: Path) -> None:
    writers.write_haiku_pickle(tmp_path / "byol.pkl", BYOL, form)
    content = read(tmp_path / "byol.pkl", nested=())
    average = "online_state/res_net50/~/initial_batchnorm/~/mean_ema"
    assert same(
        content.tensors,
        {
            "online_params/res_net50/~/initial_conv/w": torch.arange(12.0).view(3, 4).t(),
            "target_params/res_net50/~/initial_conv/w": torch.ones(1, 2),
            f"{average}/average": torch.tensor(0.5),
            f"{average}/hidden": torch.zeros(0, 2),
            f"{average}/counter": torch.tensor(3, dtype=torch.int32),
            "opt_state/momentum/w": torch.tensor([True, False]),
        },
    )
    assert (content.container, content.beside) == ("haiku pickle", ("rng", "step"))


def put(monkeypatch: pytest.MonkeyPatch, module: str, kind: type) -> type:
    """Makes a class importable, and so picklable, under another module's name."""
    parts = module.split(".")
    for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[module], kind.__name__, kind, raising=False)
    monkeypatch.setattr(kind, "__module__", module)
    return kind


class _ByolExperimentState(NamedTuple):
    online_params: object
    target_params: object
    online_state: object
    target_state: object
    opt_state: object


class FlatMapping:
    """A form of haiku's mappings that no release is known to have saved."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return FlatMapping, (self.content,)


def write_experiment(path: Path, monkeypatch: pytest.MonkeyPatch, **fields: object) -> Path:
    """Writes an experiment whose class is named without its fields."""
    state = put(monkeypatch, "byol.byol_experiment", _ByolExperimentState)
    values = {**{name: {} for name in _ByolExperimentState._fields}, **fields}
    path.write_bytes(pickle.dumps({"experiment_state": state(**values)}, 2))
    return path


def test_an_experiment_named_without_its_fields_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"conv": {"w": np.ones((2, 2), np.float32)}}
    path = write_experiment(tmp_path / "a.pkl", monkeypatch, online_params=params, opt_state=[{"count": 3}, None])
    content = read(path)
    assert same(content.tensors, {"online_params/conv/w": torch.ones(2, 2)})
    assert content.beside == ("opt_state/0/count", "opt_state/1")


def test_pairs_in_a_haiku_mapping_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "haiku._src.data_structures", FlatMapping)
    pairs = FlatMapping([("conv", FlatMapping([("w", np.ones(2))]))])
    path = write_experiment(tmp_path / "a.pkl", monkeypatch, online_params=pairs)
    assert list(read(path).tensors) == ["online_params/conv/w"]


def test_a_haiku_mapping_of_unknown_form_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "haiku._src.data_structures", FlatMapping)
    path = write_experiment(tmp_path / "a.pkl", monkeypatch, online_params=FlatMapping(3))
    assert "haiku._src.data_structures.FlatMapping" in refusal(path)
    assert read(write_experiment(path, monkeypatch, online_params={"w": np.ones(1)}, opt_state=FlatMapping(3))).beside


def endless() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


def repeated() -> object:
    tree: object = {}
    for _ in range(30):
        tree = [tree] * 30
    return tree


@pytest.mark.parametrize("make", [endless, repeated])
def test_a_tree_without_an_end_is_refused(
    make: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no end" in refusal(write_experiment(tmp_path / "a.pkl", monkeypatch, online_params=make()))


def test_a_pickle_of_numpy_arrays_is_read_like_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": np.ones((2, 1), ">i2"), "o": np.array(["text"])}, "by": "me"}, 2))
    content = read(path)
    assert same(content.tensors, {"w": torch.ones(2, 1, dtype=torch.int16)})
    assert (content.container, content.beside) == ("pickle ['model']", ("by", "model.o"))


@pytest.mark.parametrize("save", TREES.values(), ids=TREES)
@pytest.mark.parametrize("nested", [("a", "b"), None, (), ("a",)])
def test_a_nested_path_is_followed_exactly(
    nested: tuple[str, ...] | None, save: Callable[..., None], tmp_path: Path
) -> None:
    save(tmp_path / "w.pth", {"a": {"b": dict(STATE) | {"note": "x"}, "c": 1}, "epoch": 3})
    if nested == ("a", "b"):
        content = read(tmp_path / "w.pth", nested)
        assert same(content.tensors, dict(STATE))
        assert content.container.endswith(" ['a']['b']")
        assert content.beside == ("a.b.note", "a.c", "epoch")
    else:
        assert "tensors" in refusal(tmp_path / "w.pth", nested=nested)


def test_an_absent_nested_path_names_the_keys_at_its_level(tmp_path: Path) -> None:
    save_zip(tmp_path / "w.pth", {"a": {"b": dict(STATE), "c": 1}, "epoch": 3})
    assert "no ['a']['model']; at that level is the keys b, c" in refusal(tmp_path / "w.pth", nested=("a", "model"))
    assert "no ['a']['c']['d']; at that level is an object of type int" in refusal(
        tmp_path / "w.pth", nested=("a", "c", "d")
    )
    save_safetensors(tmp_path / "w.safetensors")
    assert "conv1.weight" in refusal(tmp_path / "w.safetensors", nested=("state_dict",))


WEIGHTS = {"w": torch.ones(2)}
OTHER = {"w": torch.zeros(2)}


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({"state_dict": WEIGHTS, "best_acc1": torch.tensor(0.5), "optimizer": {"state": {0: OTHER}}}, "['state_dict']"),
        ({"model": OTHER, "model_ema": WEIGHTS}, "['model_ema']"),
        ({"net": OTHER, "teacher": OTHER, "resnet": WEIGHTS}, "['resnet']"),
        ({"model": {"net": OTHER, "state_dict": WEIGHTS}}, "['model']['state_dict']"),
        ({"model": {"args": 1}, "student": WEIGHTS}, "['student']"),
        ({"trunk": WEIGHTS, "epoch": torch.tensor(3)}, "['trunk']"),
        (WEIGHTS | {"step": 4}, "state_dict"),
    ],
)
def test_the_state_dict_is_found_in_the_order_of_usual_names(tree: dict[str, Any], where: str, tmp_path: Path) -> None:
    save_zip(tmp_path / "w.pth", tree)
    content = read(tmp_path / "w.pth")
    assert content.container == f"torch {where}"
    assert same(content.tensors, WEIGHTS)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"left": WEIGHTS, "right": OTHER}, "holds 2 dicts of tensors"),
        ({"left": WEIGHTS, "right": OTHER}, "Choose one by `nested: [left]` or `nested: [right]`"),
        ({"checkpoint": {"weights": WEIGHTS, "args": {}}, "epoch": 3}, "Choose one by `nested: [checkpoint, weights]`"),
        ({"epoch": 3}, "holds no dicts of tensors"),
        ({"epoch": 3}, "Save the state dict"),
        (WEIGHTS | {"a": torch.eye(20).to_sparse()}, "holds 1 tensors that are sparse (a)"),
        (WEIGHTS | {"a": torch.ones(3, device="meta")}, "holds 1 tensors that are without numbers (meta) (a)"),
        ([WEIGHTS], "there is an object of type list"),
        (torch.ones(3), "there is an object of type Tensor"),
    ],
)
def test_what_holds_no_single_state_dict_is_refused(tree: object, reason: str, tmp_path: Path) -> None:
    save_zip(tmp_path / "w.pth", tree)
    assert reason in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("save", [save_zip, save_pickle])
def test_what_trainers_leave_beside_the_weights_is_no_obstacle(save: Callable[..., None], tmp_path: Path) -> None:
    beside = {
        "args": argparse.Namespace(lr=1),
        "best_acc": np.float64(0.5),
        "labels": np.arange(3),
        "type": np.dtype("f4"),
    }
    save(tmp_path / "w.pth", {"model": {"w": np.ones(2, np.float32), "t": torch.zeros(1)}, **beside})
    content = read(tmp_path / "w.pth")
    assert same(content.tensors, {"w": torch.ones(2), "t": torch.zeros(1)})
    assert content.beside == ("args", "best_acc", "labels", "type")


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    save_zip(tmp_path / "w.pth", {"w": torch.nn.Parameter(torch.ones(2))})
    assert not read(tmp_path / "w.pth").tensors["w"].requires_grad


def test_a_zip_that_was_packed_again_gives_the_same_tensors(tmp_path: Path) -> None:
    save_zip(tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    assert same(read(tmp_path / "packed.pth").tensors, STATE)


# Refusals.


@pytest.mark.parametrize("save", TREES.values(), ids=TREES)
def test_an_object_that_would_run_a_command_is_refused_by_name(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "w.pth", {"state_dict": STATE, "harm": writers.Harm(tmp_path / "touched")})
    message = refusal(tmp_path / "w.pth")
    assert "could run code" in message
    assert "posix.system" in message
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("form", ["storage", "mapping", "argument"])
def test_a_byol_pickle_that_would_run_a_command_is_refused_by_name(form: str, tmp_path: Path) -> None:
    harm: Any = writers.Harm(tmp_path / "touched")
    writers.write_haiku_pickle(tmp_path / "w.pkl", {"online_params": {"conv": {"w": harm}}}, form)
    assert "posix.system" in refusal(tmp_path / "w.pkl")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("part", ["storages", "tensors", "pickle"])
def test_every_pickle_of_a_tar_is_read_safely(part: str, tmp_path: Path) -> None:
    save_tar(tmp_path / "w.pth")
    harm = pickle.dumps(writers.Harm(tmp_path / "touched"), 2)
    with tarfile.open(tmp_path / "w.pth") as old, tarfile.open(tmp_path / "bad.pth", "w") as new:
        for entry in old:
            stream = old.extractfile(entry)
            data = harm if entry.name == part else stream.read() if stream else b""
            entry.size = len(data)
            new.addfile(entry, io.BytesIO(data))
    assert "posix.system" in refusal(tmp_path / "bad.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("save", [save_zip, save_pickle])
def test_a_pickled_module_is_refused_with_all_that_it_wants(save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "w.pth", torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU()))
    wanted = "torch.nn.modules.activation.ReLU, torch.nn.modules.container.Sequential, torch.nn.modules.linear.Linear"
    assert f"its pickle wants {wanted}. " in refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_protocol_that_torch_does_not_read_safely_is_no_damage(zipped: bool, tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth", pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    assert "does not read safely (Unsupported operand" in refusal(tmp_path / "w.pth")


def test_an_extension_code_does_not_pass_the_list_of_names_by(tmp_path: Path) -> None:
    copyreg.add_extension("posix", "system", 240)
    try:
        harm = pickle.dumps(writers.Harm(tmp_path / "touched"), 2)
        assert b"\x82\xf0" in harm
        pickle.loads(pickle.dumps(os.system, 2))  # the code is in Python's cache
        (tmp_path / "w.pkl").write_bytes(harm)
        assert "its pickle wants extension code 240" in refusal(tmp_path / "w.pkl")
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", [b"_codecs\nencode", b"haiku\nA", b"collections\nOrderedDict", b"numpy\ndtype"])
@pytest.mark.parametrize("state", [b"}(X\x04\x00\x00\x00nameK\x01u", b"N}(X\x04\x00\x00\x00nameK\x01u\x86"])
def test_a_pickle_sets_no_attribute_of_what_is_not_its_own(name: bytes, state: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
    assert "damaged" in refusal(tmp_path / "w.pkl")
    assert pickles.Inert.name == ""


@pytest.mark.parametrize(
    "code",
    [
        b"}r\xff\xff\xff\x7f.",  # a memo of 2 billion entries
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",  # a terabyte of bytes
        b"\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
        b"X\x03\x00\x00\x00keyQ.",  # a reference to nowhere
        b"\x8b" + struct.pack("<i", 1 << 30) + b"1.",
        b"}" * 100_000 + b".",
        b"(" * 100_000 + b".",
    ],
)
def test_a_malicious_pickle_takes_no_memory(code: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(b"\x80\x04" + code)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(tmp_path / "w.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"\n<!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
        (b"<HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error>", "an XML page"),
        (b'{"error": "not found"}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n\x00\x00", "Keras HDF5"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"", "it is empty"),
        (b"GIF89a and more", r"it begins with b'GIF89a and more'"),
    ],
)
@pytest.mark.parametrize("name", ["weights.pth", "model.ckpt.index"])
def test_what_is_no_checkpoint_is_called_by_its_name(content: bytes, meaning: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert meaning in message or (name.endswith(".index") and "GIF" in meaning and "damaged" in message)


def test_torchscript_is_refused_and_the_way_out_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "RN50.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"RN50/{name}", b"")
    assert "TorchScript" in refusal(tmp_path / "RN50.pt")
    assert "timm's safetensors" in refusal(tmp_path / "RN50.pt")


def test_a_path_without_a_file_is_named(tmp_path: Path) -> None:
    assert "is not there" in refusal(tmp_path / "w.pth")
    assert "is not there" in refusal(tmp_path / "w.zip", member="w.pth")
    assert "is a folder" in refusal(tmp_path)


def test_a_data_file_that_is_missing_beside_its_index_is_named(tmp_path: Path) -> None:
    save_tf(tmp_path / "m.ckpt.index")
    (tmp_path / "m.ckpt.data-00001-of-00002").unlink()
    assert "m.ckpt.data-00001-of-00002" in refusal(tmp_path / "m.ckpt")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (writers.entry(np.zeros(1, np.complex64), 0, 0), "w as TensorFlow's type 8"),
        (writers.entry(np.zeros(1, np.float32), 0, 0, writers.field(7, b"")), "w in slices"),
        (writers.entry(np.zeros(1, np.float32), 0, 0, writers.field(5, 12)), "damaged"),
        (writers.entry(np.zeros(1, np.float32), 0, 1 << 60), "damaged"),
        (writers.field(1, 1) + writers.field(2, writers.field(2, writers.field(1, 2**64 - 1))), "damaged"),
    ],
)
def test_a_tensorflow_entry_that_cannot_be_read_is_refused(entry: bytes, reason: str, tmp_path: Path) -> None:
    writers.write_table(tmp_path / "m.index", {b"": writers.field(1, 1), b"w": entry})
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(4))
    assert reason in refusal(tmp_path / "m.index")


def test_strings_of_a_tensorflow_2_checkpoint_stay_beside(tmp_path: Path) -> None:
    text = writers.field(1, 7) + writers.field(5, 9)
    array = writers.entry(np.ones(1, np.float32), 0, 0)
    entries = {b"": writers.field(1, 1), b"_CHECKPOINTABLE_OBJECT_GRAPH": text, b"w": array}
    writers.write_table(tmp_path / "m.index", entries)
    (tmp_path / "m.data-00000-of-00001").write_bytes(np.ones(1, np.float32).tobytes())
    content = read(tmp_path / "m")
    assert (content.container, content.beside) == ("TF2 checkpoint", ("_CHECKPOINTABLE_OBJECT_GRAPH",))


def test_a_compressed_or_big_endian_index_is_refused(tmp_path: Path) -> None:
    writers.write_table(tmp_path / "m.index", {b"": writers.field(1, 1) + writers.field(2, 1)})
    assert "big-endian" in refusal(tmp_path / "m.index")
    data = bytearray((tmp_path / "m.index").read_bytes())
    size = data.index(b"\0", data.index(writers.field(1, 1) + writers.field(2, 1)) + 4 + 8)
    data[size] = 1
    data[size + 1 : size + 5] = struct.pack("<I", writers.crc32c(bytes(data[: size + 1])))
    (tmp_path / "m.index").write_bytes(data)
    assert "compressed" in refusal(tmp_path / "m.index")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.001, 0.1, 0.4, 0.7, 0.95, 0.999])
def test_a_file_that_ends_early_is_said_to_be_damaged(name: str, part: float, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes().rstrip(b"\0")  # a tar's padding
    (tmp_path / name).write_bytes(data[: max(int(len(data) * part), 300)])
    message = refusal(tmp_path / name)
    assert "is damaged or not complete (" in message
    assert message.endswith("delete it and get it again")


def test_a_tensorflow_data_file_that_ends_early_is_named(tmp_path: Path) -> None:
    save_tf(tmp_path / "m.index")
    data = tmp_path / "m.data-00000-of-00002"
    data.write_bytes(data.read_bytes()[:-1])
    assert "damaged or not complete (ValueError: m.data-00000-of-00002 has" in refusal(tmp_path / "m.index")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # pickletools, on text with a changed byte
@pytest.mark.parametrize("name", ["c.pth", "e.ckpt.index", "f.pkl"])
@pytest.mark.parametrize("seed", range(4))
def test_damage_anywhere_is_read_or_refused_and_nothing_else(name: str, seed: int, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    data, draw = (tmp_path / name).read_bytes(), random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(150):
        changed = bytearray(data[: draw.choice([len(data), draw.randrange(1, len(data))])])
        for _ in range(draw.randrange(6)):
            changed[draw.randrange(len(changed))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        (tmp_path / name).write_bytes(changed)
        try:
            read(tmp_path / name)
        except UserError:
            refused += 1
    assert refused > 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


# Archives.


def pack(path: Path, folder: Path) -> Path:
    """Packs a folder as the suffix of `path` says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            tar.add(folder, ".")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two torch checkpoints and a TensorFlow one, as they would be packed."""
    for part in ("in/RadImageNet_pytorch", "in/old"):
        (tmp_path / part).mkdir(parents=True)
        save_zip(tmp_path / part / "ResNet50.pt")
    writers.write_tf_bundle(tmp_path / "in/ResNet50_1x.ckpt-5", ARRAYS, shards=2)
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize(
    "member", ["RadImageNet_pytorch/ResNet50.pt", "ResNet50_1x.ckpt-5", "ResNet50_1x.ckpt-5.index"]
)
def test_a_checkpoint_is_taken_out_of_an_archive(name: str, member: str, folder: Path) -> None:
    path = pack(folder.parent / name, folder)
    expected = STATE if member.endswith(".pt") else {k: torch.from_numpy(v) for k, v in ARRAYS.items()}
    assert same(read(path, member=member).tensors, expected)
    assert sorted(folder.parent.iterdir()) == sorted([path, folder])


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_exactly_one_entry_must_end_as_asked(name: str, folder: Path) -> None:
    path = pack(folder.parent / name, folder)
    several = refusal(path, member="ResNet50.pt")
    assert "matches 2 entries" in several
    assert "old/ResNet50.pt" in several
    assert "matches 0 entries" in refusal(path, member="Net50.pt")
    assert "ResNet50_1x.ckpt-5.index" in refusal(path, member="Net50.pt")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.zip", "zip archive"), ("a.tar", "tar archive"), ("a.tar.gz", "gzip file")]
)
def test_an_archive_is_not_taken_for_a_checkpoint(name: str, kind: str, folder: Path) -> None:
    assert kind in refusal(pack(folder.parent / name, folder))


def test_an_entry_that_says_it_is_huge_is_not_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 100)
    message = refusal(pack(folder.parent / "a.zip", folder), member="old/ResNet50.pt")
    assert "at most 100 are unpacked" in message


def test_a_damaged_archive_is_said_to_be_damaged(folder: Path) -> None:
    for name in ("a.zip", "a.tar.gz"):
        path = pack(folder.parent / name, folder)
        path.write_bytes(path.read_bytes()[:-3000])
        assert "get it again" in refusal(path, member="old/ResNet50.pt")
    path.write_bytes(b"<html>")
    assert "not a whole zip, tar or tar.gz" in refusal(path, member="old/ResNet50.pt")


def test_a_checkpoint_in_an_archive_is_refused_by_both_names(folder: Path) -> None:
    (folder / "page.pth").write_bytes(b"<html>")
    path = pack(folder.parent / "a.tar", folder)
    assert refusal(path, member="page.pth").startswith(f"{path} (page.pth) is not a checkpoint")
