"""Weights that were trained on natural images with labels or texts."""

from __future__ import annotations

from medtransfer.weights.records import IMAGENET_MEAN, IMAGENET_STD, Record, Source

_BOX = "https://cornell.box.com/s/bnyhq5lwobu6fgjrub44zle0pyjijbmw"


def _newt(
    name: str,
    data: str,
    start: str,
    file: str,
    prefix: str = "",
    *,
    drop: tuple[str, ...] = ("fc.*",),
    beside: tuple[str, ...] = (),
    how: str = "",
) -> Record:
    steps = (
        f"open {_BOX} in a browser; a Box page has no address for a program",
        "download cvpr21_newt_pretrained_models.tar (5.7 GB, one bundle for all) and unpack it",
        f"put its file pt/{file} at {{place}}",
    )
    heads = (*(f"{prefix}{head}" for head in drop), *beside)
    return Record(
        name=name,
        family="self-supervised" if how else "supervised",
        sources={"resnet50": Source(file=file, steps=steps, nested=("state_dict",), prefix=prefix, drop=heads)},
        data=data,
        method=how or f"supervised, 10,000 species, started {start}",
        paper="Van Horn et al., CVPR 2021",
        licence="not stated (repository MIT)",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _timm(name: str, tags: tuple[str, ...], data: str, method: str, paper: str = "", note: str = "") -> Record:
    return Record(name=name, family="supervised", tags=tags, data=data, method=method, paper=paper, note=note)


def _of(name: str, tag: str, architectures: str, data: str, method: str, paper: str, note: str = "") -> Record:
    """Builds the row of a tag that other weights have too: its architectures are named."""
    sources = {each: Source(tag=f"{each}.{tag}") for each in architectures.split()}
    return Record(name=name, family="supervised", sources=sources, data=data, method=method, paper=paper, note=note)


_SWAV_HEADS = ("projection_head.*", "prototypes.*")
_TOWER = "the image tower"

ROWS = (
    Record(name="random", family="random", data="none", method="no pre-training", licence="none", modality="none"),
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
    _timm(
        "imagenet-22k",
        ("in21k", "augreg_in21k", "goog_in21k", "fb_in22k", "ms_in22k", "sail_in22k", "orig_in21k"),
        "ImageNet-22k (also called 21k)", "supervised", "Deng et al., CVPR 2009",
        "no ResNet-50 of torchvision's form has them; the nearest is resnetv2_50x1_bit",
    ),
    _timm("imagenet-12k", ("in12k", "sw_in12k", "sbb_in12k"), "ImageNet-12k, part of ImageNet-22k", "supervised"),
    _newt("inat2021", "iNat2021", "at random", "inat2021_supervised_large_from_scratch.pth.tar"),
    _newt("imagenet+inat2021", "ImageNet-1k, then iNat2021", "from ImageNet", "inat2021_supervised_large.pth.tar"),
    _newt(
        "inat2021-mini", "iNat2021 mini", "at random", "inat2021_supervised_mini_from_scratch.pth.tar", "module."
    ),
    _newt(
        "imagenet+inat2021-mini", "ImageNet-1k, then iNat2021 mini", "from ImageNet", "inat2021_supervised_mini.pth.tar"
    ),
    _newt("imagenet+inat2018", "ImageNet-1k, then iNat2018", "from ImageNet", "inat2018_supervised.pth.tar"),
    _newt(
        "inat2021-mini-swav", "iNat2021 mini", "", "inat2021_mini_swav_ckp-199.pth", "module.", drop=_SWAV_HEADS,
        how="SwAV, 200 epochs",
    ),
    _newt(
        "inat2021-mini-swav-1000", "iNat2021 mini", "", "inat2021_swav_mini_1000_ep.pth", "module.", drop=_SWAV_HEADS,
        how="SwAV, 1000 epochs",
    ),
    _newt(
        "inat2021-mini-moco-v2", "iNat2021 mini", "", "inat2021_moco_v2_mini_1000_ep.pth.tar", "module.encoder_q.",
        drop=("fc.*",), how="MoCo-v2, 1000 epochs", beside=("module.encoder_k.*", "module.queue*"),
    ),
    _timm("swsl", ("fb_swsl_ig1b_ft_in1k",), "1 billion images with hashtags, then ImageNet-1k",
          "semi-weakly supervised", "Yalniz et al., 2019, arXiv 1905.00546"),
    _timm("ssl-yfcc", ("fb_ssl_yfcc100m_ft_in1k",), "YFCC-100M, then ImageNet-1k",
          "semi-supervised: teacher and student", "Yalniz et al., 2019, arXiv 1905.00546"),
    _timm("noisy-student", ("ns_jft_in1k",), "JFT without its labels, and ImageNet-1k",
          "semi-supervised: noisy student", "Xie et al., CVPR 2020"),
    _timm("convnext-v2-22k", ("fcmae_ft_in22k_in1k",), "ImageNet-1k, then ImageNet-22k, then ImageNet-1k",
          "masked autoencoder, then supervised", "Woo et al., CVPR 2023"),
    _timm("beit-v2-22k", ("in1k_ft_in22k",), "ImageNet-1k, then ImageNet-22k",
          "masked image modelling, then supervised", "Peng et al., 2022, arXiv 2208.06366"),
    _timm("eva02-22k", ("mim_in22k_ft_in22k",), "ImageNet-22k", "masked image modelling, then supervised",
          "Fang et al., 2023, arXiv 2303.11331"),
    _timm("clip", ("openai",), "400 M pairs of image and text", "CLIP", "Radford et al., ICML 2021",
          "the vision tower"),
    _timm("openclip", ("laion2b",), "LAION-2B: pairs of image and text", "CLIP", "Cherti et al., CVPR 2023", _TOWER),
    _timm("datacomp", ("datacompxl",), "DataComp-1B: pairs of image and text", "CLIP",
          "Gadre et al., NeurIPS 2023", _TOWER),
    _timm("metaclip", ("metaclip_2pt5b",), "2.5 billion pairs of image and text", "CLIP", "Xu et al., ICLR 2024",
          _TOWER),
    _timm("dfn", ("dfn5b", "dfn2b"), "pairs of image and text, filtered by a network", "CLIP",
          "Fang et al., ICLR 2024", _TOWER),
    _of("siglip", "webli", "vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384 "
        "vit_base_patch16_siglip_512 vit_large_patch16_siglip_256 vit_large_patch16_siglip_384 "
        "vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_384", "WebLI: pairs of image and text", "SigLIP",
        "Zhai et al., ICCV 2023", _TOWER),
    _timm("siglip-2", ("v2_webli",), "WebLI: pairs of image and text", "SigLIP 2",
          "Tschannen et al., 2025, arXiv 2502.14786", _TOWER),
    _of("tips-v2", "webli", "vit_base_patch14_reg1_tipsv2 vit_large_patch14_reg1_tipsv2",
        "WebLI: pairs of image and text", "TIPS v2", "", _TOWER),
    _of("perception-encoder", "fb", "vit_pe_core_base_patch16_224 vit_pe_core_tiny_patch16_384 "
        "vit_pe_core_small_patch16_384 vit_pe_core_large_patch14_336 vit_pe_core_gigantic_patch14_448",
        "pairs of image and text, and videos", "CLIP", "Bolya et al., 2025, arXiv 2504.13181", _TOWER),
    _of("perception-encoder-spatial", "fb", "vit_pe_spatial_base_patch16_512 vit_pe_spatial_tiny_patch16_512 "
        "vit_pe_spatial_small_patch16_512 vit_pe_spatial_large_patch14_448 vit_pe_spatial_gigantic_patch14_448",
        "pairs of image and text, and videos", "CLIP, then aligned for dense features",
        "Bolya et al., 2025, arXiv 2504.13181"),
    _timm("sam", ("sa1b",), "SA-1B: 11 M images with masks", "Segment Anything: masks by prompt",
          "Kirillov et al., ICCV 2023", "the image encoder"),
    _timm("sam-2", ("fb_r896_2pt1", "fb_r1024_2pt1"), "SA-V: videos with masks", "Segment Anything 2.1",
          "Ravi et al., 2024, arXiv 2408.00714", "the image encoder"),
)  # fmt: skip
