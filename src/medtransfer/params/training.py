"""Parameters of training: fine-tuning, continual pre-training, and how arithmetic is done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from medtransfer.core import schema
from medtransfer.core.addresses import holds_secret, scrub
from medtransfer.params.limits import require, require_names


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training image; every one of the first five only bends the sampling grid."""

    crop: float
    """probability of a random resized crop"""
    crop_scale_min: float
    """smallest crop, as a fraction of the image's area"""
    crop_ratio_max: float
    """widest aspect ratio of a crop; the narrowest is its inverse"""
    flip: float
    """probability of a horizontal flip"""
    rotation: float
    """degrees: rotation is uniform in plus or minus this"""
    distortion: float
    """probability of one of elastic, grid or optical distortion"""
    intensity: float
    """probability of either brightness and contrast or gamma"""

    def __post_init__(self) -> None:
        for name in ("crop", "flip", "distortion", "intensity"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"0 <= augmentation.{name} <= 1", **{name: value})
        require(0 < self.crop_scale_min <= 1, "0 < crop_scale_min <= 1", crop_scale_min=self.crop_scale_min)
        require(self.crop_ratio_max >= 1, "crop_ratio_max >= 1", crop_ratio_max=self.crop_ratio_max)
        require(0 <= self.rotation <= 180, "0 <= rotation <= 180", rotation=self.rotation)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both kinds of fine-tuning share."""

    optimizer: Literal["adam", "adamw", "sgd"]
    """of torch; sgd has momentum 0.9 and Nesterov's step"""
    lr: float
    """learning rate at the start (after warm-up)"""
    backbone_lr: float
    """the backbone's rate as a multiple of lr; 0: its parameters and its batch norms' statistics stay as they are"""
    layer_decay: float
    """the rate of each block of the backbone is that of the next one times this"""
    weight_decay: float
    """as torch's optimizer takes it: adamw decays apart from the gradient, the others add it"""
    batch_size: int
    """images of one step of the optimizer"""
    schedule: Literal["plateau", "cosine", "constant"]
    """of the learning rate: plateau lowers it where `monitor` stands still, cosine falls to 0 by max_epochs"""
    warmup_epochs: int
    """epochs of linear warm-up from lr / 10"""
    plateau_factor: float
    """plateau: lr is multiplied by this"""
    plateau_patience: int
    """plateau: epochs without improvement before that"""
    max_epochs: int
    """epochs after which training ends at the latest"""
    min_steps: int
    """steps: an epoch of a small set is as many whole passes as reach this"""
    patience: int
    """epochs without improvement after which training stops"""
    monitor: str
    """`val_loss` or `val_<metric>`, any that val scores: the one rule of stop, plateau and checkpoint; whether higher
    is better is the metric's own"""
    normalization: Literal["init", "imagenet", "none"]
    """input mean and std: the initialization's own, ImageNet's for all, or [0, 1] for all"""
    crop_fraction: float
    """side of the centre crop that val and test see, as a fraction of the image's side"""
    augmentation: Augmentation

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr > 0", lr=self.lr)
        require(self.backbone_lr >= 0, "backbone_lr >= 0", backbone_lr=self.backbone_lr)
        require(0 < self.layer_decay <= 1, "0 < layer_decay <= 1", layer_decay=self.layer_decay)
        require(
            self.backbone_lr > 0 or self.layer_decay == 1,
            "layer_decay == 1 where backbone_lr == 0, because a frozen backbone has no rates",
            backbone_lr=self.backbone_lr,
            layer_decay=self.layer_decay,
        )
        require(self.weight_decay >= 0, "weight_decay >= 0", weight_decay=self.weight_decay)
        for name in ("batch_size", "max_epochs", "min_steps", "patience"):
            require(getattr(self, name) >= 1, f"{name} >= 1", **{name: getattr(self, name)})
        require(self.warmup_epochs >= 0, "warmup_epochs >= 0", warmup_epochs=self.warmup_epochs)
        require(0 < self.plateau_factor < 1, "0 < plateau_factor < 1", plateau_factor=self.plateau_factor)
        require(self.plateau_patience >= 0, "plateau_patience >= 0", plateau_patience=self.plateau_patience)
        require(self.monitor.startswith("val_"), "monitor begins with val_", monitor=self.monitor)
        require(0 < self.crop_fraction <= 1, "0 < crop_fraction <= 1", crop_fraction=self.crop_fraction)


