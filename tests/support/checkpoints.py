"""Fake published checkpoints: the true container, keys and shapes around the tensors of a timm backbone.

Every layout is taken from the code that saves or loads the published file: a second implementation beside the converter
that is tested on it. What a file holds beside the backbone has its true keys and, where no docstring says otherwise,
true shapes; its numbers are never the backbone's, so that a converter which takes a key encoder, an averaged copy or an
optimizer's slot for the backbone is caught.
"""

from __future__ import annotations

import re
import zipfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support import writers

State = dict[str, Tensor]
Arrays = dict[str, Any]  # name -> numpy array
Modules = dict[str, Arrays]

RESNET, CONVNEXT = "resnet50", "convnext_base"
VIT, SWIN = "vit_base_patch16_224", "swin_base_patch4_window7_224"
FEATURES = 2048  # what a ResNet-50 gives to its head
HAIKU = "res_net50"  # haiku's name of BYOL's encoder: its class `ResNet50` in snake case
NORM = ("weight", "bias", "running_mean", "running_var")
VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")  # TensorFlow's names of the same
save_legacy = partial(torch.save, _use_new_zipfile_serialization=False)  # as before torch 1.6: pickles, no zip


def array(*shape: int) -> Any:
    return torch.randn(*shape).numpy()


def another(state: Mapping[str, Tensor]) -> State:
    """Draws a second network of the same shapes."""
    return {key: torch.randn(x.shape) if x.is_floating_point() else x + 1 for key, x in state.items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def part(name: str, *layers: nn.Module) -> State:
    """Draws a part of a network: one layer, or a Sequential of several."""
    return under(f"{name}.", (nn.Sequential(*layers) if len(layers) > 1 else layers[0]).state_dict())


def head(*, mlp: bool) -> list[nn.Module]:
    """Draws a contrastive head of 128 numbers."""
    return [nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 128)] if mlp else [nn.Linear(FEATURES, 128)]


