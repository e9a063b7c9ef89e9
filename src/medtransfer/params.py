"""Parameters: names, types, units and invariants. Values live in `params.yaml` and `presets/`, never here.

One dotted name opens every door: `classification.lr` is the key in `params.yaml`, the `--classification.lr`
option, the `-P` of `mlflow run`, the `-S` of `dvc exp run` and the MLflow parameter.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from medtransfer import records
from medtransfer.errors import UserError


def _require(law: bool, words: str, **values: object) -> None:
    if not law:
        found = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise UserError(f"`{words}` must hold, got {found}")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where raw files come from and how splits are drawn."""

    phantoms: bool
    """use synthetic images for a dataset that has no folder under `data/raw`"""
    partial: bool
    """accept a sample of a dataset: counts that differ from the published ones mark the results `partial`"""
    skip_bad: int
    """samples that may be left out because they cannot be decoded; any at all mark the results `partial`"""
    split_seed: int
    """seed of every split that we draw"""
    on_leak: Literal["fail", "drop_from_train", "report"]
    """what an image or patient shared between official splits does; drawn splits always fail"""

    def __post_init__(self) -> None:
        _require(self.split_seed >= 0, "0 <= data.split_seed", split_seed=self.split_seed)
        _require(self.skip_bad >= 0, "0 <= data.skip_bad", skip_bad=self.skip_bad)


@dataclass(frozen=True, kw_only=True)
class Phantoms:
    """Synthetic images in the official layouts."""

    seed: int
    size: int
    """pixels: side of the square images that are written"""
    contrast: float
    """1 = the strength of a drawn finding or vessel at which the demo was frozen"""
    images: Mapping[str, int]
    """dataset -> number of images"""

    def __post_init__(self) -> None:
        _require(self.size >= 32, "phantoms.size >= 32", size=self.size)
        _require(self.contrast > 0, "phantoms.contrast > 0", contrast=self.contrast)
        _require(all(n >= 8 for n in self.images.values()), "phantoms.images.* >= 8", images=dict(self.images))


@dataclass(frozen=True, kw_only=True)
class TaskParams:
    """Sizes of one task, and the protocol fields in which it differs from its kind's section."""

    cache_size: int
    """pixels: side of the square images that `prepare` keeps"""
    image_size: int
    """pixels: side of the network input"""
    changes: Mapping[str, Any]
    """fields of `classification` or `segmentation` that this task sets otherwise, by dotted name"""

    def __post_init__(self) -> None:
        _require(
            16 <= self.image_size <= self.cache_size,
            "16 <= image_size <= cache_size",
            image_size=self.image_size,
            cache_size=self.cache_size,
        )


@dataclass(frozen=True, kw_only=True)
class Model:
    """The network around the weights."""

    backbone: str
    """timm architecture that an init without `@` takes, unless it exists for one backbone only"""
    random_last_bn: Literal["one", "zero"]
    """weight of each residual block's last batch norm under `random`: one as in torchvision, zero as in timm"""
    decoder: Literal["auto", "unet", "upernet", "dpt"]
    """segmentation; auto: unet for feature maps of stride 2 to 32, dpt for maps of one stride, else upernet"""
    padding: Literal["init", "torch"]
    """init: as TensorFlow's SAME where the init's pre-training padded so; torch: as torch for all inits"""


