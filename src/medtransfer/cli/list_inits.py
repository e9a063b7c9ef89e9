"""What `medtransfer inits` prints: a line for each initialization, or all that is known of one. Imports no torch."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtransfer.core import schema
from medtransfer.core.errors import UserError
from medtransfer.params import Params
from medtransfer.weights import architectures, locate, receipts, recipes, sizes, store
from medtransfer.weights.licences import commercial
from medtransfer.weights.names import Initialization, all_records, parse, seen
from medtransfer.weights.records import MODALITIES, Record
from medtransfer.weights.zoo import PACKAGED

WIDTHS = {"init": 30, "backbone": 36, "size": 10, "licence": 20, "use": 7, "file": 10, "has seen": 20}
"""title of a column -> its letters in a wide terminal"""
LETTERS = {
    "tiny": "Ti", "small": "S", "base": "B", "large": "L", "so400m": "So400m", "huge": "H", "giant": "g",
    "gigantic": "G",
}  # fmt: skip
"""size in timm's names -> how the field abbreviates it"""
KINDS = {"vit": "ViT", "samvit": "SAM", "swin": "Swin", "eva02": "EVA02", "beitv2": "BEiTv2"}
INDENT = 12
"""letters of the titles in what is said of one initialization"""
NARROW = {"init": 30, "backbone": 19, "size": 10, "use": 7, "file": 10}
FAMILIES = ("random", "supervised", "self-supervised", "domain-adapted", "medical", "yours")
WORDS = {"modality": MODALITIES, "family": FAMILIES, "commercial": ("yes", "no", "unclear"), "open": ("yes", "no")}
"""option -> what it takes"""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which initializations are listed; the empty answer keeps all."""

    modality: str = ""
    commercial: str = ""
    family: str = ""
    max_parameters: int | None = None
    open: bool = False
    """only files that a program may fetch, without conditions that a person accepts"""


def read_filter(modality: str, commercial: str, family: str, max_parameters: str, openly: str) -> Filter:
    """Reads the options of the verb; `all` and `none` keep every init.

    Raises:
        UserError: one is no known word, or no number.
    """
    given = {"modality": modality, "family": family, "commercial": commercial, "open": openly}
    for option, word in given.items():
        if word not in ("all", *WORDS[option]):
            raise UserError(f"--{option}: unknown {word}{schema.nearest(word, WORDS[option])}")
    asked = {option: word for option, word in given.items() if word != "all" and option != "open"}
    limit = None if max_parameters == "none" else _count(max_parameters)
    return Filter(max_parameters=limit, open=openly == "yes", **asked)


def _count(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", text.strip().lower())
    if not found:
        raise UserError(f"--max-parameters must be a number such as 90M, 1.2B or 25000000, got {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True, kw_only=True)
class Row:
    """An initialization as the list shows it."""

    init: Initialization
    """bound to the backbone of the parameters where it exists for it, else to the first that is small enough"""
    backbones: tuple[str, ...]
    """that are small enough; empty: any of timm"""
    licence: str
    commercial: str
    """whether the licence permits commercial use"""

    @property
    def record(self) -> Record:
        """Is what is known of it, whatever the backbone."""
        return self.init.record

    @property
    def access(self) -> str:
        """Says what stands before its file."""
        source = self.record.sources.get(self.init.backbone)
        return self.record.gate or ("by hand" if source and source.steps else "")


def listed(params: Params, root: Path, wanted: Filter, width: int) -> list[str]:
    """Lists the initializations by the images that they were trained on, in lines of at most `width` letters.

    Raises:
        UserError: no initialization is as wanted.
    """
    bound = (_row(record, params, wanted) for record in all_records(params.inits).values())
    every = [row for row in bound if row and _fits(row, wanted)]
    if not every:
        raise UserError(f"no init fits {_asked(wanted)}; `medtransfer inits` lists all")
    used = {parse(name, params.model.backbone, params.inits).record.name for name in params.benchmark.inits}
    here = store.converted(root)
    widths = WIDTHS if width >= sum(WIDTHS.values()) + len(WIDTHS) - 1 else NARROW
    lines = _folded({title: title for title in widths}, widths)
    for modality in MODALITIES:
        rows = [row for row in every if row.record.modality == modality]
        lines += ["", f"{modality} ({len(rows)})"] if rows else []
        for row in rows:
            record = row.record
            cells = {
                "init": record.name + " *" * (record.name in used) + " ?" * bool(record.unverified),
                "backbone": _backbone(row, widths is NARROW),
                "size": few_to_many([sizes.parameters(backbone) for backbone in row.backbones]),
                "licence": re.sub(r" \(.*", " (...)", row.licence),
                "use": row.commercial,
                "file": _status(row, root, here),
                "has seen": " ".join(record.datasets),
            }
            lines += _folded(cells, widths)
    made = receipts.made(root)
    count = f"{len(every)} {'init' if len(every) == 1 else 'inits'}"
    said = [
        f"{count}, each under the kind of images that it was trained on last. *: in the benchmark of params.yaml. ?: "
        "something of its file is not known for sure. size: parameters of the backbone. use: whether the licence "
        "permits commercial use. file: accept conditions on its page, fill in a form, fetch it by hand, or what of it "
        "is here.",
        "`medtransfer inits <init>` says all of one. --modality, --family, --commercial yes, --max-parameters 90M and "
        "--open list fewer. <init>@<backbone> takes another backbone. Also timm:<architecture>.<tag>, "
        "file:<path or address>[@<backbone>] and hf:<owner>/<repo>[@<revision>][/<file>][@<backbone>] of the Hugging "
        "Face hub; each takes +<dataset>, see `pretrain`.",
    ]
    also = ["", "Pre-trained further here", *made] if made else []
    return [*lines, "", *(line for words in said for line in textwrap.wrap(words, width)), *also]


def _folded(cells: Mapping[str, str], widths: Mapping[str, int]) -> list[str]:
    """Lays cells out in columns; what is longer than its column goes on in the next line."""
    parts = {title: _parts(cells[title], width) for title, width in widths.items()}
    height = max(map(len, parts.values()))
    filled = {title: [*lines, *[""] * (height - len(lines))] for title, lines in parts.items()}
    columns = [
        [line.rjust(widths[title]) if title == "size" else line.ljust(widths[title]) for line in filled[title]]
        for title in widths
    ]
    return [" ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _parts(text: str, width: int) -> list[str]:
    """Cuts a cell into lines, between words and behind the _ and : of an architecture's name where it can."""
    lines: list[str] = []
    line = ""
    for word in re.findall(r"[^\s_:-]*[_:-]|[^\s_:-]+\s*|\s+", text):
        if line and len((line + word).rstrip()) > width:
            lines, line = [*lines, line.rstrip()], ""
        line += word
    return [*lines, line.rstrip()]


