"""Which run is which: one run = (init, task, seed), and its fold or drawn split, resolved before any work starts."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medtransfer.core import arithmetic, schema
from medtransfer.core.errors import UserError
from medtransfer.core.identity import PROTOCOL_VERSION, digest
from medtransfer.data import catalog, pixel_sizes, prepare, raw, training_lists
from medtransfer.data.cache import Prepared, load
from medtransfer.data.tasks import Listed, Task, contaminated
from medtransfer.data.tasks import applicable as fits
from medtransfer.params import (
    FROZEN,
    WHOLE,
    Classification,
    Fraction,
    Params,
    Segmentation,
    protocol,
    task_params,
)
from medtransfer.results import study
from medtransfer.runs import further_tests, variants
from medtransfer.runs.execution import pull
from medtransfer.training import fitting
from medtransfer.training.fitting import NetworkSpec
from medtransfer.weights import receipts, recipes, store
from medtransfer.weights.names import Initialization, check_backbone, parse, seen
from medtransfer.weights.receipts import Lineage, Receipt
from medtransfer.weights.records import UNIT_RANGE, Triple

log = logging.getLogger("medtransfer")

READ = ("crop_fraction", "class_weights", "uncertain")
"""fields of the task's kind that linear and knn read; `normalization` is in the identity as the input's mean and std"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that one run reads, resolved before any work starts."""

    init: Initialization
    task: str
    seed: int
    params: Params
    device: str
    prepared: Path
    """folder of the task's prepared cache"""
    manifest_digest: str
    marks: tuple[str, ...]
    """what is said of the data: synthetic, partial, ..."""
    spared: tuple[str, ...] = ()
    """see `Result`"""
    listed: Listed | None = None
    """what a list of the weights' training images holds of its test images; None: none is named"""
    weights_sha256: str
    """of the converted tensors; `random` for weights that the seed draws"""
    root: Path
    parent: str | None = None
    fold: int | None = None
    """of a cross-validation, or the number of a drawn split; None: one split"""
    drawn: bool = False
    """`fold` is one of `benchmark.splits`"""
    recipe: Literal["fixed", "tuned"] = "fixed"
    """tuned: `params` hold the values that the study of init and task found"""
    protocol: str = "finetune"
    """one of `benchmark.protocols`, or a control"""
    fraction: Fraction = WHOLE
    """of the labels of train"""
    study: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """where tuned values are from: study, trial, trials and images spent"""
    external: tuple[further_tests.AwayCache, ...] = ()
    """tasks on whose test images a network of this task is read too"""

    @property
    def name(self) -> str:
        """Names the run among those of its task, as the terminal shows it."""
        part = "".join(f"-{'split' if self.drawn else 'f'}{number}" for number in self.part.values())
        return f"{self.init.canonical}-s{self.seed}{part}{''.join(f'-{word}' for word in self.variant)}"

    @property
    def variant(self) -> list[str]:
        """Lists in words how it differs from a run of the fixed recipe in which all is trained on all labels."""
        recipe = ["tuned"] if self.recipe == "tuned" else []
        protocol = [self.protocol] if self.protocol != "finetune" else []
        share = "" if self.fraction.shots else " of labels"
        return [*recipe, *protocol, *([] if self.fraction.whole else [f"{self.fraction}{share}"])]

    @property
    def title(self) -> str:
        """Names the run in MLflow, whose tables cut names: what differs comes first."""
        part = "".join(f" {'split' if self.drawn else 'fold'} {number}" for number in self.part.values())
        words = [*self.variant, *([self.init.backbone] if self.network else [])]
        return f"{self.init.label} · {self.task} · s{self.seed}{part}{''.join(f' · {word}' for word in words)}"

    @property
    def part(self) -> dict[str, int]:
        """Names the fold or the drawn split that it is of, if any."""
        return {} if self.fold is None else {"split" if self.drawn else "fold": self.fold}

    @functools.cached_property
    def record(self) -> Task:
        """Is the task's record."""
        return catalog.lookup(self.task, self.root)

    @property
    def marked(self) -> tuple[str, ...]:
        """Adds to the marks whether the weights saw images of the task, as far as is known today."""
        before = seen(self.init.canonical, self.spared)
        found = contaminated(before, self.record.dataset, catalog.derivations(self.root))
        found = found or (self.listed is not None and self.listed.held > 0)
        return (*self.marks, "contaminated") if found else self.marks

    @functools.cached_property
    def training(self) -> Classification | Segmentation:
        """Is what the task is fine-tuned under."""
        return protocol(self.params, self.task, self.record.segmentation)

    @property
    def fields(self) -> dict[str, Any]:
        """Lists the parameters that this verb reads for this kind of task, by dotted name."""
        task = self.record
        sizes = task_params(self.params, self.task)
        kind = "segmentation" if task.segmentation else "classification"
        fields = schema.flatten(self.training, kind)
        if not task.uncertain:
            fields.pop("classification.uncertain", None)
        if not self.trains:
            fields = {name: value for name, value in fields.items() if name.removeprefix(f"{kind}.") in READ}
        own = schema.flatten(self.params.protocols, "protocols")
        positions = "protocols.linear_positions"
        reads = "linear" if self.protocol == "texture" else self.protocol
        fields |= {name: own[name] for name in own if name.startswith(f"protocols.{reads}_")}
        if not task.segmentation:
            fields.pop(positions, None)
        fields |= self.params.engine.fields
        fields[f"tasks.{self.task}.image_size"] = sizes.image_size
        if task.segmentation and self.trains:
            fields["model.decoder"] = fitting.resolved_decoder(self.init.backbone, self.params.model.decoder)
        if self.init.padding:
            fields["model.padding"] = self.params.model.padding
        if self.init.random and self.network:
            fields["model.random_last_bn"] = self.params.model.random_last_bn
        if self.device == "cpu":
            fields["execution.threads_per_run"] = self.params.execution.threads_per_run
        return fields

    @property
    def shown(self) -> dict[str, Any]:
        """Lists what tables and MLflow show: `fields`, and what `prepare` read, whose effect the manifest holds."""
        sizes = task_params(self.params, self.task)
        prepared = {f"tasks.{self.task}.cache_size": sizes.cache_size, "data.on_leak": self.params.data.on_leak}
        drawn = {} if self.drawn else {"data.split_seed": self.params.data.split_seed}
        external = {f"tasks.{self.task}.external": further_tests.names_of(self.away)} if self.away else {}
        return {**self.fields, **prepared, **drawn, **external, **self.corrupted}

    @property
    def away(self) -> tuple[further_tests.AwayCache, ...]:
        """Lists the other tasks that its network is read on, see `reads_further`."""
        return self.external if self.reads_further else ()

    @property
    def corrupted(self) -> dict[str, Any]:
        """Says how its test images are made worse, see `Corruptions.fields`; empty: not at all."""
        return self.params.corruptions.fields(self.record.segmentation) if self.reads_further else {}

    @property
    def reads_further(self) -> bool:
        """Says whether it is read on more than its test: frozen features are no network, and controls are no answer."""
        return not self.frozen and self.protocol not in ("prior", "permuted")

    @functools.cached_property
    def normalization(self) -> tuple[Triple, Triple]:
        """Is the mean and std of its inputs, per channel."""
        if not self.network:
            return UNIT_RANGE["mean"], UNIT_RANGE["std"]
        return recipes.normalization(self.init, self.training.normalization, receipts.read(self.init, self.root))

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the run: equal digests give equal numbers."""
        identity = {
            "verb": "finetune",
            "init": self.init.canonical,
            "weights": self.weights_sha256,
            "task": self.task,
            "manifest": self.manifest_digest,
            "seed": self.seed,
            "fields": self.fields,
            "input": self.normalization,
            "protocol_version": PROTOCOL_VERSION,
        }
        identity |= self.part
        if self.record.layout is not None:
            stated = {"tolerance": self.record.tolerance, "spacing": self.record.spacing}
            identity |= {name: value for name, value in stated.items() if value is not None}
        if self.listed is not None:
            identity["training_list"] = self.listed.sha256
        if self.protocol != "finetune":
            identity["protocol"] = self.protocol
        if not self.fraction.whole:
            identity |= {"fraction": str(self.fraction), "fractions_of": self.params.benchmark.fractions_of}
        if self.recipe != "fixed":
            identity["recipe"] = self.recipe
        if self.away:
            identity["external"] = [one.identity for one in self.away]
        return digest(identity | self.corrupted)

    @property
    def frozen(self) -> bool:
        """Says whether it needs features alone, the backbone's or texture."""
        return self.protocol in (*FROZEN, "texture")

    @property
    def trains(self) -> bool:
        """Says whether it has epochs."""
        return not self.frozen and self.protocol != "prior"

    @property
    def network(self) -> bool:
        """Says whether it has a backbone; some controls have none."""
        return bool(self.init.backbone)

    @property
    def folder(self) -> Path:
        """Holds checkpoint, journal, lock and results of the run."""
        return self.root / "data/runs" / self.digest


