"""Weights that were trained on chest X-rays."""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, Record, Source
from medtransfer.weights.rows.hub import by_hand, hub

_ZENODO = "https://zenodo.org/record/5205234/files"
_MIMIC = "https://zenodo.org/records/17627332/files/domain_adapted"
_TXRV = "https://github.com/mlmed/torchxrayvision/releases/download/v1"


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
        modality="chest-x-ray",
    )


def _asu(file: str, prefix: str) -> dict[str, Source]:
    url = f"{_ZENODO}/{file}?download=1"
    return {"resnet50": Source(url=url, nested=("state_dict",), prefix=prefix, drop=(f"{prefix}fc.*",))}


def _mimic(architecture: str) -> Source:
    url = f"{_MIMIC}_{architecture}_imagenet_mimic_checkpoint.pth.tar?download=1"
    return Source(url=url, nested=None, layout="auto")


def _chest(name: str, method: str, paper: str, licence: str, sources: dict[str, Source], **other: Any) -> Record:
    norm: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "family": "medical", "modality": "chest-x-ray"}
    known: dict[str, Any] = {"name": name, "method": method, "paper": paper, "licence": licence, "sources": sources}
    return Record(**(norm | known | other))


def _eva_x(size: str) -> Record:
    file = f"eva_x_{size}_patch16_merged520k_mim.pt"
    grays: dict[str, Any] = {"mean": (0.49185243,) * 3, "std": (0.28509309,) * 3}
    return _chest(
        f"eva-x-{size}", "EVA-X, masked image modelling", "Yao et al., 2024, arXiv 2405.05237", "MIT",
        {f"eva02_{size}_patch16_224_eva_x": hub("MapleF/eva_x", file, file=file, nested=None)},
        data="520,000 chest X-rays", datasets=("chestxray14", "chexpert"), **grays,
        unverified="which of the three mean and std of its code pre-training used; that its X-rays are those of "
        "ChestX-ray14, CheXpert and MIMIC-CXR; the licence is of the README, without a licence file",
    )  # fmt: skip


_ARK_FORM = "https://forms.gle/qkoDGXNiKRPTDdCe8"
_ARK_SAW = "MIMIC-CXR, CheXpert, ChestX-ray14, RSNA Pneumonia, VinDr-CXR and Shenzhen"


def _ark(
    name: str, method: str, paper: str, backbone: str, file: str, unverified: str, nested: tuple[str, ...]
) -> Record:
    source = by_hand(f"the form {_ARK_FORM}", file, nested=nested)
    return _chest(
        name, method, paper, "ASU non-commercial", {backbone: source}, gate="form", data=_ARK_SAW,
        datasets=("chestxray14", "chexpert", "shenzhen"), unverified=unverified,
    )  # fmt: skip


_MEDMAE = "https://github.com/lambert-x/medical_mae, which links to Google Drive,"
_WHICH = "which X-rays: counted as having seen ChestX-ray14 and CheXpert"
_BOTH = ("chestxray14", "chexpert")
_XIAO = "Xiao et al., WACV 2023"


def _medical_mae(name: str, backbone: str, file: str, data: str) -> Record:
    gray: dict[str, Any] = {"mean": (0.5056,) * 3, "std": (0.252,) * 3}
    return _chest(
        name, "masked autoencoder", _XIAO, "not stated", {backbone: by_hand(_MEDMAE, file)}, data=data,
        datasets=_BOTH, unverified=f"how the file is packed; {_WHICH}", **gray,
    )  # fmt: skip


def _medmae(start: str, backbone: str, data: str, *, target: str = "CXR", datasets: tuple[str, ...]) -> Record:
    repository = f"1aurent/{backbone}.medmae_{start}_ft_{target}"
    vit = backbone != "resnet50"
    return _chest(
        f"medmae-{start}-ft-{target}".lower().replace("_", "-"), "fine-tuned, supervised", _XIAO, "Apache-2.0",
        {backbone: hub(repository)}, data=data, datasets=datasets,
        unverified="mean and std, in a config.json that was not seen: ImageNet's are taken"
        + (f"; {_WHICH}" if vit else ""),
        note="a conversion to timm's names by 1aurent",
    )  # fmt: skip


