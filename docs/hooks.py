"""The reference pages of the site, written from the code at every build: mkdocs calls `on_files`.

`pages(root)` gives them without mkdocs: path below `docs/` -> Markdown.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from medtransfer.cli import VERBS, list_inits
from medtransfer.comparison.wording import margin_words
from medtransfer.core import schema
from medtransfer.data import catalog
from medtransfer.data.tasks import Layout, Task
from medtransfer.params import Params, TaskParams
from medtransfer.params.tuning import Dimension
from medtransfer.statistics.metrics import METRICS, PREFIXES
from medtransfer.weights import locate, sizes
from medtransfer.weights.licences import commercial
from medtransfer.weights.names import Initialization
from medtransfer.weights.records import MODALITIES, Record
from medtransfer.weights.zoo import RECORDS

KEYS = {"tasks": "<task>", "inits": "<init>", "claims": "<claim>", "space": "<field>"}
"""section whose keys the user chooses -> what stands for a key in a dotted name"""

OF_TASK_YAML = {
    "title": "what a person calls the task",
    "kind": "of the target: labels of 0 and 1 (one or several), one class of several, or a mask",
    "metric": "primary one; not given: the first that the kind has, see [Metrics](metrics.md)",
    "allow_full": "labels that may fill every image",
    "channels": "1 for gray images, 3 for colour, or one per window of CT",
    "changes": "fields of `classification` or `segmentation` that this task sets otherwise",
    "counts": "number of images per split, where it is known; another number is refused",
    "licence": "of the images",
    "citation": "what to cite for the images",
}
"""field of a `task.yaml` -> its meaning, where the code says none or says it for the seven"""

TOP = Path(__file__).parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to those that mkdocs found."""
    for path, text in pages(TOP).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Shows a drawing that GitHub draws (mermaid) as a table: the script that draws it would come from the network."""
    return re.sub(r"^```mermaid\n(.*?)^```", lambda found: arrows(found[1]), markdown, flags=re.DOTALL | re.MULTILINE)


SCROLLED = """<script>addEventListener("load", () => document.querySelectorAll(".md-typeset__scrollwrap").forEach(
  part => { if (part.scrollWidth > part.clientWidth) part.tabIndex = 0; }));</script></body>"""
"""lets a keyboard reach what is cut off of a wide table"""


def on_post_page(output: str, **_: Any) -> str:
    """Names the search dialog, which the theme does not, and makes wide tables reachable without a mouse."""
    named = output.replace('role="dialog"', 'role="dialog" aria-label="Search"', 1)
    return named.replace("</body>", SCROLLED, 1)


def arrows(flowchart: str) -> str:
    """Writes a flowchart as a table of its boxes and where their arrows lead."""
    boxes = dict(re.findall(r'^ +(\w+)\["<b>\w+</b><br/>(.*?)"\]$', flowchart, re.MULTILINE))
    leads: dict[str, list[str]] = {name: [] for name in boxes}
    for start, ends in re.findall(r"^ +(\w+) -+> (.*)$", flowchart, re.MULTILINE):
        leads[start] += ends.split(" & ")
    rows = [(f"`{name}`", text, ", ".join(f"`{end}`" for end in leads[name])) for name, text in boxes.items()]
    return _table(("from", "what it is", "arrows to"), rows)


def pages(root: Path) -> dict[str, str]:
    """Writes every generated page.

    Args:
        root: the repository, whose `params.yaml` and `presets/paper.yaml` give the values beside each parameter.
    """
    return {
        "reference/parameters.md": parameters(root),
        "reference/verbs.md": verbs(),
        "reference/tasks.md": tasks(),
        "reference/inits.md": inits(),
        "reference/metrics.md": metrics(),
    }


# Parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter as the reference shows it."""

    name: str
    """dotted"""
    type: str
    meaning: str
    limits: tuple[str, ...]


def parameters(root: Path) -> str:
    """Writes the page of parameters: a section for each of `params.yaml`'s."""
    values = {file: schema.flatten(schema.read_yaml(root / file)) for file in ("params.yaml", "presets/paper.yaml")}
    text = [
        "# Parameters",
        "Every parameter of `params.yaml`, with its unit and the limits that are checked before anything starts. One "
        "dotted name is the key in the file, the option `--<name>` of every verb, the `-P <name>=` of `mlflow run` and "
        "the `-S <name>=` of `dvc exp run`. Beside it stand the values of `params.yaml` as it is (the demo's) and of "
        "`presets/paper.yaml` (the published protocol of 2021).",
    ]
    for section, found in sections().items():
        text += [f"## {section}", _doc(_record(typing.get_type_hints(Params)[section]))]
        text += [part for parameter in found for part in _parameter(parameter, values)]
    return _page(text)


