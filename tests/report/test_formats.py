from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from medtransfer.report import formats
from medtransfer.report.tables import Entry, Grid, Section

ODD = r"50 % of a_b & c #1 {x} ~ ^ \ $2 <i> ± † | “q” é"
GRID = Grid(
    header=("init", "task: AUC"),
    rows=(
        (Entry("imagenet@resnet50+chestxray14"), Entry("81.70 ± 0.15", best=True)),
        (Entry(ODD), Entry("80.31 ± 0.10 †")),
    ),
)
SECTION = Section(title="Scores", slug="scores", grid=GRID, notes=("Mean ± std; p > 0.05.", ODD))


def test_markdown_escapes_its_own_sign() -> None:
    lines = formats.table_markdown(GRID).splitlines()
    assert lines[0] == "| init | task: AUC |"
    assert lines[1] == "| --- | --- |"
    assert lines[2] == "| imagenet@resnet50+chestxray14 | **81.70 ± 0.15** |"
    assert r"\|" in lines[3]
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines)


def test_csv_is_read_back() -> None:
    rows = list(csv.reader(io.StringIO(formats.table_csv(GRID))))
    assert rows == [list(GRID.header), *([entry.text for entry in row] for row in GRID.rows)]


def test_records_keep_empty_apart_from_false_and_zero() -> None:
    text = formats.records_csv([{"a": None, "b": False, "c": 0.0, "d": 1e-20}])
    assert text == "a,b,c,d\n,false,0.0,1e-20\n"
    assert formats.records_csv([]) == "\n"


def test_tex_uses_booktabs_and_escapes_commands() -> None:
    text = formats.table_tex(SECTION, GRID, ["Synthetic."])
    assert r"\toprule" in text
    assert r"\bottomrule" in text
    assert r"\textbf{81.70 $\pm$ 0.15}" in text
    assert r"a\_b \& c \#1 \{x\}" in text
    assert r"50 \%" in text
    assert text.index("Synthetic.") < text.index("Mean")


def test_a_character_that_latex_lacks_is_spelt_out() -> None:
    assert formats.tex("“q” 中") == "``q'' ?"


def test_tex_compiles(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine: the LaTeX is checked as text alone")
    compile_tex(tmp_path, formats.table_tex(SECTION, GRID, ["Synthetic."]))


def compile_tex(folder: Path, *tables: str) -> None:
    """Compiles tables in a small article; every complaint of LaTeX fails."""
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    (folder / "table.tex").write_text(head + "\n".join(tables) + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-2000:]
