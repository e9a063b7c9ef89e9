"""Weights that were trained on natural images without labels."""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, SWAV_STD, UNIT_RANGE, Record, Source

_FB = "https://dl.fbaipublicfiles.com"
_DROPBOX = "https://www.dropbox.com/sh/87d24jqsl6ra7t2"
_GOOGLE = "https://storage.googleapis.com"

_MOCO = ("module.encoder_q.fc.*", "module.encoder_k.*", "module.queue*")
_PYCONTRAST = ("module.head.*", "module.head_jig.*")
_SWAV = ("module.projection_head.*", "module.prototypes.*")
_TENSORFLOW = ("head_supervised/*", "head_contrastive/*", "ema_model/*", "*/Momentum", "global_step")
_BYOL = (
    "target_params/*", "target_state/*", "opt_state/*", "online_params/projector*", "online_params/predictor*",
    "online_params/classifier*", "online_state/projector*", "online_state/predictor*", "online_state/*/hidden",
    "online_state/*/counter",
)  # fmt: skip


def _resnet50(**fields: Any) -> dict[str, Source]:
    return {"resnet50": Source(**fields)}


def _ssl(name: str, method: str, paper: str, licence: str, source: dict[str, Source], **other: Any) -> Record:
    norm: dict[str, Any] = {
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "data": "ImageNet-1k",
        "family": "self-supervised",
    }
    known: dict[str, Any] = {"name": name, "method": method, "paper": paper, "licence": licence, "sources": source}
    return Record(**(norm | known | other))


_MOCO_LICENCE = "MIT (the README still says CC-BY-NC-4.0)"
_PCL = f"{_GOOGLE}/sfr-pcl-data-research/PCL_checkpoint"
_SIMCLR_V2 = f"{_GOOGLE}/simclr-checkpoints/simclrv2/pretrained/r50_1x_sk0/model.ckpt-250228"


def _moco(path: str, md5: str = "") -> dict[str, Source]:
    url = path if path.startswith("https:") else f"{_FB}/moco/moco_checkpoints/{path}"
    return _resnet50(url=url, md5=md5, nested=("state_dict",), prefix="module.encoder_q.", drop=_MOCO)


def _contrast(path: str) -> dict[str, Source]:
    url = f"{_DROPBOX}/{path}?dl=1"
    return _resnet50(url=url, nested=("model",), prefix="module.encoder.", drop=_PYCONTRAST)


def _deepcluster(file: str) -> dict[str, Source]:
    return _resnet50(url=f"{_FB}/deepcluster/{file}", prefix="module.", drop=_SWAV)