def _parameter(parameter: Parameter, values: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    """Writes what is known of one: its meaning, then its type, its limits and its values in the files."""
    limits = f"limits: {', '.join(f'`{law}`' for law in parameter.limits)}" if parameter.limits else ""
    here = [f"`{file}`: {_value(parameter.name, tree)}" for file, tree in values.items() if "<" not in parameter.name]
    return (
        f"### `{parameter.name}` {{#{parameter.name.replace('<', '').replace('>', '')}}}",
        f"{parameter.meaning[:1].upper()}{parameter.meaning[1:]}.",
        "; ".join(filter(None, (parameter.type, limits, *here))) + "\n{.facts}",
    )


def sections() -> dict[str, list[Parameter]]:
    """Lists the parameters of each section of `params.yaml`, in the order of the code."""
    return {name: list(_parameters(kind, name)) for name, kind in typing.get_type_hints(Params).items()}


def _parameters(kind: Any, name: str) -> Iterator[Parameter]:
    """Walks through a section's record, or a mapping of names to records."""
    record = _record(kind)
    prefix = name if dataclasses.is_dataclass(kind) else f"{name}.{KEYS[name.rpartition('.')[2]]}"
    meanings, laws, hints = _meanings(record), _laws(record), typing.get_type_hints(record)
    for field in dataclasses.fields(record):
        full, hint = f"{prefix}.{field.name}", hints[field.name]
        if _is_section(hint):
            yield from _parameters(hint, full)
            continue
        default = "" if field.default is dataclasses.MISSING else f"; not given: {_plain(field.default)}"
        limits = tuple(law for law, names in laws if field.name in names)
        yield Parameter(name=full, type=_type(hint) + default, meaning=meanings.get(field.name, ""), limits=limits)


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or _record(hint) in (TaskParams, Dimension)


def _record(kind: Any) -> Any:
    """Gives the record of a section, or that of the values of a mapping."""
    return kind if dataclasses.is_dataclass(kind) else (typing.get_args(kind) or (kind,))[-1]


def _syntax(kind: type) -> ast.ClassDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return tree


def _meanings(kind: type) -> dict[str, str]:
    """Reads the text below each field of a record and of those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = _syntax(base).body
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(text.value.value))
    return found


def _laws(kind: type) -> list[tuple[str, set[str]]]:
    """Reads what `__post_init__` requires: the words of each law, and the fields that it is about."""
    found: list[tuple[str, set[str]]] = []
    for base in reversed(kind.__mro__[:-1]):
        checks = (node for node in _syntax(base).body if isinstance(node, ast.FunctionDef))
        for check in checks:
            if check.name in ("__post_init__", "check"):
                found += _required(check.body, {})
    return list({law: (law, names) for law, names in found}.values())


def _required(body: list[ast.stmt], known: Mapping[str, str]) -> Iterator[tuple[str, set[str]]]:
    """Walks through statements; a loop over names that stand there is done for each of them."""
    here = dict(known)
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            here[ast.unparse(node.targets[0])] = str(node.value.value)
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            for item in node.iter.elts:
                yield from _required(node.body, {**here, ast.unparse(node.target): str(ast.literal_eval(item))})
        elif isinstance(node, ast.If):
            yield from _required(node.body, here)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            if ast.unparse(call.func) == "require":
                words = _words(call.args[1], here)
            elif ast.unparse(call.func) == "require_names":
                words = "letters, digits, . _ and - only, the first a letter or a digit"
            else:
                continue
            fields = set(re.findall(r"self\.(\w+)", ast.unparse(call)))
            yield words, fields | {here[name] for name in ("name",) if name in here and "name" in ast.unparse(call)}


def _words(node: ast.expr, known: Mapping[str, str]) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part, known) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return known.get(ast.unparse(node.value), "it")
    return known.get(node.id, node.id) if isinstance(node, ast.Name) else str(ast.literal_eval(node))


def _type(hint: Any) -> str:
    """Words a type as a person writes its values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{word}`" if word else "empty" for word in arguments)
    if origin in (types.UnionType, typing.Union):
        return f"{_type(arguments[0])}, or `null`"
    if origin is tuple:
        return f"list of {_type(arguments[0])}" if Ellipsis in arguments else f"list of {len(arguments)} numbers"
    if dataclasses.is_dataclass(hint):
        return f"`{{{', '.join(field.name for field in dataclasses.fields(hint))}}}`"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of names to {_type(arguments[1])}"
    return {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}.get(hint, "any")


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "`null`", True: "`true`", False: "`false`"}[value]
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if value != "" and value != {} else "empty"


def _value(name: str, values: Mapping[str, Any]) -> str:
    """Looks a parameter up in a file; the keys of a mapping stand in it one by one."""
    inside = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
    if inside:
        return "`{" + ", ".join(f"{key}: {value}" for key, value in inside.items()) + "}`"
    return _plain(values[name]) if name in values else "not there"


# Verbs, tasks, inits, metrics


def verbs() -> str:
    """Writes the page of verbs."""
    text = [
        "# Verbs",
        "`medtransfer VERB` on the command line; `mlflow run . -e VERB` for those that `MLproject` names. The "
        "word behind a verb stands for its first option: `medtransfer fetch shenzhen`. Every verb also takes "
        "`--params FILE` (default `params.yaml`), `--partial` (short for `--data.partial true`), `--skip-bad N` (short "
        "for `--data.skip_bad N`) and every [parameter](parameters.md) by its dotted name. "
        "`medtransfer --help` and `medtransfer VERB --help` say the same in the terminal.",
    ]
    for name, verb in VERBS.items():
        text += [f"## {name}", verb.summary]
        rows = [
            (f"`--{option}`", _cell(verb.help_of(option) or "-"), "required" if default is None else f"`{default}`")
            for option, default in verb.identity.items()
        ]
        if rows:
            text.append(_table(("option", "what it is", "not given"), rows))
        if "dry" in verb.identity:
            text.append("`--dry-run` is short for `--dry yes`.")
        if verb.sections:
            text.append("Reads of `params.yaml`: " + ", ".join(map(_section_link, verb.sections)) + ".")
    return _page(text)


def _section_link(section: str) -> str:
    return f"[`{section}`](parameters.md#{section})" if section in typing.get_type_hints(Params) else f"`{section}`"


def tasks() -> str:
    """Writes the page of tasks."""
    text = [
        "# Tasks",
        "The tasks that medtransfer knows by name. Where their files go is in [Datasets](../how-to/datasets.md); a "
        "`task.yaml` makes a task of [your own images](../how-to/own-tasks.md). `medtransfer tasks` also says what of "
        "them is on disk.",
    ]
    return _page([*text, *(part for task in catalog.TASKS.values() for part in _task(task)), *_task_yaml()])


def _task_yaml() -> Iterator[str]:
    """Lists the fields of a `task.yaml`; a meaning may stand at the record that a field ends in."""
    meanings = {**_meanings(Task), **_meanings(Layout), **_meanings(catalog.Description), **OF_TASK_YAML}
    hints = typing.get_type_hints(catalog.Description)
    rows = [
        (
            f"`{field.name}`",
            "any: see the meaning" if hints[field.name] is Any else _type(hints[field.name]),
            _cell(meanings.get(field.name, "-")),
            "required" if field.default is field.default_factory is dataclasses.MISSING else _default(field),
        )
        for field in dataclasses.fields(catalog.Description)
    ]
    yield "## Fields of a task.yaml {#task-yaml}"
    yield "What describes a task of your own; [Your own tasks](../how-to/own-tasks.md) says how they work together."
    yield _table(("field", "type", "meaning", "not given"), rows)


def _default(field: dataclasses.Field[Any]) -> str:
    return "empty" if field.default is dataclasses.MISSING else _plain(field.default)


def _task(task: Task) -> Iterator[str]:
    yield f"## {task.name}"
    yield f"{task.title}. In the paper of 2021: `{task.code}`."
    counts = ", ".join(f"{split} {count:,}" for split, count in task.counts.items()) or "not published"
    drawn = ", ".join(f"{split} {share:g}" for split, share in task.draw.items())
    rows = [
        ("kind", task.kind),
        ("labels", ", ".join(task.labels)),
        ("averaged over", ", ".join(task.tested) or "all labels"),
        ("metric, margin", f"[`{task.metric}`](metrics.md#{task.metric}), {margin_words(task.margin)}"),
        *([("measured of masks", f"Dice, {', '.join(task.measures)}")] if task.segmentation else []),
        ("images", counts),
        ("test split", task.split_source + (f"; drawn by us: {drawn} of the {task.unit}s" if drawn else "")),
        ("unit", task.unit),
        ("channels", str(task.channels)),
        ("images are of", ", ".join(task.derived_from) or task.dataset),
        ("licence", task.licence),
        ("where", task.source),
        ("cite", task.citation),
    ]
    yield _table(("", ""), [(name, _cell(value)) for name, value in rows])
    yield f"Not said by the paper, and done here: {'; '.join(_listed(catalog.UNSAID[task.name]))}."


def _listed(value: Any) -> list[str]:
    return [value.rstrip(".")] if isinstance(value, str) else [str(item).rstrip(".") for item in value]


def inits() -> str:
    """Writes the page of initializations."""
    text = [
        "# Inits",
        "The initializations that medtransfer knows by name: `<init>` or `<init>@<backbone>`, and with further "
        "pre-training `<init>+<dataset>`. Also `timm:<architecture>.<tag>`, `file:<path or address>` and "
        "`registry:<model>/<alias or version>`; see [Weights](../how-to/weights.md). They stand under the kind of "
        "images that they were trained on last. `medtransfer inits` also says what is on disk, `medtransfer inits "
        "<init>` where a file is from.",
    ]
    for modality in MODALITIES:
        rows = [_init(r) for r in RECORDS.values() if r.modality == modality]
        titles = ("init", "pre-trained on; how", "backbones", "parameters", "licence", "commercial use", "notes")
        text += [f"## {modality}", _table(titles, rows)] if rows else []
    return _page(text)