def optimizer(slot: str = "momentum_buffer") -> dict[str, Any]:
    """Makes the state dict of an optimizer that has seen one tensor, the first convolution."""
    return {"state": {0: {slot: torch.randn(64, 3, 7, 7)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}


def inat(state: State, path: Path, prefix: str = "") -> None:
    """iNat2021: 10000 classes, `module.` in one file only (visipedia/newt `benchmark/pt_resnet_feature_extractor.py`).

    newt's training code is not public; what lies beside `state_dict` is that of PyTorch's ImageNet example.
    """
    best = {"epoch": 90, "arch": "resnet50", "best_acc1": torch.tensor(61.2), "optimizer": optimizer()}
    torch.save({"state_dict": under(prefix, state | part("fc", nn.Linear(FEATURES, 10000))), **best}, path)


def chest(state: State, path: Path, prefix: str = "module.", classifier: State | None = None) -> None:
    """BenchmarkTransferLearning's own files: `Version1/engine.py` (what is saved), `Version1/models.py` (the keys).

    The loss there is BCELoss, so the 14 classes end in a Sigmoid: the classifier is a Sequential, `fc.0`.
    """
    model = state | (classifier or part("fc", nn.Linear(FEATURES, 14), nn.Sigmoid()))
    rest = {"epoch": 21, "lossMIN": 0.17, "optimizer": optimizer("exp_avg"), "scheduler": {"best": 0.17, "patience": 5}}
    torch.save({"state_dict": under(prefix, model), **rest}, path)


def swin(state: State, path: Path) -> None:
    """Swin as its authors name it (microsoft/Swin-Transformer `models/swin_transformer.py`), saved as `chest` is.

    Patch merging ends a stage (timm: begins the next one); masks and indices, which timm leaves out, are saved.
    """
    whole = state | dict(timm.create_model(SWIN, num_classes=0).named_buffers())
    original = {re.sub(r"\d(?=\.downsample)", lambda x: str(int(x[0]) - 1), key): x for key, x in whole.items()}
    chest(original, path, classifier=part("head", nn.Linear(1024, 14)))


def convnext(state: State, path: Path) -> None:
    """ConvNeXt as its authors name and save it: facebookresearch/ConvNeXt `models/convnext.py`, `utils.py`."""
    names = {r"stages\.(\d)\.downsample": r"downsample_layers.\1", "^stem": "downsample_layers.0"}
    names |= {r"head\.norm": "norm", r"\.blocks": "", "conv_dw": "dwconv", r"mlp\.fc": "pwconv"}
    model = part("head", nn.Linear(1024, 14))
    for key, tensor in state.items():
        for ours, theirs in names.items():
            key = re.sub(ours, theirs, key)
        model[key] = tensor
    rest = {"optimizer": optimizer("exp_avg"), "epoch": 29, "scaler": {"scale": 65536.0}}
    torch.save({"model": model, **rest, "args": Namespace(model=CONVNEXT)}, path)


def radimagenet(state: State, path: Path) -> None:
    """RadImageNet: a bare Sequential of torchvision's first children (BMEII-AI/RadImageNet `pytorch_example.ipynb`)."""
    places = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    named = {re.sub(r"^\w+", lambda x: f"backbone.{places.index(x[0])}", key): x for key, x in state.items()}
    torch.save(named, path)


def contrast(state: State, path: Path, *, mlp: bool = False, jigsaw: bool = False, averaged: bool = False) -> None:
    """PyContrast: `networks/build_backbone.py`, `networks/util.py` (jigsaw), `learning/contrast_trainer.py`.

    InsDis and PIRL learn with a memory bank (true: 1 281 167 rows), InfoMin with a queue and an averaged copy
    (`options/base_options.py`). The code asks for torch 1.2, so the files are of the old format.
    """
    model = under("encoder.", state) | part("head", *head(mlp=mlp), nn.Identity())  # which stands for the normalization
    if jigsaw:
        model |= part("head_jig.fc1", *head(mlp=mlp)) | part("head_jig.fc2", nn.Linear(9 * 128, 128))
    memory = torch.randn(65536 if averaged else 1000, 128)
    content = {"model": under("module.", model), "contrast": {"memory": memory}, "optimizer": optimizer(), "epoch": 200}
    save_legacy(content | ({"model_ema": another(model)} if averaged else {}), path)


def moco(state: State, path: Path, *, mlp: bool, whole: bool = False) -> None:
    """MoCo (facebookresearch/moco `moco/builder.py`) and PCL (salesforce/PCL `pcl/builder.py`, `main_pcl.py`).

    MoCo's author took all but the query encoder out of the published files (issue 27, June 2020); PCL's are whole:
    key encoder, queue, optimizer. MoCo is older than torch 1.6, PCL's code asks for torch 1.4: the old format.
    """
    model = state | part("fc", *head(mlp=mlp))
    content: Any = {"epoch": 200, "arch": "resnet50", "state_dict": under("module.encoder_q.", model)}
    if whole:
        queue = {"module.queue": torch.randn(128, 16384), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
        content["state_dict"] = queue | content["state_dict"] | under("module.encoder_k.", another(model))
        content["optimizer"] = optimizer()
    save_legacy(content, path)


def swav(state: State, path: Path, heads: tuple[str, ...] = ("",)) -> None:
    """The SwAV family: a bare state dict (facebookresearch/swav `src/resnet50.py`), for torch 1.4.

    Issue 109 lists SwAV's keys beside the backbone; DeepCluster-v2 has several heads (`main_deepclusterv2.py`).
    """
    layers = nn.Linear(FEATURES, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU(), nn.Linear(FEATURES, 128)
    model = state | part("projection_head", *layers) | {f"prototypes{x}.weight": torch.randn(3000, 128) for x in heads}
    save_legacy(under("module.", model), path)


def moco_v3(state: State, path: Path, name: str, widths: tuple[int, ...]) -> None:
    """MoCo v3: base and momentum encoder, predictor (facebookresearch/moco-v3 `moco/builder.py`, `main_moco.py`)."""
    base = state | part(name, *projector(*widths))
    both = under("base_encoder.", base) | under("momentum_encoder.", another(base))
    model = under("module.", both | part("predictor", *projector(256, 4096, 256)))
    rest = {"epoch": 300, "arch": "resnet50" if name == "fc" else "vit_base", "scaler": {"scale": 65536.0}}
    torch.save({"state_dict": model, "optimizer": optimizer("mu"), **rest}, path)


def projector(*widths: int) -> list[nn.Module]:
    """Draws MoCo v3's MLP; its last BatchNorm has no weight."""
    triples = [(nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU()) for i, o in pairwise(widths)]
    return [*list(chain(*triples))[:-2], nn.BatchNorm1d(widths[-1], affine=False)]


def construction() -> list[tuple[str, str]]:
    """Lists convolutions and norms in the order of google-research/simclr `resnet.py`: a shortcut comes first."""
    made = [("conv1", "bn1")]
    for group, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            place = f"layer{group}.{block}."
            made += [(f"{place}downsample.0", f"{place}downsample.1")] * (block == 0)
            made += [(f"{place}conv{k}", f"{place}bn{k}") for k in (1, 2, 3)]
    return made


def hwio(weight: Tensor) -> Any:
    """Turns torch's OIHW kernel as TensorFlow and haiku have it."""
    return weight.permute(2, 3, 1, 0).contiguous().numpy()


def tensorflow(state: State) -> Arrays:
    """Names the variables of `base_model`; `tf.layers` counts from the second one on."""
    arrays: Arrays = {}
    for number, (conv, bn) in enumerate(construction()):
        count = f"_{number}" if number else ""
        arrays[f"base_model/conv2d{count}/kernel"] = hwio(state[f"{conv}.weight"])
        for theirs, ours in zip(VARIABLES, NORM, strict=True):
            arrays[f"base_model/batch_normalization{count}/{theirs}"] = state[f"{bn}.{ours}"].numpy()
    return arrays


def beside(step: int) -> Arrays:
    """Draws the linear evaluation's head; the checkpoint holds its step too."""
    weights = {"kernel": array(FEATURES, 1000), "bias": array(1000)}
    head = {f"head_supervised/linear_layer/dense/{name}": values for name, values in weights.items()}
    return head | {"global_step": np.array(step, np.int64)}


def contrastive_head() -> Arrays:
    """Draws SimCLR v2's three layers (`model_util.py`): no dense bias, BatchNorm, in the last without beta."""
    arrays: Arrays = {}
    for layer, width in enumerate((FEATURES, FEATURES, 128)):
        place = f"head_contrastive/nl_{layer}/"
        arrays[f"{place}dense/kernel"] = array(FEATURES, width)
        arrays |= {f"{place}batch_normalization/{x}": array(width) for x in VARIABLES if x != "beta" or layer < 2}
    return arrays


def simclr_v1(state: State, path: Path) -> None:
    """SimCLR v1: a zip around a TF1 checkpoint without optimizer slots (tonylins/simclr-converter `convert.py`)."""
    prefix = path.with_name("model.ckpt-225206")
    writers.write_tf_bundle(prefix, tensorflow(state) | beside(225206))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ResNet50_1x/checkpoint", f'model_checkpoint_path: "{prefix.name}"\n')
        for file in sorted(path.parent.glob(f"{prefix.name}.*")):
            archive.write(file, f"ResNet50_1x/{file.name}")
            file.unlink()


def lightly(state: State, path: Path) -> None:
    """SimCLR v1 as tonylins/simclr-converter writes it, the file in lightly-ai's repository on Hugging Face.

    A block's shortcut comes first, and kernels are views of TensorFlow's arrays: not contiguous.
    """
    content: State = {}
    for conv, bn in construction():
        content[f"{conv}.weight"] = torch.from_numpy(hwio(state[f"{conv}.weight"])).permute(3, 2, 0, 1)
        content |= {f"{bn}.{leaf}": state[f"{bn}.{leaf}"] for leaf in (*NORM, "num_batches_tracked")}
    content |= {"fc.weight": torch.randn(FEATURES, 1000).t(), "fc.bias": torch.randn(1000)}
    torch.save({"state_dict": content}, path)


def simclr_v2(state: State, path: Path) -> None:
    """SimCLR v2: a TF1 checkpoint (Separius/SimCLRv2-Pytorch `convert.py`, google-research/simclr `lars_optimizer.py`).

    Base model and contrastive head have slots and an averaged copy; `path` is the index file's.
    """
    model = tensorflow(state) | contrastive_head()
    slots = {f"{key}/Momentum": array(*values.shape) for key, values in model.items() if "/moving_" not in key}
    averaged = {f"ema_model/{key}": values for key, values in (tensorflow(another(state)) | contrastive_head()).items()}
    writers.write_tf_bundle(path.with_suffix(""), model | slots | averaged | beside(250228))


def byol(state: State, path: Path) -> None:
    """BYOL: google-deepmind/deepmind-research `byol/byol_experiment.py`, `utils/checkpointing.py`, `utils/networks.py`.

    Issue 256 there names the heads. To write less, target heads and momentum repeat other arrays of the file, and the
    optimizer's state is a mapping, not a list that holds it.
    """
    (params, states), (target, target_states) = haiku(state), haiku(another(state))
    heads, averages = byol_heads()
    content = {"online_params": params | heads, "target_params": target | heads}
    content |= {"online_state": states | averages, "target_state": target_states | averages}
    in_order: dict[str, Any] = {field: dict(sorted(modules.items())) for field, modules in content.items()}
    writers.write_haiku_pickle(path, in_order | {"opt_state": {"mu": in_order["target_params"]}})


def haiku(state: State) -> tuple[Modules, Modules]:
    """Returns parameters and states by module: ajtejankar/byol-convert `convert.py`, haiku `nets/resnet.py`."""
    params: Modules = {}
    states: Modules = {}
    for conv, bn in construction():
        params[haiku_module(conv, "conv")] = {"w": hwio(state[f"{conv}.weight"])}
        wide = {leaf: state[f"{bn}.{leaf}"].reshape(1, 1, 1, -1).numpy() for leaf in NORM}
        module = haiku_module(bn, "batchnorm")
        params[module] = {"scale": wide["weight"], "offset": wide["bias"]}
        states |= {f"{module}/~/{which}_ema": average(wide[f"running_{which}"]) for which in ("mean", "var")}
    return params, states


def haiku_module(place: str, kind: str) -> str:
    """Renames `layer2.0.bn1` to `res_net50/~/block_group_1/~/block_0/~/batchnorm_0`."""
    if "." not in place:
        return f"{HAIKU}/~/initial_{kind}"
    layer, block, part = place.split(".", 2)
    name = f"shortcut_{kind}" if part.startswith("downsample") else f"{kind}_{int(part[-1]) - 1}"
    return f"{HAIKU}/~/block_group_{int(layer[-1]) - 1}/~/block_{block}/~/{name}"


def average(values: Any) -> Arrays:
    """Makes haiku's moving average: after many steps the debiased `average` is `hidden` (byol-convert asserts it)."""
    return {"average": values, "hidden": values.copy(), "counter": np.array(314_000, np.int32)}


def byol_heads() -> tuple[Modules, Modules]:
    params: Modules = {"classifier": {"w": array(FEATURES, 1000), "b": array(1000)}}
    states: Modules = {}
    for name, inputs in (("projector", FEATURES), ("predictor", 256)):
        params[f"{name}/linear"] = {"w": array(inputs, 4096), "b": array(4096)}
        params[f"{name}/batch_norm"] = {"scale": array(1, 4096), "offset": array(1, 4096)}
        params[f"{name}/linear_1"] = {"w": array(4096, 256)}
        states |= {f"{name}/batch_norm/~/{which}_ema": average(array(1, 4096)) for which in ("mean", "var")}
    return params, states


WRITERS: dict[tuple[str, str], Callable[[State, Path], None]] = {
    **{(name, RESNET): inat for name in ("inat2021", "imagenet+inat2021", "imagenet+inat2021-mini")},
    ("inat2021-mini", RESNET): partial(inat, prefix="module."),
    ("insdis", RESNET): contrast,
    ("moco-v1", RESNET): partial(moco, mlp=False),
    ("moco-v2", RESNET): partial(moco, mlp=True),
    ("simclr-v1", RESNET): simclr_v1,
    ("simclr-v1-lightly", RESNET): lightly,
    ("simclr-v2", RESNET): simclr_v2,
    ("byol", RESNET): byol,
    ("pirl", RESNET): partial(contrast, jigsaw=True),
    ("deepcluster-v2", RESNET): partial(swav, heads=(".prototypes0", ".prototypes1", ".prototypes2")),
    ("pcl-v1", RESNET): partial(moco, mlp=False, whole=True),
    ("pcl-v2", RESNET): partial(moco, mlp=True, whole=True),
    **{(name, RESNET): swav for name in ("swav", "sela-v2")},
    ("infomin", RESNET): partial(contrast, mlp=True, jigsaw=True, averaged=True),
    # only the backbone: barlowtwins `main.py`, vicreg `main_vicreg.py`, dino `hubconf.py` (all facebookresearch)
    **{(name, RESNET): torch.save for name in ("barlow-twins", "vicreg", "dino")},
    **{(f"{start}+chestxray14-published", RESNET): partial(chest, prefix="") for start in ("random", "imagenet")},
    **{(f"{start}+chexpert-published", RESNET): chest for start in ("random", "imagenet")},
    ("imagenet+mimic-published", RESNET): chest,
    ("imagenet+mimic-published", SWIN): swin,
    ("imagenet+mimic-published", CONVNEXT): convnext,
    ("radimagenet", RESNET): radimagenet,
    ("moco-v3", RESNET): partial(moco_v3, name="fc", widths=(FEATURES, 4096, 256)),
    ("moco-v3", VIT): partial(moco_v3, name="head", widths=(768, 4096, 4096, 256)),
}
NAMES: tuple[tuple[str, str], ...] = tuple(WRITERS)
"""(initialization, backbone) of every published file"""


def write(name: str, backbone: str, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes the fake of a published checkpoint.

    Args:
        name: of the initialization; with `backbone` a pair of `NAMES`, or "timm" with any backbone: timm's safetensors.
        backbone: timm's name of it.
        tensors: `state_dict()` of `timm.create_model(backbone, num_classes=0)`, all keys.
        path: where the published file itself would lie: the zip, the index file of a TensorFlow checkpoint.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if name != "timm":
            WRITERS[name, backbone](dict(tensors), path)
            return
        whole = {**another(timm.create_model(backbone).state_dict()), **tensors}
        save_file({key: tensor.contiguous() for key, tensor in whole.items()}, path)