_RESNETS = (
    _ssl(
        "insdis", "InsDis, 200 epochs (PyContrast's re-training)", "Wu et al., CVPR 2018", "BSD-2-Clause",
        _contrast("AACcsSIt1_Njv7GsmsuzZ6Sta/InsDis.pth"),
    ),
    _ssl(
        "moco-v1", "MoCo, 200 epochs", "He et al., CVPR 2020", _MOCO_LICENCE,
        _moco("moco_v1_200ep/moco_v1_200ep_pretrain.pth.tar", "b251726a"),
    ),
    _ssl(
        "moco-v2", "MoCo-v2, 800 epochs", "Chen et al., 2020, arXiv 2003.04297", _MOCO_LICENCE,
        _moco("moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar", "a04e12f8"),
    ),
    _ssl(
        "simclr-v1", "SimCLR", "Chen et al., ICML 2020", "Apache-2.0",
        _resnet50(
            url=f"{_GOOGLE}/simclr-gcs/checkpoints/ResNet50_1x.zip", member="ResNet50_1x/model.ckpt-225206",
            layout="simclr", prefix="base_model/", drop=_TENSORFLOW,
        ),
        padding="pool", **UNIT_RANGE,
        note="the publisher's page is storage.cloud.google.com/simclr-gcs/checkpoints/ResNet50_1x.zip, which may ask "
        "for a login; simclr-v1-lightly is a PyTorch conversion of it",
    ),
    _ssl(
        "simclr-v1-lightly", "SimCLR, converted to PyTorch by lightly", "Chen et al., ICML 2020", "Apache-2.0",
        _resnet50(
            url="https://huggingface.co/lightly-ai/simclrv1-imagenet1k-resnet50-1x/resolve/main/resnet50-1x.pth",
            nested=("state_dict",), drop=("fc.*",),
        ),
        padding="pool", **UNIT_RANGE,
        note="a third party's conversion of simclr-v1",
    ),
    _ssl(
        "simclr-v2", "SimCLR-v2, 800 epochs, not distilled or fine-tuned", "Chen et al., NeurIPS 2020", "Apache-2.0",
        _resnet50(
            url=f"{_SIMCLR_V2}.index", beside=(f"{_SIMCLR_V2}.data-00000-of-00001",),
            layout="simclr", prefix="base_model/", drop=_TENSORFLOW,
        ),
        padding="pool", **UNIT_RANGE,
    ),
    _ssl(
        "byol", "BYOL, 1000 epochs", "Grill et al., NeurIPS 2020", "CC-BY-NC-4.0",
        _resnet50(url=f"{_GOOGLE}/deepmind-byol/checkpoints/pretrain_res50x1.pkl", layout="byol", drop=_BYOL),
        padding="all",
        note="a haiku pickle, read without running anything in it",
    ),
    _ssl(
        "pirl", "PIRL, 200 epochs (PyContrast's re-training)", "Misra and van der Maaten, CVPR 2020", "BSD-2-Clause",
        _contrast("AADN4jKnvTI0U5oT6hTmQZz8a/PIRL.pth"),
    ),
    _ssl(
        "deepcluster-v2", "DeepCluster-v2, 800 epochs", "Caron et al., NeurIPS 2020", "CC-BY-NC-4.0",
        _deepcluster("deepclusterv2_800ep_pretrain.pth.tar"), std=SWAV_STD,
    ),
    _ssl(
        "sela-v2", "SeLa-v2, 400 epochs", "Caron et al., NeurIPS 2020", "CC-BY-NC-4.0",
        _deepcluster("selav2_400ep_pretrain.pth.tar"), std=SWAV_STD,
    ),
    _ssl(
        "pcl-v1", "PCL, 200 epochs", "Li et al., ICLR 2021", "MIT", _moco(f"{_PCL}/PCL_v1_epoch200.pth.tar"),
    ),
    _ssl(
        "pcl-v2", "PCL-v2, 200 epochs", "Li et al., ICLR 2021", "MIT", _moco(f"{_PCL}/PCL_v2_epoch200.pth.tar"),
    ),
    _ssl(
        "swav", "SwAV, 800 epochs", "Caron et al., NeurIPS 2020", "CC-BY-NC-4.0",
        _deepcluster("swav_800ep_pretrain.pth.tar"), std=SWAV_STD,
    ),
    _ssl(
        "infomin", "InfoMin, 800 epochs", "Tian et al., NeurIPS 2020", "BSD-2-Clause",
        _contrast("AAAzMTynP3Qc8mIE4XWkgILUa/InfoMin_800.pth"),
    ),
    _ssl(
        "barlow-twins", "Barlow Twins, 1000 epochs", "Zbontar et al., ICML 2021", "MIT",
        _resnet50(
            url=f"{_FB}/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
            file="barlow_twins_resnet50.pth",
        ),
    ),
    _ssl(
        "barlow-twins-ljng", "Barlow Twins, its publisher's second file", "Zbontar et al., ICML 2021", "MIT",
        _resnet50(url=f"{_FB}/barlowtwins/ljng/resnet50.pth", file="barlow_twins_ljng_resnet50.pth"),
    ),
    _ssl(
        "moco-v2-200", "MoCo-v2, 200 epochs", "Chen et al., 2020, arXiv 2003.04297", _MOCO_LICENCE,
        _moco("moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar", "59fd9945"),
    ),
)  # fmt: skip


def _vissl(name: str, method: str, paper: str, path: str) -> Record:
    trunk = ("classy_state_dict", "base_model", "model", "trunk")
    url = f"{_FB}/vissl/model_zoo/{path}"
    source = _resnet50(url=url, file=f"vissl-{name}.torch", nested=trunk, prefix="_feature_blocks.")
    unverified = "whether the file can be read without running what lies beside its tensors"
    return _ssl(f"vissl-{name}", f"{method} (VISSL)", paper, "MIT", source, unverified=unverified)


