"""Weights that were trained on other medical images: radiology, the eye, ultrasound, skin, endoscopy, several."""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, Record, Source
from medtransfer.weights.rows.hub import by_hand, hub

_HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_CLIP: dict[str, Any] = {
    "mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711),
}  # fmt: skip
_ITS_CONFIG = "mean and std, in a config.json that was not seen: ImageNet's are taken"


def _medical(
    name: str, modality: str, data: str, method: str, paper: str, licence: str, backbone: str, source: Source,
    **other: Any,
) -> Record:  # fmt: skip
    known: dict[str, Any] = {"family": "medical", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    row = {"name": name, "modality": modality, "data": data, "method": method, "paper": paper, "licence": licence}
    return Record(**(known | row | {"sources": {backbone: source}} | other))


def _retfound(name: str, modality: str, backbone: str, repository: str, method: str, **other: Any) -> Record:
    sha256 = other.pop("sha256", "")
    source = hub(f"YukunZhou/{repository}", f"{repository}.pth", file=f"{repository}.pth", nested=None, sha256=sha256)
    return _medical(
        name, modality, other.pop("data", "retinal images"), method, "Zhou et al., Nature 2023", "CC-BY-NC-4.0",
        backbone, source, gate="accept", **other,
    )  # fmt: skip


_MAE = ("vit_large_patch16_224", "masked autoencoder")
_DINOV2 = ("vit_large_patch14_dinov2:img_size=224", "DINOv2")
_HEADS = "the names of the heads that are left out"


def _radio_dino(size: str, architecture: str) -> Record:
    return _medical(
        f"radio-dino-{size}", "radiology", "RadImageNet: CT, MRI and ultrasound", "DINO", "", "CC-BY-4.0",
        architecture, hub(f"Snarcy/RadioDino-{size}"),
        unverified="the architecture, taken from its name; " + _ITS_CONFIG
        + ("" if size == "s16" else "; the licence is that of the card of s16"),
    )  # fmt: skip


def _omnirad(size: str, **other: Any) -> Record:
    return _medical(
        f"omnirad-{size}", "radiology", "over a million radiological images", "self-supervised", "", "CC-BY-NC-4.0",
        f"vit_{size}_patch14_dinov2:img_size=224", hub(f"Snarcy/OmniRad-{size}"), **other,
    )  # fmt: skip


def _gastronet(start: str, file: str) -> Record:
    return _medical(
        f"gastronet-5m-{start}", "endoscopy", "GastroNet-5M: 5 M endoscopic images", start, "", "not seen", "resnet50",
        hub("tgwboers/GastroNet-5M_Pretrained_Weights", file, file=file.replace("%2B", "+"), nested=None),
        unverified="the names of its tensors, the licence; it is refused if they are no ResNet-50's",
    )  # fmt: skip


ROWS = (
    Record(
        name="radimagenet",
        family="medical",
        sources={
            "resnet50": Source(
                url="https://huggingface.co/Lab-Rasool/RadImageNet/resolve/main/ResNet50.pt",
                file="radimagenet_resnet50.pt",
                sha256="08629f7e7bd3e29b8ee9522ca3f65ce4d010a7ddf74f0ea3c7e3f3d0bbab0734",
                layout="radimagenet",
            )
        },
        data="RadImageNet: 1.35 M CT, MRI and ultrasound images",
        method="supervised, 165 classes",
        paper="Mei et al., Radiology: AI 2022",
        licence="not stated (repository MIT)",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        note="trained on BGR in [-1, 1] by its authors' notebook, so the first convolution's channels are turned "
        "round at conversion; the card of this copy, byte-identical to the authors' zip, says ImageNet's mean and std",
        modality="radiology",
    ),
    _omnirad("base"),
    _omnirad("small", unverified="mean and std: those of omnirad-base are taken"),
    _radio_dino("s16", "vit_small_patch16_224"),
    _radio_dino("b16", "vit_base_patch16_224"),
    _radio_dino("s8", "vit_small_patch8_224"),
    _medical(
        "meddinov3", "ct", "CT-3M: 3.87 M slices", "DINOv3, continued", "",
        "Apache-2.0 (repository), DINOv3 License of what it started from", "vit_base_patch16_dinov3",
        hub("ricklisz123/MedDINOv3-ViTB-16-CT-3M", "model.pth", nested=("teacher",)),
        unverified="mean and std: ImageNet's are taken",
    ),
    _retfound(
        "retfound-cfp", "fundus", _MAE[0], "RETFound_mae_natureCFP", _MAE[1], data="1.6 M retinal images",
        sha256="e1e4f66a1b792eeb6e2efaf158f33be35c8255f36b3d17ed67cd5129da246485",
    ),
    _retfound(
        "retfound-oct", "oct", _MAE[0], "RETFound_mae_natureOCT", _MAE[1], data="1.6 M retinal images, OCT",
        sha256="e9ff7864f40334885062953cb3894739d9fff52aaeb22c8b4f47d92270068d18",
    ),
    _retfound("retfound-meh", "fundus", _MAE[0], "RETFound_mae_meh", _MAE[1]),
    _retfound("retfound-shanghai", "fundus", _MAE[0], "RETFound_mae_shanghai", _MAE[1]),
    _retfound("retfound-dinov2-meh", "fundus", _DINOV2[0], "RETFound_dinov2_meh", _DINOV2[1], unverified=_HEADS),
    _retfound(
        "retfound-dinov2-shanghai", "fundus", _DINOV2[0], "RETFound_dinov2_shanghai", _DINOV2[1], unverified=_HEADS
    ),
    _medical(
        "retfound-green", "fundus", "75,000 public retinal images", "self-supervised",
        "Engelmann and Bernabeu, 2024, arXiv 2405.00117", "non-commercial research",
        "vit_small_patch14_reg4_dinov2:img_size=392",
        Source(
            url="https://github.com/justinengelmann/RETFound_Green/releases/download/v0.1/retfoundgreen_statedict.pth",
            sha256="431de5dbc1bebbb32f60e2c0bcf8daa4f8bcbf06f7cb1e1dc97ec589713942e1", layout="auto",
        ),
        **_HALF, unverified="the number of its images, and which public sets they are of",
    ),
    _medical(
        "usf-mae", "ultrasound", "ultrasound images", "masked autoencoder", "", "not seen", "vit_base_patch16_224",
        by_hand("https://drive.google.com/file/d/1ZPu_7KhMEuaq-XdLhVp2EEgMgLJ4dKhr/view", "usf_mae_vitb16_100ep.pth"),
        unverified="how the file is packed, the licence, mean and std (ImageNet's are taken)",
    ),
    _medical(
        "dermlip", "dermatology", "Derm1M: pairs of skin image and text", "CLIP", "Yan et al., ICCV 2025",
        "CC-BY-NC-ND-4.0", "vit_base_patch16_clip_224",
        hub("redlessone/DermLIP_ViT-B-16", "open_clip_pytorch_model.bin"), **_CLIP,
        unverified="the file's name, and whether its activation is GELU or QuickGELU",
    ),
    _gastronet("dino", "RN50_Billion-Scale-SWSL%2BGastroNet-5M_DINOv1.pth"),
    _gastronet("simclr-v2", "RN50_GastroNet-5M_SIMCLRv2.pth"),
    _gastronet("moco-v2", "RN50_GastroNet-5M_MOCOv2.pth"),
    _medical(
        "biomedclip", "medical", "PMC-15M: figures of papers with their captions", "CLIP",
        "Zhang et al., 2023, arXiv 2303.00915", "MIT", "vit_base_patch16_224",
        hub("microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", "open_clip_pytorch_model.bin"), **_CLIP,
        unverified="the file's name", note="the image tower",
    ),
    _medical(
        "medsiglip-448", "medical", "pairs of text and radiology, histopathology, eye and skin images", "SigLIP",
        "Sellergren et al., 2025, arXiv 2507.05201", "Health AI Developer Foundations terms",
        "vit_so400m_patch14_siglip_378:img_size=448", hub("google/medsiglip-448"), gate="accept", **_HALF,
        unverified="the file's name", note="the image tower",
    ),
    _medical(
        "medsam", "medical", "1.5 M medical images with masks", "Segment Anything, fine-tuned",
        "Ma et al., Nature Communications 2024", "Apache-2.0", "samvit_base_patch16",
        by_hand("https://github.com/bowang-lab/MedSAM", "medsam_vit_b.pth"),
        unverified="the file's name; mean and std: ImageNet's are taken; the licence is said by its users",
        note="the image encoder",
    ),
)  # fmt: skip