def plan(
    params: Params,
    root: Path,
    inits: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    parent: str | None = None,
    weights_folder: str = "adhoc",
    recipes: Sequence[str] = ("fixed",),
    splits: bool = True,
    protocols: Sequence[str] = ("finetune",),
    fractions: Sequence[str] = ("1",),
) -> list[Run]:
    """Resolves and checks every run, prepares data and fetches weights, before the first training step.

    Runs of the tuned recipe take the values of their studies' ledgers: they are fine-tuned with all labels. Without
    `splits` tasks with drawn splits have runs on the split of `data.split_seed` alone. What a protocol or a fraction
    cannot have (see `variants`) is left out and named.

    Raises:
        UserError: anything that would stop one of the runs later and can be known now.
    """  # fmt: skip
    device = pull.resolve_device(params.execution)
    check_engine(params, device)
    starts = [parse(name, params.model.backbone, params.inits) for name in inits]
    for init in starts:
        check_backbone(init.backbone)
    found = {name: catalog.lookup(name, root) for name in tasks}
    for name, task in found.items():
        for backbone in sorted({init.backbone for init in starts}):
            size = task_params(params, name).image_size
            spec = NetworkSpec(backbone=backbone, image_size=size, decoder=params.model.decoder)
            fitting.check(task, protocol(params, name, task.segmentation), spec)
        further_tests.paired(name, params, root)
    pairs = applicable(starts, found)
    for init in starts:
        if init.record.images:
            training_lists.read(training_lists.place(init.record.images, root))
    receipts = {init: store.ready(init, root, weights_folder) for init in starts}
    caches = {name: prepare.prepare(task, params, root) for name, task in found.items()}
    for name, task in found.items():
        if task.segmentation and task.tolerance and task.tolerance[1] == "mm":
            pixel_sizes.ruler(task, caches[name])
    external = {name: further_tests.resolve(name, cache, params, root) for name, cache in caches.items()}
    fixed = [
        Run(
            init=init,
            task=task,
            seed=seed,
            params=params,
            device=device,
            prepared=caches[task].folder.resolve(),
            manifest_digest=digest,
            marks=_marks(receipts[init], caches[task]),
            spared=_spared(receipts[init], caches[task].every_split),
            listed=_listed(init, caches[task].of_fold(fold), params, root),
            weights_sha256=receipt.tensors_sha256 if (receipt := receipts[init]) else "random",
            root=root.resolve(),
            parent=parent,
            fold=fold,
            drawn="splits" in caches[task].manifest and splits,
            external=external[task],
        )
        for task, init in pairs
        for seed in seeds
        for fold, digest in _parts(caches[task], splits).items()
    ]
    varied = variants.spread(fixed, protocols, fractions) if "fixed" in recipes else []
    return [*varied, *(tuned(fixed) if "tuned" in recipes and "finetune" in protocols and "1" in fractions else ())]