def _init(record: Record) -> tuple[str, ...]:
    """Writes the row of an initialization."""
    counts = [sizes.parameters(backbone) for backbone in locate.backbones(Initialization(record=record, backbone=""))]
    notes = (
        f"has seen {', '.join(record.datasets)}" if record.datasets else "",
        f"not known: {record.unverified}" if record.unverified else "",
        {"": "", "accept": "conditions to accept on its page", "form": "a form to fill in"}[record.gate],
        record.note,
        record.paper,
    )
    return (
        f"`{record.name}`", _cell(f"{record.data}; {record.method} ({record.family})"), _backbones(record),
        list_inits.few_to_many(counts) or "-", _cell(record.licence or "the timm tag's own"),
        commercial(record.licence) if record.licence else "by tag", _cell(". ".join(filter(None, notes))) or "-",
    )  # fmt: skip


def _backbones(record: Record) -> str:
    own = ", ".join(f"`{name}`" for name in record.sources)
    if own and not record.tags:
        return own
    tags = ", ".join(f"`{tag}`" for tag in record.tags)
    return ", ".join(filter(None, (own, f"those of timm with a tag {tags}" if tags else ""))) or "any of timm"


def metrics() -> str:
    """Writes the page of metrics."""
    text = [
        "# Metrics",
        "What is measured of every run, as `test_<metric>` and `val_<metric>`. Of a metric that patients can be "
        "weighed in, the comparison's intervals hold for patients and seeds together; of the others for seeds alone. A "
        "score that is undefined is absent, never a number. [How masks are scored](../concepts/masks.md) says what "
        "surfaces, centre lines and lesions are, and what counts where a mask is empty.",
    ]
    for metric in METRICS.values():
        kinds = ", ".join(metric.kinds) or "none: it stands beside the task's own"
        where = [f"`{prefix}{metric.name}` ({PREFIXES[prefix]})" for prefix in metric.prefixes if prefix]
        rows = [
            ("name", f"`{metric.name}`"),
            ("of", metric.of),
            ("primary metric of", kinds + (", where the classes stand in an order" if metric.ordinal else "")),
            ("patients weighed", "yes" if metric.per_patient else "no"),
            *([("also", ", ".join(where))] if where else []),
            *([("measured where", f"the task's `measures` have `{metric.group}`")] if metric.group else []),
            *([("unit", f"{metric.unit}, lower is better")] if metric.unit else []),
            *([("direction", "lower is better")] if metric.lower else []),
        ]
        text += [f"## {metric.title} {{#{metric.name}}}", _table(("", ""), rows)]
    return _page(text)


# Markdown


def _doc(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return words if "`" in words else words.replace("<", "&lt;")


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"
