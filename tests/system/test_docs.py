"""README and docs: short enough, complete, true to the code's names; every block of commands is run or says why not."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
import yaml
from PIL import Image

from medtransfer import params
from medtransfer.cli import VERBS
from medtransfer.cli.main import build_parser, name_first, read_overrides
from medtransfer.comparison.answers import Answer
from medtransfer.comparison.contrasts import Word
from medtransfer.comparison.wording import FIRST_LINES
from medtransfer.data import catalog
from medtransfer.data.phantoms import write
from medtransfer.statistics.metrics import METRICS
from medtransfer.weights.zoo import RECORDS
from tests.conftest import TOP
from tests.support import workspace

DOCUMENTS = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:[A-Z_]+=\S* )*(?:srun |torchrun .* -m |python -m |mlflow run|dvc |make |medtransfer )")


def named(path: Path) -> str:
    return str(path.relative_to(TOP))


documents = pytest.mark.parametrize("path", DOCUMENTS, ids=named)


@pytest.fixture(scope="module")
def hooks() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", TOP / "docs/hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hooks"] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(hooks: types.ModuleType) -> dict[str, str]:
    pages: dict[str, str] = hooks.pages(TOP)
    return pages


def blocks(path: Path) -> list[tuple[str, str, str]]:
    """Lists the code blocks: (mark of the comment before it, language, text)."""
    return [(b["mark"] or "", b["language"], b["text"]) for b in BLOCK.finditer(path.read_text())]


def commands(path: Path) -> list[str]:
    """Lists the command lines of the blocks of commands, continued lines joined, without comments."""
    lines = []
    for _, language, text in blocks(path):
        if language in ("sh", "bash"):
            lines += text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def slugs(text: str) -> set[str]:
    """Lists the anchors of a page, as mkdocs and GitHub make them of its headings."""
    found = set(re.findall(r"\{#([\w.+-]+)\}", text))
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        found.add(re.sub(r"[\s]+", "-", words))
    return found


def test_the_readme_can_be_read_in_one_go(top: Path) -> None:
    assert len((top / "README.md").read_text().splitlines()) <= 150
    assert (top / "docs/images/report.png").stat().st_size < 300_000
    assert (top / "docs/gallery/report.html").stat().st_size < 1_500_000


def test_every_name_of_the_code_is_in_the_reference(reference: dict[str, str], hooks: types.ModuleType) -> None:
    page = reference["reference/parameters.md"]
    of_page = set(re.findall(r"^### `(.*?)`", page, re.MULTILINE))
    for name in params.dotted_names():  # a name of the user's own below it stands as <name>
        assert name in of_page or any(each.startswith(f"{name}.<") for each in of_page), name
    assert set(re.findall(r"^## (\w+)$", page, re.MULTILINE)) == set(typing.get_type_hints(params.Params))
    for verb in VERBS:
        assert f"\n## {verb}\n" in reference["reference/verbs.md"]
        assert all(f"| `--{option}` |" in reference["reference/verbs.md"] for option in VERBS[verb].identity)
    assert all(f"\n## {task}\n" in reference["reference/tasks.md"] for task in catalog.TASKS)
    assert all(f"| `{init}` |" in reference["reference/inits.md"] for init in RECORDS)
    fields = [
        f"| `{field.name}` |" in reference["reference/tasks.md"] for field in dataclasses.fields(catalog.Description)
    ]
    assert all(fields)
    assert not re.findall(r"^\| `\w+` \|[^|]*\| - \|", reference["reference/tasks.md"], re.MULTILINE)
    assert all(f"{{#{metric}}}" in reference["reference/metrics.md"] for metric in METRICS)


def test_every_parameter_has_a_meaning_and_the_limits_that_the_code_checks(hooks: types.ModuleType) -> None:
    every = {p.name: p for found in hooks.sections().values() for p in found}
    assert not [name for name, p in every.items() if not p.meaning]
    assert every["classification.lr"].limits == ("lr > 0",)
    assert "0 <= augmentation.flip <= 1" in every["pretraining.augmentation.flip"].limits
    assert "batch_size >= 1" in every["segmentation.batch_size"].limits
    assert "execution.workers >= 0" in every["execution.workers"].limits
    assert every["tasks.<task>.image_size"].limits == ("16 <= image_size <= cache_size",)
    assert every["inits.<init>.std"].type == "list of 3 numbers, or `null`; not given: `null`"
    assert "tuning.space.<field>.log" in every


def test_the_drawing_of_the_rooms_is_a_table_on_the_site(hooks: types.ModuleType, top: Path) -> None:
    shown = hooks.on_page_markdown((top / "docs/architecture.md").read_text())
    assert "mermaid" not in shown
    rooms = {path.name for path in (top / "src/medtransfer").iterdir() if (path / "__init__.py").is_file()}
    assert {row.split("`")[1] for row in shown.splitlines() if row.startswith("| `")} >= rooms
    assert "| `registry` | into MLflow's model registry, and out | `report`, `training`, `tracking` |" in shown


def test_verdicts_explains_every_word_and_sentence(top: Path) -> None:
    page = re.sub(r"\s+", " ", (top / "docs/concepts/verdicts.md").read_text())
    picture = (top / "docs/images/verdicts.svg").read_text()
    for word in typing.get_args(Word):
        assert word in page or word.replace("worse", "better") in page
        assert f">{word}<" in picture or word == "no test"
    assert all(f"| {verdict} |" in page for verdict in typing.get_args(typing.get_type_hints(Answer)["verdict"]))
    assert all(f"| {mark} | *{sentence}* |" in page for mark, sentence in FIRST_LINES.items())
    code = "".join(path.read_text() for path in (top / "src/medtransfer/comparison").glob("*.py"))
    for words in (
        "will do, as far as these data tell", "These data do not choose between the", "If one must be taken",
        "As good by the same comparisons", "reliably: that takes more test patients", "for these training images",
        "on average, each task counted in units of its margin", "no initialization has all its runs",
        "all run before the next look, would find a difference of", "What is best on val scores",
    ):  # fmt: skip
        assert words in page
        assert words in code


def test_sections_that_docs_send_the_reader_to_are_the_report_s(top: Path) -> None:
    code = "".join(path.read_text() for path in (top / "src/medtransfer/report").rglob("*.py"))
    for page in ("docs/gallery.md", "docs/tutorials/reviewers.md"):
        for title in re.findall(r"[Uu]nder\s+\*([^*]+)\*(?:\s+and\s+\*([^*]+)\*)?", (top / page).read_text()):
            assert all(f'"{" ".join(part.split())}' in code for part in title if part), (page, title)


@documents
def test_every_relative_link_leads_to_a_file_and_an_anchor(path: Path, reference: dict[str, str]) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        generated = (
            reference.get(str(target.relative_to(TOP / "docs"))) if target.is_relative_to(TOP / "docs") else None
        )
        assert generated or target.is_file(), f"{named(path)}: {link}"
        if anchor:
            assert anchor in slugs(generated or target.read_text()), f"{named(path)}: {link}"


def test_every_link_of_the_reference_leads_somewhere(reference: dict[str, str]) -> None:
    for page, text in reference.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = link.partition("#")
            target = (TOP / "docs" / page).parent.joinpath(place).resolve()
            generated = reference.get(str(target.relative_to(TOP / "docs")))
            assert generated or target.is_file(), f"{page}: {link}"
            assert not anchor or anchor in slugs(generated or target.read_text()), f"{page}: {link}"


@documents
def test_every_block_of_commands_is_run_by_a_test_or_says_why_not(path: Path) -> None:
    for mark, language, text in blocks(path):
        if language in ("sh", "bash"):
            kind, _, rest = mark.partition(": ")
            assert kind in ("run", "not run"), f"{named(path)}: say what runs it, or why nothing does:\n{text}"
            assert rest
            for file in re.findall(r"tests/[\w/.]+(?:::\w+)?", rest):
                name, _, test = file.partition("::")
                assert (TOP / name).exists(), f"{named(path)}: {file}"
                assert not test or f"def {test}(" in (TOP / name).read_text(), f"{named(path)}: {file}"
            assert kind == "not run" or "::" in rest
        else:
            assert language, f"{named(path)}: a block without a language:\n{text}"
            assert language == "python" or not any(map(COMMAND.match, text.splitlines())) or "params.yaml" in text


@documents
def test_every_command_is_one_that_the_code_takes(path: Path, top: Path) -> None:
    """Blocks are read as the command line, MLproject, dvc.yaml and the Makefile read them."""
    entries = yaml.safe_load((top / "MLproject").read_text())["entry_points"]
    stages = set(yaml.safe_load((top / "dvc.yaml").read_text())["stages"])
    targets = set(re.findall(r"^([\w-]+):", (top / "Makefile").read_text(), re.MULTILINE))
    for line in commands(path):
        words = shlex.split(line, comments=True)
        if "medtransfer" in words[:2] or ("-m" in words and words[words.index("-m") + 1] == "medtransfer"):
            check_verb(words[words.index("medtransfer") + 1 :], top)
        elif words[:2] == ["mlflow", "run"]:
            entry = words[words.index("-e") + 1]
            given = [words[place + 1] for place, word in enumerate(words) if word == "-P"]
            own = entries[entry].get("parameters", {})
            check_verb([entry, *(part for each in given for part in option(each, own))], top)
        elif words[:2] == ["dvc", "repro"]:
            assert set(words[2:]) <= stages
        elif words[0] == "make":
            assert set(words[1:]) <= targets, line


def option(given: str, own: dict[str, object]) -> tuple[str, str]:
    name, _, value = given.partition("=")
    assert name in own or "." in name
    return f"--{name}", value


def check_verb(words: list[str], top: Path) -> None:
    """Reads a verb with its options and loads its parameters."""
    options, rest = build_parser().parse_known_args(name_first(words))
    overrides = read_overrides(rest, options.verb)
    literal = {name: value for name, value in overrides.items() if not value.startswith("$")}
    params.load(top / "params.yaml", literal)
    if options.verb not in ("services", "compare"):  # whose tasks are of a server, or of a table
        tasks = {"tb_screening", "lungs", *catalog.TASKS}
        assert getattr(options, "task", "all") in {"all", *tasks}


@documents
def test_no_text_names_a_verb_or_a_parameter_that_the_code_does_not_have(path: Path, hooks: types.ModuleType) -> None:
    text = path.read_text()
    for word in re.findall(r"`medtransfer (\w[\w-]*)|^(?:srun )?medtransfer (\w[\w-]*)", text, re.MULTILINE):
        assert "".join(word) in {*VERBS, "VERB"}, word
    every = {p.name for found in hooks.sections().values() for p in found}
    known = {*params.dotted_names(), *every, *(".".join(p.split(".")[:n]) for p in every for n in (2, 3))}
    sections = "|".join(typing.get_type_hints(params.Params))
    for name in re.findall(rf"(?:--|-P |-S |`)((?:{sections})\.[\w.<>*]+)", text):
        place = re.sub(r"^tasks\.[^.]+\.changes.*", "tasks.<task>.changes", name.rstrip(".*"))
        place = re.sub(r"^(tasks|inits|claims)\.[^.<]+\.", lambda m: f"{m[1]}.<{m[1][:-1]}>.", place)
        if not place.endswith((".yaml", ".py", ".md", ".csv", ".json", "comparison")):
            assert place in known, f"{named(path)}: {name}"


def test_readme_and_tutorial_show_the_same_task(top: Path) -> None:
    def shown(path: str) -> list[str]:
        text = (top / path).read_text()
        return [body for _, body in re.findall(r"```\w+\n# (\S*(?:images\.csv|task\.yaml))\n(.*?)```", text, re.DOTALL)]

    assert len(shown("README.md")) == 2
    assert shown("README.md") == shown("docs/tutorials/own-xrays.md")


@pytest.mark.slow
def test_the_tutorial_of_segmentation_works_as_written(top: Path, tmp_path: Path) -> None:
    root = workspace.make(tmp_path, top)
    page = top / "docs/tutorials/own-segmentation.md"
    (description,) = (text for _, language, text in blocks(page) if language == "yaml")
    header = re.search(r"# images\.csv\n(.*)\n", page.read_text())
    assert header is not None
    folder = root / "data/raw/lungs"
    write.write("montgomery", root / "drawn", images=24, size=40, seed=3, contrast=1.0)
    for name in ("scans", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "task.yaml").write_text(description)
    with open(folder / "images.csv", "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(header[1].split(","))
        for number, scan in enumerate(sorted((root / "drawn/CXR_png").iterdir())):
            row = [f"scans/{number:04d}.png", f"masks/{number:04d}.png", f"P{number:03d}"]
            Image.open(scan).save(folder / row[0])
            Image.open(root / "drawn/ManualMask/leftMask" / scan.name).save(folder / row[1])
            table.writerow(row)
    (block,) = (text for mark, _, text in blocks(page) if mark.startswith("run: tests/system/test_docs.py"))
    for line in block.splitlines():
        words = shlex.split(line.replace("--init imagenet", "--init random"))[1:]  # the fake backbone has no ImageNet
        code, output = workspace.run(top, root, *words)
        assert code == 0, output
    assert (folder.parent.parent / "prepared/lungs/real/samples.png").is_file()


@pytest.mark.slow
def test_the_site_builds_strictly_and_reads_nothing_from_the_network(top: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    found = subprocess.run(words, cwd=top, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        read = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]*)\"", page.read_text())
        assert not [address for address in read if "canonical" not in address], page