def _parts(cache: Prepared, splits: bool) -> dict[int | None, str]:
    """Lists folds or drawn splits with the digest of what their runs read."""
    return cache.parts if splits or "splits" not in cache.manifest else {None: cache.digest}


def tuned(runs: Sequence[Run]) -> list[Run]:
    """Gives runs the values that the studies of their initializations and tasks found.

    Raises:
        UserError: a study is missing, unfinished, of other data or weights, or had another budget than the others.
    """
    keys = {(run.task, run.init.canonical): run for run in runs}
    studies = {key: study.find(run.init.canonical, run.init.slug, run.task, run.root) for key, run in keys.items()}
    study.refuse_unequal(list(studies.values()))
    found = []
    wholes = {run.prepared: load(run.prepared).digest for run in keys.values() if run.drawn}
    for run in runs:
        ledger = studies[run.task, run.init.canonical]
        manifest = wholes.get(run.prepared, run.manifest_digest)  # the study saw the split of data.split_seed
        for name, value in (("weights", run.weights_sha256), ("manifest", manifest)):
            if ledger.identity[name] != value:
                raise UserError(
                    f"the study {ledger.study} was made with other {name} ({str(ledger.identity[name])[:12]}, these "
                    f"are {value[:12]}); run `tune` again, with another tuning.study"
                )
        source = {"study": ledger.study, "trial": ledger.winner, "trials": ledger.budget_trials, "images": ledger.spent}
        found.append(dataclasses.replace(with_changes(run, ledger.values), recipe="tuned", study=source))
    return found