def _asked(wanted: Filter) -> str:
    """Spells a filter as the command line does."""
    said = {"modality": wanted.modality, "commercial": wanted.commercial, "family": wanted.family}
    words = [f"--{option} {value}" for option, value in said.items() if value]
    words += [] if wanted.max_parameters is None else [f"--max-parameters {wanted.max_parameters}"]
    return " ".join([*words, *(["--open"] if wanted.open else [])])


def _row(record: Record, params: Params, wanted: Filter) -> Row | None:
    """Binds a record to a backbone that is small enough; None: it has none."""
    every = locate.backbones(Initialization(record=record, backbone=""))
    limit = wanted.max_parameters
    fitting = tuple(b for b in every if limit is None or sizes.parameters(b) <= limit)
    if every and not fitting:
        return None
    init = _bound(record, fitting, params)
    licence = recipes.licence_of(init)
    return Row(init=init, backbones=fitting, licence=licence, commercial=commercial(licence))


def _bound(record: Record, backbones: Sequence[str], params: Params) -> Initialization:
    """Binds a record to the backbone of the parameters where it exists for it, else to its first."""
    default = params.model.backbone
    return Initialization(record=record, backbone=default if not backbones or default in backbones else backbones[0])


def _fits(row: Row, wanted: Filter) -> bool:
    return (
        wanted.modality in ("", row.record.modality)
        and wanted.family in ("", row.record.family)
        and wanted.commercial in ("", row.commercial)
        and not (wanted.open and row.access)
    )


def _backbone(row: Row, briefly: bool) -> str:
    """Names the backbone and counts the others; briefly, as in ViT-B/16: of base size, with patches of 16 pixels."""
    if not row.backbones:
        return "any of timm"
    name, more = row.init.backbone, len(row.backbones) - 1
    found = re.match(rf"([a-z0-9]+)_(?:\w+_)?({'|'.join(LETTERS)})_patch(\d+)", name) if briefly else None
    if found:
        name = f"{KINDS.get(found[1], found[1])}-{LETTERS[found[2]]}/{found[3]}"
    return name + (f" +{more}" if more else "")


