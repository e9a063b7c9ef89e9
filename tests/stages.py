"""Which modules a stage of dvc.yaml runs: the closure of its verb's imports, those inside functions too.

`python -m tests.stages` writes them into dvc.yaml.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

TOP = Path(__file__).parent.parent
CODE = "src/medtransfer"
FILE = TOP / "dvc.yaml"


def verbs() -> dict[str, str]:
    """Reads stage -> verb from the stages' commands."""
    stages = yaml.safe_load(FILE.read_text())["stages"]
    commands = {name: stage.get("do", stage)["cmd"] for name, stage in stages.items()}
    return {name: re.sub(r".*-m medtransfer (\w+).*", r"\1", command) for name, command in commands.items()}


def listed(stage: str) -> set[str]:
    """Reads a stage's dependencies on code."""
    entry = yaml.safe_load(FILE.read_text())["stages"][stage]
    return {path for path in entry.get("do", entry).get("deps", ()) if path.startswith(CODE)}


def modules_of(verb: str, top: Path = TOP) -> set[str]:
    """Computes the files and folders of code that a verb runs: a package counts as its folder."""
    reached, left = set[Path](), list[Path]()
    functions, waiting = set[tuple[Path, str]](), [(_home(verb, top), verb)]
    while waiting:  # of the command line only the functions that this one calls
        path, name = waiting.pop()
        if (path, name) not in functions:
            functions.add((path, name))
            reached.add(path)
            body, others = _body(path, name, top)
            waiting += others
            left += body
    while left:
        path = left.pop()
        if path not in reached and path.parent.name != "cli":
            reached.add(path)
            left += _imported(path, top)
    return {_shown(path, top) for path in reached}


def _home(verb: str, top: Path) -> Path:
    """Finds the module of a verb's function."""
    return next(path for path in sorted((top / CODE / "cli").glob("*.py")) if verb in _functions(path))


def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in _tree(path).body if isinstance(node, ast.FunctionDef)}


def _body(path: Path, name: str, top: Path) -> tuple[set[Path], list[tuple[Path, str]]]:
    """Lists what a verb's function and its module import, and the functions of the command line that it calls."""
    function = _functions(path)[name]
    rest = [node for node in _tree(path).body if not isinstance(node, ast.FunctionDef)]
    found = {file for part in (function, *rest) for file in _files(_names(part, path, top), top)}
    called = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    others = [(path, other) for other in called if other in _functions(path)]
    for node in rest:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("medtransfer.cli."):
            home = (top / "src").joinpath(*node.module.split(".")).with_suffix(".py")
            names = {alias.name for alias in node.names} & called
            others += [(home, other) for other in names if other in _functions(home)]
    return found, others


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def _imported(path: Path, top: Path) -> frozenset[Path]:
    return frozenset(_files(_names(_tree(path), path, top), top))


def _names(tree: ast.AST, path: Path, top: Path) -> Iterator[str]:
    """Lists the names that code imports, without what only a type checker reads."""
    package = ".".join(path.relative_to(top / "src").parent.parts)
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: None if node.level < 2 else 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return
    yield tree
    for node in ast.iter_child_nodes(tree):
        yield from _walk(node)


def _files(names: Iterable[str], top: Path) -> Iterator[Path]:
    """Finds the modules behind names, and the packages around them, which an import runs too."""
    for name in names:
        parts = name.split(".")
        for end in range(2, len(parts) + 1) if parts[0] == "medtransfer" else ():
            stem = (top / "src").joinpath(*parts[:end])
            yield from (path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file())


def _shown(path: Path, top: Path) -> str:
    """Names a module as dvc.yaml does: by its room, a file of the command line by itself."""
    parts = path.relative_to(top / CODE).parts
    return "/".join((CODE, *(parts if parts[0] == "cli" else parts[:1])))


def write() -> None:
    """Writes every stage's modules into dvc.yaml, behind its other dependencies."""
    commands, stage, lines, indent = verbs(), "", list[str](), ""

    def close() -> None:
        nonlocal indent
        if indent:
            lines.extend(f"{indent}  - {path}" for path in sorted(modules_of(commands[stage])))
        indent = ""

    for line in FILE.read_text().splitlines():
        if indent and not line.startswith(f"{indent} "):
            close()
        if found := re.fullmatch(r"  (\w+):", line):
            stage = found[1]
        if not line.strip().startswith(f"- {CODE}"):
            lines.append(line)
        if line.strip() == "deps:":
            indent = line.removesuffix("deps:")
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