ROWS = (
    _adapted("random+chestxray14-published", "ChestX-ray14", _asu("chestxray14.pth.tar", ""), ("chestxray14",)),
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
    _chest(
        "rad-dino", "DINOv2, continued", "Pérez-García et al., Nature Machine Intelligence 2025", "MIT",
        {
            "vit_base_patch14_dinov2": hub(
                "microsoft/rad-dino", "backbone_compatible.safetensors",
                sha256="1eac0464b2a00d368aa3eea1dc029964b10320fbabc59a8a4e768c43a23d26f4",
            )
        },
        data="LVD-142M, then chest X-rays", datasets=_BOTH,
        unverified="mean and std, in a preprocessor_config.json that was not seen: ImageNet's are taken; that its "
        "X-rays are of MIMIC-CXR, CheXpert, ChestX-ray14, PadChest and BRAX",
        note="training_images.csv of its repository lists the images that it has seen",
    ),
    _chest(
        "rad-dino-maira-2", "DINOv2, continued", "Bannur et al., 2024, arXiv 2406.04449", "MSRLA",
        {"vit_base_patch14_dinov2": hub("microsoft/rad-dino-maira-2")},
        data="LVD-142M, then more chest X-rays than rad-dino's", datasets=_BOTH,
        unverified="mean and std: ImageNet's are taken; which X-rays: counted as having seen what rad-dino has",
    ),
    _chest(
        "dinov2-base-xray-224", "DINOv2", "", "Apache-2.0",
        {"vit_base_patch14_dinov2:img_size=224": hub("StanfordAIMI/dinov2-base-xray-224")},
        data="X-rays", datasets=_BOTH,
        unverified="mean and std: ImageNet's are taken; which X-rays, as none are stated: counted as having seen "
        "ChestX-ray14 and CheXpert",
    ),
    *map(_eva_x, ("tiny", "small", "base")),
    _ark(
        "ark-plus", "Ark+: supervised, one head per set of labels, teacher and student", "Ma et al., Nature 2025",
        "swin_large_patch4_window12_384:img_size=768", "Ark6_swinLarge768_ep50.pth.tar",
        "the prefix of its keys and the names of what is left out", ("teacher",),
    ),
    _ark(
        "ark-6", "Ark: supervised, one head per set of labels, teacher and student", "Ma et al., MICCAI 2023",
        "swin_base_patch4_window7_224", "ark6_teacher_ep200_swinb_projector1376_mlp.pth.tar",
        "the name of its projector", (),
    ),
    _chest(
        "chexfound", "DINOv2", "Yang et al., 2025, arXiv 2502.05142", "not stated",
        {
            "vit_large_patch16_reg4_chexfound": by_hand(
                "https://drive.google.com/drive/folders/1GX2BWbujuVABtVpSZ4PTBykGULzrw806", "teacher_checkpoint.pth",
            )
        },
        data="MIMIC-CXR, CheXpert, PadChest and BRAX", datasets=("chexpert",), unverified="the prefix of its keys",
        note="its repository has no licence file",
    ),
    _medical_mae("medical-mae-vitb", "vit_base_patch16_224", "vit-b_CXR_0.5M_mae.pth", "500,000 chest X-rays"),
    _medical_mae(
        "medical-mae-vits", "vit_small_patch16_224", "vit_small_patch16_CXR_0.3M_mae_pretrain.pth",
        "300,000 chest X-rays",
    ),
    _medmae("CXR_mae", "vit_base_patch16_224", "chest X-rays, then ChestX-ray14", datasets=_BOTH),
    _medmae("CXR_mae", "vit_base_patch16_224", "chest X-rays, then CheXpert", target="CheXpert", datasets=_BOTH),
    *(
        _medmae(f"in1k_{start}", "resnet50", f"ImageNet-1k ({said}), then ChestX-ray14", datasets=("chestxray14",))
        for start, said in (("mocov2", "MoCo-v2"), ("byol", "BYOL"), ("swav", "SwAV"))
    ),
    _chest(
        "txrv-resnet50", "supervised, 18 findings", "Cohen et al., MIDL 2022", "Apache-2.0",
        {
            "resnet50": Source(
                url=f"{_TXRV}/pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", layout="auto",
            )
        },
        data="PadChest, ChestX-ray14, RSNA Pneumonia, SIIM-ACR and VinDr-CXR",
        datasets=("chestxray14", "siim"), mean=(0.5,) * 3, std=(1 / 2048,) * 3,
        note="trained at 512 pixels on one channel in [-1024, 1024]; its first convolution is spread over three. The "
        "DenseNets of TorchXRayVision are pickled programs, which are not opened",
    ),
)  # fmt: skip