@dataclass(frozen=True, kw_only=True)
class Classification(Training):
    """Fine-tuning of backbone + head."""

    class_weights: Literal["none", "balanced"]
    """balanced: each label's positive term is weighted by negatives / positives of train"""
    uncertain: Literal["lsr-ones", "lsr-zeros", "ones", "zeros", "ignore"]
    """what an uncertain label (-1) counts as in the loss: a number drawn from U(0.55, 0.85) or U(0, 0.3) anew at every
    access in training and its mean in val, 1, 0, or nothing; scores leave it out"""
    test_views: Literal[1, 10]
    """views whose probabilities are averaged at test: the centre crop, or five crops and their flips"""


@dataclass(frozen=True, kw_only=True)
class Segmentation(Training):
    """Fine-tuning of encoder + decoder."""

    loss: Literal["dice", "bce", "both"]
    """soft Dice over the flattened batch with smooth 1, binary cross-entropy, or their sum"""
    class_weights: Literal["none", "balanced"]
    """balanced: positive pixels of the cross-entropy are weighted by negatives / positives of train"""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Training):
    """Continual pre-training of a backbone on a dataset; what fine-tuning has too means the same."""

    class_weights: Literal["none", "balanced"]
    """supervised: as `classification.class_weights`"""
    uncertain: Literal["lsr-ones", "lsr-zeros", "ones", "zeros", "ignore"]
    """supervised: as `classification.uncertain`"""
    method: str
    """`supervised` by all labels of the dataset, or a self-supervised method, which needs none"""
    image_size: int
    """pixels: side of the network input; at most the task's cache_size"""
    seed: int
    """of order, augmentation and heads; weights that are drawn are drawn from it"""
    micro_batch: int
    """images of one forward pass, whose gradients are summed up to the batch; 0: the whole batch"""
    ema: float
    """decay per step of the averaged weights that are kept; 0: the weights themselves"""
    projector: int
    """self-supervised: width of the head that is thrown away"""
    temperature: float
    """simclr: divides the cosine similarities"""
    masked: float
    """mae: share of the patches that is hidden"""
    probe: str
    """self-supervised: task whose train and val tell how good the frozen features are, as val_probe; none: no probe"""
    probe_every: int
    """epochs from one probe to the next"""
    probe_neighbours: int
    """neighbours that vote"""
    probe_images: int
    """most images of train, and of val, that are looked at"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image_size >= 16, "pretraining.image_size >= 16", image_size=self.image_size)
        require(self.seed >= 0, "pretraining.seed >= 0", seed=self.seed)
        require(
            0 <= self.micro_batch <= self.batch_size, "0 <= micro_batch <= batch_size", micro_batch=self.micro_batch
        )
        require(0 <= self.ema < 1, "0 <= pretraining.ema < 1", ema=self.ema)
        require(self.temperature > 0, "pretraining.temperature > 0", temperature=self.temperature)
        require_names([self.probe], "pretraining.probe")
        require(0 < self.masked < 1, "0 < pretraining.masked < 1", masked=self.masked)
        for name in ("projector", "probe_every", "probe_neighbours", "probe_images"):
            require(getattr(self, name) >= 1, f"pretraining.{name} >= 1", **{name: getattr(self, name)})

    @property
    def classification(self) -> Classification:
        """Is the same as a protocol of fine-tuning, for training by labels; test is never read."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        return Classification(**shared, class_weights=self.class_weights, uncertain=self.uncertain, test_views=1)