_199, _799, _999 = (f"model_final_checkpoint_phase{epoch}.torch" for epoch in (199, 799, 999))
_PIRL = "Misra and van der Maaten, CVPR 2020"
_VISSL = (
    _vissl(
        "npid", "NPID, 200 epochs", "Wu et al., CVPR 2018",
        f"npid_1node_200ep_4kneg_npid_8gpu_resnet_23_07_20.9eb36512/{_199}",
    ),
    _vissl("pirl-200", "PIRL, 200 epochs", _PIRL,
           f"pirl_jigsaw_4node_200ep_pirl_jigsaw_4node_resnet_22_07_20.ffd17b75/{_199}"),
    _vissl("pirl-800", "PIRL, 800 epochs", _PIRL,
           f"pirl_jigsaw_4node_pirl_jigsaw_4node_resnet_22_07_20.34377f59/{_799}"),
    _vissl("simclr-800", "SimCLR, 800 epochs", "Chen et al., ICML 2020",
           f"simclr_rn50_800ep_simclr_8node_resnet_16_07_20.7e8feed1/{_799}"),
    _vissl("simclr-1000", "SimCLR, 1000 epochs", "Chen et al., ICML 2020",
           f"simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/{_999}"),
    _vissl("moco-v2", "MoCo-v2, 200 epochs", "Chen et al., 2020, arXiv 2003.04297",
           f"moco_v2_1node_lr.03_step_b32_zero_init/{_199}"),
    _vissl("barlow-twins", "Barlow Twins, 1000 epochs", "Zbontar et al., ICML 2021",
           "barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch"),
    _vissl("swav", "SwAV, 800 epochs", "Caron et al., NeurIPS 2020",
           f"swav_in1k_rn50_800ep_swav_8node_resnet_27_07_20.a0a6b676/{_799}"),
)  # fmt: skip


def _moco_v3(path: str) -> Source:
    base = "module.base_encoder."
    drop = (f"{base}fc.*", f"{base}head.*", "module.momentum_encoder.*", "module.predictor.*")
    return Source(url=f"{_FB}/moco-v3/{path}", nested=("state_dict",), prefix=base, drop=drop)


def _timm(name: str, tags: tuple[str, ...], data: str, method: str, paper: str = "") -> Record:
    return Record(name=name, family="self-supervised", tags=tags, data=data, method=method, paper=paper)


_MODERN = (
    _ssl(
        "dino", "DINO", "Caron et al., ICCV 2021", "Apache-2.0",
        _resnet50(url=f"{_FB}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"), tags=("dino",),
    ),
    _ssl(
        "vicreg", "VICReg, 1000 epochs", "Bardes et al., ICLR 2022", "MIT",
        _resnet50(url=f"{_FB}/vicreg/resnet50.pth", file="vicreg_resnet50.pth"),
    ),
    _ssl(
        "moco-v3", "MoCo-v3, 1000 epochs (ResNet-50), 300 epochs (ViT)", "Chen et al., ICCV 2021", "CC-BY-NC-4.0",
        {
            "resnet50": _moco_v3("r-50-1000ep/r-50-1000ep.pth.tar"),
            "vit_base_patch16_224": _moco_v3("vit-b-300ep/vit-b-300ep.pth.tar"),
        },
        note="its ViT-S has 12 heads, which is no timm architecture",
    ),
    _timm("mae", ("mae",), "ImageNet-1k", "masked autoencoder",
          "He et al., CVPR 2022; Ryali et al., ICML 2023 (Hiera)"),
    _timm("convnext-v2", ("fcmae",), "ImageNet-1k", "fully convolutional masked autoencoder",
          "Woo et al., CVPR 2023"),
    _timm("i-jepa", ("in1k_ijepa",), "ImageNet-1k", "I-JEPA", "Assran et al., CVPR 2023"),
    _timm("i-jepa-22k", ("in22k_ijepa",), "ImageNet-22k", "I-JEPA", "Assran et al., CVPR 2023"),
    _timm("eva02", ("mim_in22k",), "ImageNet-22k", "EVA-02: masked image modelling",
          "Fang et al., 2023, arXiv 2303.11331"),
    _timm("seer", ("seer",), "a billion images of Instagram", "SwAV", "Goyal et al., 2021, arXiv 2103.01988"),
    _timm("aimv2", ("apple_pt",), "pairs of image and text", "autoregressive, of images and texts",
          "Fini et al., CVPR 2025"),
    _timm("dinov2", ("lvd142m",), "LVD-142M", "DINOv2", "Oquab et al., TMLR 2024"),
    _timm("dinov3", ("lvd1689m", "dinov3_lvd1689m"), "LVD-1689M", "DINOv3", "Siméoni et al., 2025, arXiv 2508.10104"),
    _timm("eupe", ("eupe_lvd1689m",), "LVD-1689M", "EUPE: distilled from several"),
    _timm("c-radio", ("c_radio",), "images without labels", "RADIO: distilled from several",
          "Ranzinger et al., CVPR 2024"),
)  # fmt: skip

ROWS = (*_RESNETS, *_VISSL, *_MODERN)
