from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stages

HEAVY = {
    "mlflow": {"tracking", "registry"},
    "ray": {"runs"},
    "optuna": {"runs"},
}
BUT_CLI = {
    "core", "params", "statistics", "data", "weights", "results", "training", "tracking", "comparison", "report",
    "runs", "registry", "services", "packs",
}  # fmt: skip
OF_TASKS = {"data.tasks", "data.catalog"}
OF_WEIGHTS = {"weights.names", "weights.zoo", "weights.families"}
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "params": {"core"},
    "statistics": {"core"},
    "data": {"core", "params", "statistics.mask_shapes", "statistics.metrics"},
    "weights": {"core", "params"},
    "results": {"core", "data.tasks", "statistics.metrics"},
    "training": {"core", "params", "statistics", "data", "weights", "results.examples"},
    "tracking": {"core", "results"},
    "comparison": {"core", "params", "statistics", "results", *OF_TASKS, *OF_WEIGHTS},
    "report": {"core", "params", "statistics", "data.catalog", "weights.families", "results", "comparison"},
    "runs": {"core", "params", "statistics", "data", "weights", "results", "training", "tracking"},
    "packs": {"core", "params", "statistics", "data", "weights", "results", "comparison", "report", "runs"},
    "services": {"core"},
    "registry": BUT_CLI - {"registry", "runs", "services", "packs"},
    "api": BUT_CLI,  # a file by itself
    "cli": BUT_CLI,
}
"""what the files of a room may import beside its own"""


@functools.cache
def imports(path: Path) -> frozenset[str]:
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def files(top: Path, room: str = "") -> list[Path]:
    path = top / "src/medtransfer" / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def test_every_file_lies_in_a_room(top: Path) -> None:
    entries = {path.name for path in (top / "src/medtransfer").iterdir() if path.name != "__pycache__"}
    assert entries == {*(ROOMS.keys() - {"api"}), "api.py", "__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(top: Path, room: str) -> None:
    for path in files(top, room):
        for name in imports(path):
            head, _, rest = name.partition(".")
            if head == "medtransfer" and rest.split(".")[0] in ROOMS.keys() - {room}:
                allowed = any(f"{rest}.".startswith(f"{other}.") for other in ROOMS[room])
                assert allowed, f"{path.relative_to(top)} imports {name}"


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_each_file_of_a_room_can_be_imported_first(top: Path, room: str) -> None:
    names = [".".join(path.relative_to(top / "src").with_suffix("").parts) for path in files(top, room)]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n"
        "    for key in [key for key in sys.modules if key.startswith('medtransfer')]:\n        del sys.modules[key]\n"
        "    importlib.import_module(name)\n"
    )
    alone = [name.removesuffix(".__init__") for name in names if not name.endswith("mlflow_entry")]  # MLflow's to run
    subprocess.run([sys.executable, "-c", code, *alone], cwd=top, env={"PYTHONPATH": "src"}, check=True)


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_enter_through_their_modules_alone(top: Path, library: str) -> None:
    users = {path for path in files(top) if any(name.split(".")[0] == library for name in imports(path))}
    rooms = {path.relative_to(top / "src/medtransfer").parts[0] for path in users}
    assert rooms <= HEAVY[library]


def test_the_command_line_imports_nothing_heavy_before_the_verb_is_known(top: Path) -> None:
    code = (
        "import sys, contextlib\nfrom medtransfer.cli.main import build_parser\nbuild_parser().format_help()\n"
        "print([m for m in ('torch', 'mlflow', 'timm', 'pandas', 'numpy', 'PIL') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=top, env={"PYTHONPATH": "src"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", sorted(set(stages.verbs()) - {"sources"}))  # which runs always
def test_a_stage_depends_on_all_code_that_its_verb_imports(stage: str) -> None:
    needed, listed = stages.modules_of(stages.verbs()[stage]), stages.listed(stage)
    assert (sorted(needed - listed), sorted(listed - needed)) == ([], []), "run `python -m tests.stages`"


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("prepare", "core"),  # draws splits
        ("benchmark", "weights"),  # imported by what it imports
    ],
)
def test_a_closure_holds_what_decides_numbers(stage: str, module: str) -> None:
    assert {f"src/medtransfer/{module}.py", f"src/medtransfer/{module}"} & stages.modules_of(stage)


def test_a_closure_follows_lazy_imports_and_not_those_of_a_type_checker(tmp_path: Path) -> None:
    code = tmp_path / "src/medtransfer"
    (code / "cli").mkdir(parents=True)
    (code / "room").mkdir()
    (code / "cli/all.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from medtransfer import typed\n"
        "def go():\n    return help_()\ndef help_():\n    from medtransfer import lazy\n    lazy()\n"
        "def other():\n    from medtransfer import unused\n"
    )
    (code / "lazy.py").write_text("def f():\n    import medtransfer.room.inner\n")
    (code / "room/__init__.py").write_text("from .near import x\n")
    for name in ("room/inner", "room/near", "typed", "unused"):
        (code / f"{name}.py").touch()
    assert stages.modules_of("go", tmp_path) == {f"src/medtransfer/{p}" for p in ("lazy.py", "room", "cli/all.py")}


# docs/architecture.md


def page(top: Path) -> str:
    return (top / "docs/architecture.md").read_text()


def listed(text: str) -> set[str]:
    """Reads the files of the page's listing: a room in bold, blocks of lines, a folder before the files in it."""
    found, room, block, folder = set[str](), "", False, ""
    for line in text.split("## Which file is where")[1].split("\n## ")[0].splitlines():
        if match := re.fullmatch(r"\*\*(\w+)\*\*", line):
            room = match[1]
        block ^= line.startswith("```")
        if not line.startswith("  "):
            folder = match[1] if (match := re.match(r"([a-z]+/) ", line)) else ""
        found |= {
            f"{room}/{folder}{name}".removeprefix("/")
            for name in re.findall(r"[a-z_0-9/]+\.(?:py|html)", line)
            if block
        }
    return found


def test_the_architecture_page_names_every_file_and_no_other(top: Path) -> None:
    code = top / "src/medtransfer"
    here = {str(path.relative_to(code)) for suffix in ("py", "html") for path in code.rglob(f"*.{suffix}")}
    assert listed(page(top)) == {path for path in here if Path(path).name not in ("__init__.py", "__main__.py")}


def test_the_walks_of_the_architecture_page_lead_through_functions_that_are_there(top: Path) -> None:
    steps = re.findall(r"`([a-z_/0-9]+\.py):([A-Za-z_.]+)`", page(top))
    assert len(steps) > 20
    missing = [f"{path}:{name}" for path, name in steps if name not in defined(top / "src/medtransfer" / path)]
    assert missing == []


@functools.cache
def defined(path: Path) -> set[str]:
    """Lists a module's functions, classes, methods and variables."""
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        name = getattr(node, "name", "")
        found |= {name, *(f"{name}.{getattr(inner, 'name', '')}" for inner in getattr(node, "body", ()))}
        for target in (*getattr(node, "targets", ()), getattr(node, "target", None)):
            found.add(getattr(target, "id", ""))
    return found