LATER = ("engine.portable", "engine.graphs")
"""fields that came after the first runs; where they are false they are in no identity"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How arithmetic is done; every field can change the last digits and is part of a run's identity."""

    precision: Literal["fp32", "tf32", "bf16"]
    """fp32: all of it; tf32: a GPU rounds what convolutions and matrix products take to 10 bits; bf16: autocast,
    quicker on GPUs and on CPUs that compute in it, slower on others: `benchmarks/step.py` measures. What the device has
    not is refused"""
    channels_last: bool
    """images lie in memory with their channels together, which is faster for convolutions"""
    compile: bool
    """torch.compile, once per worker and shape: `benchmark --dry-run` says from which gain on it pays. On the CPU where
    it was tried it took a minute or two, and steps were hardly faster"""
    deterministic: bool
    """deterministic kernels; a CPU has no others"""
    portable: bool = False
    """x86 CPUs are held to the instructions that all with AVX2 have, so that they agree: docs/reproducibility.md"""
    graphs: bool = False
    """with compile, on a GPU: the compiled network is recorded as CUDA graphs, which a GPU runs without waiting for its
    host"""

    def __post_init__(self) -> None:
        require(
            self.compile or not self.graphs,
            "engine.graphs has compile true, because what is compiled is recorded",
            compile=self.compile,
        )
        require(
            not (self.portable and (self.compile or self.precision != "fp32")),
            "engine.portable has precision fp32 and compile false, because other kernels are the machine's own",
            precision=self.precision,
            compile=self.compile,
        )

    @property
    def fields(self) -> dict[str, Any]:
        """Lists its fields by dotted name, those of `LATER` only where they are true."""
        return {name: v for name, v in schema.flatten(self, "engine").items() if v or name not in LATER}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where runs are executed; changes no number but `threads_per_run` on a CPU, which is in the identity."""

    device: Literal["auto", "cpu", "cuda"]
    """auto: a GPU where torch finds one"""
    workers: int
    """runs at a time; 0 = as many as the cores have threads for on a CPU, runs_per_gpu for each device on a GPU"""
    threads_per_run: int
    """CPU threads of one run; one thread makes numbers independent of the core count"""
    backend: Literal["local", "ray"]
    """local: processes of this machine; ray: actors of a Ray cluster"""
    address: str
    """ray: of the cluster's head, `host:port`, or `auto` where one runs on this machine; "": RAY_ADDRESS, or else a
    cluster of this machine alone, for as long as the verb takes"""
    runs_per_gpu: int
    """workers that share a GPU"""
    side_by_side: int = 1
    """runs of one task and seed that a worker of a GPU trains in step, so that each batch is read and augmented once
    for all of them and one copy of the images serves them: for data that is larger than memory, on slow disks"""
    retries: int
    """times that a run is started again, from its checkpoint, after its worker died"""
    leases: str
    """postgresql:// database that says which process has which run, without the password (PGPASSWORD, ~/.pgpass);
    "": that of MLFLOW_TRACKING_URI if it is PostgreSQL's, or else only the locks of this machine"""
    checkpoint_seconds: float = 30.0
    """between two checkpoints of a training, and at least twenty times what one takes to write: what a kill can cost;
    0: one after every epoch"""

    def __post_init__(self) -> None:
        for name in ("workers", "retries", "checkpoint_seconds"):
            require(getattr(self, name) >= 0, f"execution.{name} >= 0", **{name: getattr(self, name)})
        for name in ("threads_per_run", "runs_per_gpu", "side_by_side"):
            require(getattr(self, name) >= 1, f"execution.{name} >= 1", **{name: getattr(self, name)})
        require(
            not self.leases or urlsplit(self.leases).scheme.startswith("postgresql"),
            "execution.leases is empty or begins with postgresql://",
            leases=scrub(self.leases),
        )
        require(
            not holds_secret(self.leases),
            "execution.leases holds no password, because params.yaml is shared; set PGPASSWORD",
            leases=scrub(self.leases),
        )