def with_changes(run: Run, values: Mapping[str, Any]) -> Run:
    """Gives a run other values of its kind's protocol, as changes of its task."""
    task = run.params.tasks[run.task]
    tasks = {**run.params.tasks, run.task: dataclasses.replace(task, changes={**task.changes, **values})}
    return dataclasses.replace(run, params=dataclasses.replace(run.params, tasks=tasks))


def applicable(inits: Sequence[Initialization], tasks: Mapping[str, Task]) -> list[tuple[str, Initialization]]:
    """Pairs tasks and initializations, but for those that were pre-trained on the task's own dataset.

    Raises:
        UserError: no pair is left.
    """
    pairs = [(name, init) for name in tasks for init in inits]
    left_out = [(n, init) for n, init in pairs if not fits(seen(init.canonical), tasks[n].dataset)]
    words = ", ".join(f"{init.canonical} on {name}" for name, init in left_out)
    if left_out and len(left_out) == len(pairs):
        raise UserError(f"not applicable: {words}: pre-trained on the task's own dataset, so the score says nothing")
    if left_out:
        log.info("not applicable, left out: %s (pre-trained on the task's own dataset)", words)
    return [pair for pair in pairs if pair not in left_out]


def _marks(receipt: Receipt | Lineage | None, cache: Prepared) -> tuple[str, ...]:
    """Joins what is said of the task's data and of the data that its weights were pre-trained on here."""
    before = receipt.marks if isinstance(receipt, Lineage) else ()
    return tuple(dict.fromkeys((*cache.marks, *before)))


def _spared(receipt: Receipt | Lineage | None, manifest_digest: str) -> tuple[str, ...]:
    """Lists the datasets of a chain whose pre-training here left out whoever it found in the task's val or test.

    Where it found no one in a set that re-releases the same images, they may be cropped: the dataset counts as seen.
    """
    link = dataclasses.asdict(receipt) if isinstance(receipt, Lineage) else None
    found = list[str]()
    while link is not None and "parent" in link:
        if link["dropped"] and manifest_digest in link["targets"].values():
            found.append(link["dataset"])
        link = link["parent_receipt"]
    return tuple(found)


def _listed(init: Initialization, cache: Prepared, params: Params, root: Path) -> Listed | None:
    """Counts the test images of a cache that the list of an init's training images names; None: none is named."""
    if not init.record.images:
        return None
    task = catalog.lookup(cache.manifest["task"], root)
    listed = training_lists.read(training_lists.place(init.record.images, root))
    found = training_lists.match(listed, task, cache, raw.source(task, params.data, root))
    return training_lists.overlap(listed, found, cache)


def check_engine(params: Params, device: str) -> None:
    """Refuses arithmetic that the device has not.

    Raises:
        UserError: bf16 without bf16 instructions, tf32 or CUDA graphs on a CPU, or `engine.portable` where it cannot
            hold.
    """
    arithmetic.check(params.engine.portable, device)
    if params.engine.precision == "tf32" and device == "cpu":
        raise UserError("engine.precision is tf32, which is an arithmetic of GPUs; a CPU computes fp32: say so")
    if params.engine.graphs and device == "cpu":
        raise UserError("engine.graphs is true, but CUDA graphs need a GPU, and this is a CPU; set it to false")
    if params.engine.precision == "bf16":
        import torch

        here = torch.cuda.is_bf16_supported() if device == "cuda" else torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if not here:
            raise UserError(f"engine.precision is bf16, but this {device} has no bf16 arithmetic; use fp32")
