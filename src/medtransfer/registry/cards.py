"""What a person reads of a decision and of a registered version: Markdown, and tags for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medtransfer.comparison import judged
from medtransfer.comparison.contrasts import ALL
from medtransfer.comparison.findings import Findings
from medtransfer.comparison.published_form import Row
from medtransfer.comparison.wording import first_lines, interval, percent, points
from medtransfer.core import files
from medtransfer.registry.decision import Decision
from medtransfer.report.formats import table_markdown
from medtransfer.report.sections.scores import score_grid
from medtransfer.report.tables import Entry, Grid
from medtransfer.report.tables import grid as plain_grid
from medtransfer.results.result import Result
from medtransfer.weights import licences, variants
from medtransfer.weights.names import seen

USE = "### Use"
"""begins the second half of a version's description"""
BACKBONE_USE = """```python
import mlflow, timm
import segmentation_models_pytorch as smp

path = mlflow.artifacts.download_artifacts("models:/{model}/{version}")
backbone = timm.create_model(f"local-dir:{{path}}", pretrained=True)
classifier = timm.create_model(f"local-dir:{{path}}", pretrained=True, num_classes=3)
segmenter = smp.Unet(f"tu-local-dir:{{path}}", encoder_weights=True, classes=1)
```

In medtransfer: `--init registry:{model}/{version}`."""
MODEL_USE = """```
mlflow models serve -m models:/{model}/{version} --env-manager local --port 5001
curl -H 'Content-Type: application/json' http://127.0.0.1:5001/invocations \\
  -d "{{\\"dataframe_records\\": [{{\\"image\\": \\"$(base64 -w0 image.png)\\"}}]}}"
```

PNG, JPEG or DICOM in base64, or arrays of pixels. To train it further: `medtransfer.registry.network.load(folder)`."""
LONGEST = 5000
"""letters that MLflow's registry takes in a tag"""
WIDE = "&emsp;"
PADDED = (
    "Pre-trained with TensorFlow's SAME padding ({padding}), which timm does not know of: medtransfer keeps it, "
    "elsewhere the features differ a little."
)


def backbone_use(backbone: str) -> str:
    """Shows how other code loads a backbone; timm takes the class of its layers from the caller alone."""
    layer = variants.split(backbone)[1].get("mlp_layer")
    return BACKBONE_USE.replace("=True", f"=True, mlp_layer=timm.layers.{layer}") if layer else BACKBONE_USE


def summary(decision: Decision, findings: Findings, version: str) -> str:
    """Says what was decided, why, and by which numbers: the description of a decision's run."""
    what = {
        "champion": f"Version {version} is `{decision.alias}`",
        "challenger": f"Version {version} is `{decision.alias}`, the champion stays",
        "kept": f"Version {version} stays `{decision.alias}`",
        "blocked": "Nothing is registered",
    }[decision.outcome]
    lines = [f"{_subject(decision)}. {what}:", "", *(f"- {reason}" for reason in decision.reasons)]
    parts = [*first_lines(_results(decision, findings)), "\n".join(lines)]
    if decision.compared:
        parts += [f"On test, minus {decision.compared[0].against}:", _markdown(_compared(decision))]
    if decision.required:
        parts += ["Required of it (`promotion.require`):", _markdown(_required(decision))]
    return "\n\n".join([*parts, "All candidates:", _markdown(_scores(decision, findings)), _method(decision, findings)])


def _subject(decision: Decision) -> str:
    selected, candidate = decision.selected, decision.candidate
    size = f", {candidate.parameters:,} parameters" if candidate.parameters else ""
    if selected.scope == ALL:
        return f"Backbone weights **{selected.init}**{size}, selected on val over {', '.join(selected.tasks)}"
    return f"Model of the task {selected.scope}, fine-tuned from **{selected.init}**, selected on val"


def _markdown(table: Grid) -> str:
    """Writes a table with wide spaces behind its results: MLflow's page leaves none between columns."""
    head, rule, *lines = table_markdown(table).splitlines()
    return "\n".join([head, rule, *(line.replace(" | ", f"{WIDE} | ") for line in lines)])


def version_card(
    decision: Decision, findings: Findings, version: str, uses: str, origin: Sequence[str], padding: str
) -> str:
    """Describes a registered version: what it is, how good, on what, against what, how to use it, where it is from."""
    return "\n\n".join(
        [
            summary(decision, findings, version),
            USE,
            uses.format(model=decision.candidate.model, version=version),
            *([PADDED.format(padding=padding)] if padding else []),
            *_licence_section(decision.candidate.licences),
            "### Origin",
            _lines(origin),
        ]
    )


def _licence_section(chain: Sequence[str]) -> list[str]:
    return ["### Licence", licences.sentence(chain), _lines(chain)] if chain else []


def _lines(words: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in words)