def few_to_many(counts: Sequence[int]) -> str:
    """Writes the fewest and the most of several numbers of parameters."""
    return "-".join(dict.fromkeys((short(min(counts)), short(max(counts))))) if counts else ""


def short(count: int) -> str:
    """Writes a number of parameters in two or three digits: 86M, 1.1B."""
    unit, letter = next(((u, x) for u, x in ((10**9, "B"), (10**6, "M")) if count >= u), (10**3, "k"))
    value = count / unit
    return f"{value:.0f}{letter}" if value >= 10 else f"{value:.1f}{letter}"


def _status(row: Row, root: Path, here: Mapping[str, Sequence[str]]) -> str:
    """Says what of an initialization is on disk, else what stands before its file."""
    if row.init.random:
        return ""
    try:
        if row.record.name in here:
            return "here"
        if locate.installed(row.init):
            return "installed"
        return row.access if locate.on_disk(row.init, root) is None else "downloaded"
    except UserError:  # of `imagenet`, where timm has no such weights of the backbone
        return ""


def described(name: str, params: Params, root: Path, width: int) -> list[str]:
    """Says all that is known of one initialization, in lines of at most `width` letters but for addresses."""
    known = all_records(params.inits).get(name)
    unbound = Initialization(record=known, backbone="") if known else None
    init = (
        _bound(unbound.record, locate.backbones(unbound), params)
        if unbound
        else parse(name, params.model.backbone, params.inits)
    )
    record, every = init.record, locate.backbones(init)
    licence = recipes.licence_of(init)
    mean, std = recipes.normalization(init)
    facts = {
        "trained on": f"{record.data}{'' if init.random else f' ({record.modality})'}",
        "how": record.method,
        "family": record.family,
        "backbone": _architecture(init.backbone),
        "others": ", ".join(f"{each} ({short(sizes.parameters(each))})" for each in every if each != init.backbone),
        "licence": f"{licence}; commercial use: {commercial(licence)}",
        "gate": GATES[record.gate],
        "from": "\n".join(_origin(init, root)),
        "input": f"mean {_triple(mean)}, std {_triple(std)} of images in [0, 1]",
        "further": f"pre-trained here on {', then '.join(init.chain)}" if init.chain else "",
        "has seen": ", ".join(sorted(seen(init.canonical))),
        "its images": f"listed in {record.images}" if record.images else "",
        "padding": {"": "", "pool": "SAME in the max-pool", "all": "SAME in every strided operation"}[init.padding],
        "not known": record.unverified,
        "note": record.note,
        "paper": record.paper,
        "here": _here(init, root),
    }  # fmt: skip
    wrapper = textwrap.TextWrapper(max(width - INDENT, 20), break_long_words=False, break_on_hyphens=False)
    lines = [init.canonical]
    for title, value in facts.items():
        parts = [line for part in value.splitlines() for line in wrapper.wrap(part)]
        lines += [f"{'' if number else title:{INDENT}}{part}" for number, part in enumerate(parts)]
    return lines


GATES = {
    "": "",
    "accept": "log in on its publisher's page and accept the conditions there",
    "form": "a form, which a person fills in",
}
"""what stands before a file -> what a person does"""


def _here(init: Initialization, root: Path) -> str:
    """Says what of an initialization is on disk."""
    if init.random:
        return ""
    converted = store.converted(root).get(init.record.name, ())
    if converted or locate.installed(init):
        return ", ".join(f"{backbone}, converted" for backbone in converted) or "in an installed package"
    return "no" if locate.on_disk(init, root) is None else f"{init.backbone}, downloaded"


def _architecture(backbone: str) -> str:
    patch = sizes.patch_size(backbone)
    cut = f", patches of {patch}" if patch > 1 else ""
    size = short(sizes.parameters(backbone))
    return f"{backbone}: {size} parameters, {architectures.published_side(backbone)} pixels{cut}"


def _triple(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _origin(init: Initialization, root: Path) -> list[str]:
    """Says where a file is published, or what a person does to get it."""
    if init.random:
        return ["drawn from the seed, as timm does"]
    if locate.packaged(init):
        return [f"the package {' '.join(PACKAGED[init.backbone])}"]
    source = locate.resolve(init)
    if not source.url:
        place = locate.place(init, source, "", root)
        return [f"{number}. {step.format(place=place)}" for number, step in enumerate(source.steps, 1)]
    return [source.url, *source.beside]