@dataclass(frozen=True, kw_only=True)
class OwnInit:
    """An initialization of the user's own: a checkpoint, and how its keys become the backbone's."""

    file: str
    """path, or an address that begins with http://, https:// or s3://"""
    backbone: str
    """timm architecture"""
    prefix: str = ""
    """leading part of the backbone's keys in the file; where neither it nor `drop` is given, it is looked for"""
    drop: tuple[str, ...] = ()
    """patterns of whole keys that are left out, as `module.fc.*`; `*` is any text"""
    nested: tuple[str, ...] | None = None
    """keys that lead to the tensors in the file, as [state_dict]; null: looked for"""
    member: str = ""
    """place of the checkpoint inside a zip or tar archive"""
    sha256: str = ""
    """of the file, if known"""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """of the input in [0, 1], red, green, blue"""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    padding: Literal["", "pool", "all"] = ""
    """what was padded as TensorFlow's SAME does: nothing, the max-pool, or every strided operation"""
    data: str = "not stated"
    """what it was pre-trained on"""
    method: str = "not stated"
    licence: str = "not stated"

    def __post_init__(self) -> None:
        _require(bool(self.file), "inits.*.file is a path or an address", file=self.file)
        _require(all(s > 0 for s in self.std), "inits.*.std > 0", std=self.std)


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
            _require(0 <= value <= 1, f"0 <= augmentation.{name} <= 1", **{name: value})
        _require(0 < self.crop_scale_min <= 1, "0 < crop_scale_min <= 1", crop_scale_min=self.crop_scale_min)
        _require(self.crop_ratio_max >= 1, "crop_ratio_max >= 1", crop_ratio_max=self.crop_ratio_max)
        _require(0 <= self.rotation <= 180, "0 <= rotation <= 180", rotation=self.rotation)


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both kinds of fine-tuning share."""

    optimizer: Literal["adam", "adamw", "sgd"]
    lr: float
    """learning rate at the start (after warm-up)"""
    backbone_lr: float
    """the backbone's rate as a multiple of lr; 0: its parameters and its batch norms' statistics stay as they are"""
    layer_decay: float
    """the rate of each block of the backbone is that of the next one times this"""
    weight_decay: float
    batch_size: int
    schedule: Literal["plateau", "cosine", "constant"]
    warmup_epochs: int
    """epochs of linear warm-up from lr / 10"""
    plateau_factor: float
    """plateau: lr is multiplied by this"""
    plateau_patience: int
    """plateau: epochs without improvement before that"""
    max_epochs: int
    min_steps: int
    """steps: an epoch of a small set is as many whole passes as reach this"""
    patience: int
    """epochs without improvement after which training stops"""
    monitor: str
    """`val_loss` or `val_<metric>`: the one rule of stop, plateau and checkpoint"""
    normalization: Literal["init", "imagenet", "none"]
    """input mean and std: the initialization's own, ImageNet's for all, or [0, 1] for all"""
    crop_fraction: float
    """side of the centre crop that val and test see, as a fraction of the image's side"""
    augmentation: Augmentation

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr > 0", lr=self.lr)
        _require(self.backbone_lr >= 0, "backbone_lr >= 0", backbone_lr=self.backbone_lr)
        _require(0 < self.layer_decay <= 1, "0 < layer_decay <= 1", layer_decay=self.layer_decay)
        _require(
            self.backbone_lr > 0 or self.layer_decay == 1,
            "layer_decay == 1 where backbone_lr == 0, because a frozen backbone has no rates",
            backbone_lr=self.backbone_lr,
            layer_decay=self.layer_decay,
        )
        _require(self.weight_decay >= 0, "weight_decay >= 0", weight_decay=self.weight_decay)
        for name in ("batch_size", "max_epochs", "min_steps", "patience"):
            _require(getattr(self, name) >= 1, f"{name} >= 1", **{name: getattr(self, name)})
        _require(self.warmup_epochs >= 0, "warmup_epochs >= 0", warmup_epochs=self.warmup_epochs)
        _require(0 < self.plateau_factor < 1, "0 < plateau_factor < 1", plateau_factor=self.plateau_factor)
        _require(self.plateau_patience >= 0, "plateau_patience >= 0", plateau_patience=self.plateau_patience)
        _require(self.monitor.startswith("val_"), "monitor begins with val_", monitor=self.monitor)
        _require(0 < self.crop_fraction <= 1, "0 < crop_fraction <= 1", crop_fraction=self.crop_fraction)


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
class Pretraining(Training):
    """Continual pre-training of a backbone on a dataset; what fine-tuning has too means the same."""

    class_weights: Literal["none", "balanced"]
    uncertain: Literal["lsr-ones", "lsr-zeros", "ones", "zeros", "ignore"]
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
        _require(self.image_size >= 16, "pretraining.image_size >= 16", image_size=self.image_size)
        _require(self.seed >= 0, "pretraining.seed >= 0", seed=self.seed)
        _require(
            0 <= self.micro_batch <= self.batch_size, "0 <= micro_batch <= batch_size", micro_batch=self.micro_batch
        )
        _require(0 <= self.ema < 1, "0 <= pretraining.ema < 1", ema=self.ema)
        _require(self.temperature > 0, "pretraining.temperature > 0", temperature=self.temperature)
        _require(0 < self.masked < 1, "0 < pretraining.masked < 1", masked=self.masked)
        for name in ("projector", "probe_every", "probe_neighbours", "probe_images"):
            _require(getattr(self, name) >= 1, f"pretraining.{name} >= 1", **{name: getattr(self, name)})

    @property
    def classification(self) -> Classification:
        """Is the same as a protocol of fine-tuning, for training by labels; test is never read."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Training)}
        return Classification(**shared, class_weights=self.class_weights, uncertain=self.uncertain, test_views=1)


@dataclass(frozen=True, kw_only=True)
class Segmentation(Training):
    """Fine-tuning of encoder + decoder."""

    loss: Literal["dice", "bce", "both"]
    """soft Dice over the flattened batch with smooth 1, binary cross-entropy, or their sum"""
    class_weights: Literal["none", "balanced"]
    """balanced: positive pixels of the cross-entropy are weighted by negatives / positives of train"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How arithmetic is done; every field can change the last digits and is part of a run's identity."""

    precision: Literal["fp32", "bf16"]
    """bf16: autocast; on a device without bf16 arithmetic the run is refused"""
    channels_last: bool
    compile: bool
    """torch.compile; costs a minute at the start of a run on a CPU"""
    deterministic: bool
    """deterministic kernels; a CPU has no others"""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where runs are executed; changes no number but `threads_per_run` on a CPU, which is in the identity."""

    device: Literal["auto", "cpu", "cuda"]
    workers: int
    """runs at a time; 0 = one per core on a CPU, one per device on a GPU"""
    threads_per_run: int
    """CPU threads of one run; one thread makes numbers independent of the core count"""

    def __post_init__(self) -> None:
        _require(self.workers >= 0, "execution.workers >= 0", workers=self.workers)
        _require(self.threads_per_run >= 1, "execution.threads_per_run >= 1", threads_per_run=self.threads_per_run)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The runs of the benchmark: inits x tasks x seeds."""

    inits: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("inits", "tasks", "seeds"):
            values = getattr(self, name)
            _require(len(set(values)) == len(values), f"benchmark.{name} has no duplicates", **{name: values})
        _require(all(seed >= 0 for seed in self.seeds), "0 <= benchmark.seeds", seeds=self.seeds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The statistical comparison."""

    test: Literal["pooled", "welch", "paired", "wilcoxon", "sign-flip"]
    """two-sided test of the published form of table, against the best: t-tests, pooled as published, or by signs"""
    alpha: float
    reference: str
    """init that every other is compared with, as in benchmark.inits"""
    resamples: int
    """bootstrap resamples of the test patients; 0: none, the intervals of single scores are left out; 10,000 of 25,000
    images cost half a second per run and label"""
    against: tuple[str, ...]
    """CSV files of published numbers that stand beside ours, relative to the repository's top folder"""
    published_n: int
    """runs behind a published mean where its file has no `n`: inferred from published marks of significance"""
    images: Literal["none", "synthetic", "all"]
    """which test images the report may show: it can be passed on, and then they leave the data folder"""
    as_published: bool
    """contaminated runs enter tests, ranks and answers, as in the publication"""

    def __post_init__(self) -> None:
        _require(0 < self.alpha < 1, "0 < comparison.alpha < 1", alpha=self.alpha)
        _require(self.resamples >= 0, "comparison.resamples >= 0", resamples=self.resamples)
        _require(self.published_n >= 2, "comparison.published_n >= 2", published_n=self.published_n)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement about initializations that the report weighs: `better` minus `than`, averaged over tasks."""

    says: str
    """the statement in words"""
    better: str
    """init, or a family of them such as `self-supervised`: the one that is best on val; X is any dataset, one by one"""
    than: tuple[str, ...]
    """inits or families: the claim holds if it holds against each of them"""
    tasks: tuple[str, ...]
    """tasks, or `classification`, `segmentation`, `all`"""
    minus: tuple[str, ...]
    """tasks whose mean difference is subtracted, for a claim about an interaction; [] = none"""

    def __post_init__(self) -> None:
        _require(bool(self.than), "claims.*.than names an init or more", than=self.than)
        _require(bool(self.tasks), "claims.*.tasks names a task or more", tasks=self.tasks)


@dataclass(frozen=True, kw_only=True)
class Params:
    """Every parameter, one field per section of `params.yaml`."""

    data: Data
    phantoms: Phantoms
    tasks: Mapping[str, TaskParams]
    inits: Mapping[str, OwnInit]
    model: Model
    classification: Classification
    segmentation: Segmentation
    pretraining: Pretraining
    engine: Engine
    execution: Execution
    benchmark: Benchmark
    comparison: Comparison
    claims: Mapping[str, Claim]


def load(
    path: Path, overrides: Mapping[str, str] | None = None, tasks: Mapping[str, Mapping[str, Any]] | None = None
) -> Params:
    """Reads a parameter file and applies overrides, dotted name -> YAML text.

    Args:
        path: of the file.
        overrides: dotted name -> YAML text.
        tasks: entries of `tasks` that stand where the file has none, such as those of a task's own `task.yaml`.

    Raises:
        UserError: the file is missing, or a key is unknown, missing or ill-typed (with its full name and the
            nearest valid one).
    """
    if not path.is_file():
        raise UserError(f"looked for the parameter file {path}, found none; run from the repository's top folder")
    try:
        tree = records.parse_yaml(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if tasks and isinstance(tree, dict) and isinstance(tree.get("tasks"), dict):
        tree["tasks"] = {**tasks, **tree["tasks"]}
    for name, text in (overrides or {}).items():
        _set(tree, name, text)
    return records.convert(tree, Params)


def _set(tree: Any, name: str, text: str) -> None:
    """Sets one dotted name in a plain tree; `tasks.<task>.changes` takes new keys, nothing else does."""
    *path, last = name.split(".")
    node = tree
    for depth, key in enumerate(path):
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"unknown parameter {name}{records.nearest(name, records.flatten(tree))}")
        node = node[key]
        if key == "changes" and depth == 2:  # tasks.<task>.changes.<dotted name of the kind's section>
            path, last = path[: depth + 1], ".".join([*path[depth + 1 :], last])
            break
    if not isinstance(node, dict) or (last not in node and path[-1:] != ["changes"]):
        raise UserError(f"unknown parameter {name}{records.nearest(name, records.flatten(tree))}")
    try:
        node[last] = records.parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {name} is not YAML: {text!r}") from error


def protocol(params: Params, task: str, segmentation: bool) -> Classification | Segmentation:
    """Resolves the section that a task is fine-tuned under: its kind's, with the task's own changes.

    Raises:
        UserError: the task has no entry under `tasks`, or changes an unknown field.
    """
    kind: type[Classification] | type[Segmentation] = Segmentation if segmentation else Classification
    name = kind.__name__.lower()
    tree = records.unflatten(records.flatten(getattr(params, name)))
    for key, value in task_params(params, task).changes.items():
        full = f"tasks.{task}.changes.{key}"
        valid = records.flatten(getattr(params, name))
        if key not in valid:
            raise UserError(
                f"unknown parameter {full}{records.nearest(full, [f'tasks.{task}.changes.{v}' for v in valid])}"
            )
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node[part]
        node[last] = value
    return records.convert(tree, kind, name)


def task_params(params: Params, task: str) -> TaskParams:
    """Finds a task's sizes.

    Raises:
        UserError: the parameter file has no entry for the task.
    """
    if task not in params.tasks:
        raise UserError(
            f"task {task} has no sizes: add `tasks.{task}: {{cache_size: ..., image_size: ..., changes: {{}}}}`"
        )
    return params.tasks[task]


def refuse_shadowed(params: Params, overrides: typing.Iterable[str], task: str | None) -> None:
    """Refuses an override that the task's own changes would silently undo.

    Raises:
        UserError: names the parameter to set instead.
    """
    changes = params.tasks[task].changes if task is not None and task in params.tasks else {}
    for name in overrides:
        section, _, field = name.partition(".")
        if section in ("classification", "segmentation") and field in changes:
            raise UserError(f"{name} has no effect on task {task}: set tasks.{task}.changes.{field} instead")