def model_card(model: str, champions: Mapping[str, str]) -> str:
    """Describes a registered model.

    Args:
        model: its name.
        champions: alias -> description of the version that has it.
    """
    arch = model.removeprefix("medtransfer-backbone-")
    what = f"Pre-trained weights of the timm backbone `{arch}` to start from, chosen over several tasks"
    if arch == model:
        what = f"The best fine-tuned model of the task `{model.removeprefix('medtransfer-')}`"
    rules = (
        f"{what}; made by medtransfer. `champion` passed the gate, `challenger` is the last that did not; `demo-` "
        "stands before those of synthetic images. Every move is a run in the experiment `medtransfer/promotion`."
    )
    shown = [f"### {alias}\n\n{text.partition(USE)[0].strip()}" for alias, text in champions.items()]
    return "\n\n".join([rules, *shown])


def tags(decision: Decision, findings: Findings, root: Path) -> dict[str, str]:
    """Lists what programs ask of a version."""
    selected, candidate = decision.selected, decision.candidate
    rows = {row.task: row for row in findings.rows if row.init == selected.init and row.task in selected.tasks}
    found = {
        "init": selected.init,
        "key": candidate.key,
        "parameters": str(candidate.parameters),
        "marks": ", ".join(selected.marks),
        **_licence(candidate.licences),
        **required(decision),
        "seen": " ".join(sorted(seen(selected.init))),
        "git_commit": files.git_commit(root),
    }
    for task in selected.tasks:
        found[f"test.{task}"] = percent(rows[task].summary)
        found[f"val.{task}"] = _val(rows[task])
        found[f"manifest.{task}"] = manifest(findings.results, task)
        found[f"dvc.prepared.{task}"] = files.dvc_hash(root, f"data/prepared/{task}")
        found[f"dvc.cells.{task}"] = files.dvc_hash(root, f"data/results/cells/{task}")
    for name in ("benchmark", "pretrained"):
        found[f"dvc.weights.{name}"] = files.dvc_hash(root, f"data/weights/{name}")
    return {name: text for name, text in found.items() if text}


def required(decision: Decision) -> dict[str, str]:
    """Names what each condition came to, for programs: `required.<condition>.<task>`."""
    found: dict[str, list[str]] = {}
    for one in decision.required:
        found.setdefault(f"required.{one.measured.condition}.{one.measured.task}", []).append(one.words)
    return {name: "; ".join(words)[:LONGEST] for name, words in found.items()}


def _required(decision: Decision) -> Grid:
    return plain_grid(judged.HEADER, [judged.line(one) for one in decision.required])


def _licence(chain: Sequence[str]) -> dict[str, str]:
    """Names the strictest licence of a chain, what it says of commercial use, and all of them."""
    if not chain:
        return {}
    found = licences.strictest(chain)
    return {
        "licence": found.part[:LONGEST],
        "commercial": found.terms.commercial,
        "licences": licences.joined(chain)[:LONGEST],
    }


def manifest(results: Sequence[Result], task: str) -> str:
    """Names the prepared data of a task, which its runs share."""
    return next(result.manifest_digest for result in results if result.task == task)


def origin(lines: Sequence[str], named: Mapping[str, str]) -> list[str]:
    """Joins what a receipt says with the hashes among a version's tags."""
    shown = [f"{name} `{text}`" for name, text in named.items() if name.startswith(("manifest.", "dvc.", "git_"))]
    return [*lines, *shown]


def _results(decision: Decision, findings: Findings) -> list[Result]:
    return [result for result in findings.results if result.task in decision.selected.tasks]


def _val(row: Row) -> str:
    return "" if row.val is None else f"{100 * row.val:.2f}"


def _scores(decision: Decision, findings: Findings) -> Grid:
    """Lays the comparison out on the decision's tasks, val beside test; what was selected is bold."""
    selected, table = decision.selected, score_grid(findings)
    column = {task: place + 1 for place, task in enumerate(findings.benchmark.tasks)}
    vals = {(row.task, row.init): _val(row) or "-" for row in findings.rows}
    header = ["init"]
    for task in selected.tasks:
        header += [f"{table.header[column[task]]}, test", "val"]
    lines = []
    for init, row in zip(findings.benchmark.inits, table.rows, strict=True):
        mine = init == selected.init
        entries = [Entry(init, mine)]
        for task in selected.tasks:
            entries += [Entry(row[column[task]].text, mine), Entry(vals[task, init], mine)]
        lines.append(tuple(entries))
    return Grid(header=tuple(header), rows=tuple(lines))


def _compared(decision: Decision) -> Grid:
    rows = [
        (
            each.task,
            points(each.estimate),
            interval(each.low, each.high),
            points(each.floor),
            "-" if each.bound is None else f"{100 * each.bound:g}",
        )
        for each in decision.compared
    ]
    header = ("task", "difference, points", "interval for better", "at worst, for non-inferior", "margin, points")
    return plain_grid(header, rows)


def _method(decision: Decision, findings: Findings) -> str:
    seeds = len(findings.benchmark.seeds)
    words = f"Percent, mean ± std over {seeds} seeds. Bold: selected, on val alone."
    if not decision.alpha:
        return words
    return (
        f"{words} Better: on a task or more, and non-inferior on all others within the margin. All comparisons of the "
        f"decision hold together with {100 * (1 - decision.alpha):.4g} %, over seeds and test patients where they are "
        f"known (Bonferroni); later decisions on these test sets have {100 * decision.left:.2g} % of error left "
        "together."
    )
