"""Weights that were trained on histopathology slides."""

from __future__ import annotations

from typing import Any

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, Record, Source
from medtransfer.weights.rows.hub import hub

_HALF: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
_OPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_LUNIT: dict[str, Any] = {
    "mean": (0.70322989, 0.53606487, 0.66096631), "std": (0.21716536, 0.26081574, 0.20723464),
}  # fmt: skip
_LUNIT_FILES = "https://github.com/lunit-io/benchmark-ssl-pathology/releases/download/pretrained-weights"


def _slides(name: str, method: str, paper: str, backbone: str, source: Source, **other: Any) -> Record:
    """Builds the row of a model whose licence stands on a page that was not seen."""
    known: dict[str, Any] = {
        "family": "medical", "modality": "pathology", "data": "histopathology slides", "licence": "not seen",
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "unverified": "the licence: read its page",
    }  # fmt: skip
    row = {"name": name, "method": method, "paper": paper, "sources": {backbone: source}}
    return Record(**(known | row | other))


def _kaiko(size: str, architecture: str) -> Record:
    repository = f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms"
    paper = "kaiko.ai et al., 2024, arXiv 2404.15217"
    return _slides(f"kaiko-{size}", "self-supervised", paper, architecture, hub(repository), **_HALF)


_FILE = "the licence and the file's name: read its page"
_BIN = "pytorch_model.bin"
_OPTIMUS_G = "vit_giant_patch14_reg4_dinov2:img_size=224"

ROWS = (
    _slides(
        "uni", "DINOv2", "Chen et al., Nature Medicine 2024", "vit_large_patch16_224:init_values=1e-05",
        hub("MahmoodLab/UNI", _BIN), gate="accept",
    ),
    _slides(
        "uni2-h", "DINOv2", "Chen et al., Nature Medicine 2024", "vit_giant_patch14_reg8_uni2",
        hub("MahmoodLab/UNI2-h", _BIN), gate="accept",
    ),
    _slides(
        "virchow", "DINOv2", "Vorontsov et al., Nature Medicine 2024", "vit_huge_patch14_virchow",
        hub("paige-ai/Virchow", _BIN), gate="accept", unverified=_FILE,
    ),
    _slides(
        "virchow2", "DINOv2", "Zimmermann et al., 2024, arXiv 2408.00738", "vit_huge_patch14_reg4_virchow2",
        hub("paige-ai/Virchow2", _BIN), gate="accept", unverified=_FILE,
    ),
    *(
        _slides(
            f"h-optimus-{n}", "self-supervised", "", _OPTIMUS_G, hub(f"bioptimus/H-optimus-{n}", _BIN), gate="accept",
            **_OPTIMUS,
        )
        for n in (0, 1)
    ),
    _slides(
        "h0-mini", "distilled from h-optimus-0", "", "vit_base_patch14_reg4_h0mini", hub("bioptimus/H0-mini"),
        gate="accept", **_OPTIMUS,
        unverified="the licence, the file's name, mean and std (h-optimus-0's are taken), the width of its MLPs",
    ),
    _slides(
        "prov-gigapath", "DINOv2 (the tile encoder)", "Xu et al., Nature 2024",
        "vit_giant_patch16_224_gigapath", hub("prov-gigapath/prov-gigapath", _BIN),
        gate="accept", unverified=_FILE,
    ),
    _slides("phikon", "iBOT", "Filiot et al., 2023, medRxiv", "vit_base_patch16_224", hub("owkin/phikon")),
    _slides(
        "phikon-v2", "DINOv2", "Filiot et al., 2024, arXiv 2409.09173", "vit_large_patch16_224:init_values=1e-05",
        hub("owkin/phikon-v2"),
    ),
    _slides(
        "midnight-12k", "DINOv2", "Karasikov et al., 2025, arXiv 2504.05186",
        "vit_giant_patch14_dinov2:img_size=224", hub("kaiko-ai/midnight"), **_HALF,
    ),
    _slides(
        "openmidnight", "self-supervised", "", _OPTIMUS_G,
        hub("SophontAI/OpenMidnight", "teacher_checkpoint_load.pt"),
    ),
    _slides(
        "gpfm", "distilled from several", "Ma et al., 2024, arXiv 2407.18449", "vit_large_patch14_dinov2:img_size=224",
        hub("majiabo/GPFM", "GPFM.pth"),
    ),
    _kaiko("vits16", "vit_small_patch16_224"),
    _kaiko("vits8", "vit_small_patch8_224"),
    _kaiko("vitb16", "vit_base_patch16_224"),
    _kaiko("vitb8", "vit_base_patch8_224"),
    _kaiko("vitl14", "vit_large_patch14_reg4_dinov2"),
    _slides(
        "lunit-dino-vits8", "DINO", "Kang et al., CVPR 2023", "vit_small_patch8_224",
        hub("1aurent/vit_small_patch8_224.lunit_dino"), **_LUNIT,
    ),
    _slides(
        "lunit-dino-vits16", "DINO", "Kang et al., CVPR 2023", "vit_small_patch16_224",
        Source(url=f"{_LUNIT_FILES}/dino_vit_small_patch16_ep200.torch", layout="auto"), **_LUNIT,
    ),
)  # fmt: skip
