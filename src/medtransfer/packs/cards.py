"""What a reader must know of tasks and initializations, who has neither their data nor their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medtransfer.core.errors import UserError
from medtransfer.data import catalog
from medtransfer.packs.private import name_of
from medtransfer.packs.records import InitCard, TaskCard
from medtransfer.params import Params
from medtransfer.results.result import Result
from medtransfer.weights import licences, receipts, recipes, sizes, store
from medtransfer.weights.families import labels
from medtransfer.weights.names import Initialization, parse
from medtransfer.weights.receipts import Lineage, Receipt

MODALITIES = {
    "chestxray14": "chest-x-ray", "chexpert": "chest-x-ray", "shenzhen": "chest-x-ray", "montgomery": "chest-x-ray",
    "siim": "chest-x-ray", "rsna_pe": "ct", "drive": "fundus", "chestmnist": "chest-x-ray",
    "pneumoniamnist": "chest-x-ray", "bloodmnist": "pathology", "breastmnist": "ultrasound",
    "dermamnist": "dermatology", "octmnist": "oct", "organamnist": "ct", "organcmnist": "ct", "organsmnist": "ct",
    "pathmnist": "pathology", "retinamnist": "fundus", "tissuemnist": "pathology",
}  # fmt: skip
"""dataset -> its images, in the words of `weights.records.MODALITIES`"""


def of_tasks(results: Sequence[Result], root: Path) -> dict[str, TaskCard]:
    """Describes the tasks of runs.

    Args:
        results: with what is looked up.
        root: the study's folder.
    """
    first = {one.task: one for one in reversed(results)}
    known = catalog.names(root)
    return {name: _task(first[name], root, name in known) for name in sorted(first)}


def _task(result: Result, root: Path, described: bool) -> TaskCard:
    title = catalog.lookup(result.task, root).title if described else result.task
    others = tuple(name for name in result.images if name != result.dataset)
    seen = [MODALITIES[name] for name in (result.dataset, *others) if name in MODALITIES]
    return TaskCard(
        title=title, kind=result.kind, modality=seen[0] if seen else "not-stated", metric=result.metric,
        margin=result.margin or 0.0, derived_from=others,
    )  # fmt: skip


def of_inits(results: Sequence[Result], params: Params, root: Path) -> dict[str, InitCard]:
    """Describes the initializations of runs, by their names as others may read them.

    Args:
        results: of the study.
        params: of the study.
        root: the study's folder.

    Raises:
        UserError: two files would have one name, or the runs of one name began with several tensors.
    """
    tensors: dict[str, list[str]] = {}
    for one in results:
        tensors.setdefault(one.init, []).append(str(one.weights_sha256 or ""))
    names = {init: name_of(init) for init in sorted(tensors)}
    for init, name in names.items():
        if twins := [other for other in names if names[other] == name and other != init]:
            raise UserError(
                f"{init} and {twins[0]} would both be {name} in the pack, which leaves out folders: give each a name "
                "of its own under `inits` of params.yaml"
            )
        if len(set(tensors[init])) > 1:
            raise UserError(
                f"runs of {init} began with {len(set(tensors[init]))} different tensors; run `benchmark`, which trains "
                "those of other weights again"
            )
    titles = labels(list(names.values()))
    return {
        name: _init(parse(init, params.model.backbone, params.inits), titles[name], tensors[init][0], root)
        for init, name in names.items()
    }


def _init(init: Initialization, title: str, tensors: str, root: Path) -> InitCard:
    tensors = "" if tensors == "random" else tensors
    receipt = _receipt(init, root)
    receipt = receipt if receipt and receipt.tensors_sha256 == tensors else None  # else it is of other weights
    chain = _licences(init, receipt)
    commercial = "yes" if init.random else licences.strictest(chain).terms.commercial
    return InitCard(
        title=title,
        family="domain-adapted" if init.chain else init.record.family,
        modality=MODALITIES.get(init.chain[-1], "not-stated") if init.chain else init.record.modality,
        licence="" if init.random else licences.joined(chain),
        commercial=commercial,
        parameters=sizes.parameters(init.backbone),
        weights_sha256=receipt.files[0].sha256 if isinstance(receipt, Receipt) and len(receipt.files) == 1 else "",
        tensors_sha256=tensors,
    )


def _receipt(init: Initialization, root: Path) -> Receipt | Lineage | None:
    """Reads the receipt of an initialization, where its weights are here."""
    if init.random or init.registered:
        return None
    if init.chain:
        return receipts.read(init, root)
    path = store.receipt_file(init, root)
    return store.read_receipt(path.with_name(path.name.replace(".receipt.json", ".safetensors"))) if path else None


def _licences(init: Initialization, receipt: Receipt | Lineage | None) -> list[str]:
    if isinstance(receipt, Lineage):
        return list(receipt.licences)
    return [receipt.licence if receipt else recipes.licence_of(init)]
