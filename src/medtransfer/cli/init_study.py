"""The verb init: a study outside of a clone. Its files are those of the repository's top, which the wheel holds too."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from medtransfer.cli.verb import verb
from medtransfer.core import extras
from medtransfer.core.errors import UserError, some

log = logging.getLogger("medtransfer")

FILES = (
    ".dvc/.gitignore", ".dvc/config", ".dvc/plots/curves.json", ".dvcignore", ".gitignore", "MLproject",
    "data/.gitignore", "data/raw/.gitignore", "dvc.yaml", "params.yaml", "presets/paper.yaml",
    "presets/paper_results.csv", "python_env.yaml",
)  # fmt: skip
"""files of the repository's top that a study is made of"""
PRESETS = {"demo": "params.yaml", "paper": "presets/paper.yaml"}
VERSION = "data/version.txt"
"""what stages depend on where there is no source code: the installed version"""
STAGE = f"""stages:
  version:
    cmd: python -m medtransfer --version > {VERSION}
    always_changed: true
    outs:
      - {VERSION}

"""
WHERE = (
    ("Meanings, units and limits: src/medtransfer/params/.", "Meanings, units and limits: medtransfer/params/."),
    ("Chosen on simulations and phantoms: docs/how-to/recommend.md says which.", "Chosen on simulations and phantoms."),
    (
        "# The code that a stage depends on is all that its verb imports; `python -m tests.stages` writes it anew.\n",
        f"# {VERSION} names the installed medtransfer: after an upgrade stages run again, and find finished runs.\n",
    ),
)  # fmt: skip
"""what comments name of a clone -> what they say elsewhere"""
RAW = """# Your images

A folder for each dataset, which is only read:

- your own: `data/raw/<name>/` with images, a table of them and a `task.yaml`;
- an open one: `medtransfer fetch pneumoniamnist` downloads it;
- one that you asked its owner for: in its official layout. `medtransfer tasks` says where to get which.

Then `medtransfer prepare <name>`, and the name into `benchmark.tasks` of `params.yaml`.
"""


@verb(study=False)
def init(root: Path, folder: str, preset: str = "demo") -> None:
    """Make a folder from which everything runs, outside of a clone too: params.yaml, MLproject, dvc.yaml, data.

    Args:
        root: what the folder is relative to.
        folder: to make; one with other files in it may be there.
        preset: demo: the small benchmark on synthetic images; paper: the published protocol.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    target = root / folder
    texts = study(preset, in_git=_in_git(target), version=metadata.version("medtransfer"))
    write(target, texts)
    log.info("made %s: params.yaml, dvc.yaml, MLproject, presets, data. Next:", target)
    log.info("  cd %s", shlex.quote(str(folder)))
    if not extras.installed("torch"):
        log.info("  pip install 'medtransfer[train]'   what training needs")
    log.info("  dvc repro                          what params.yaml says: data, weights, runs, comparison, report")
    log.info("  medtransfer show                   its answer")
    log.info("Your own images: %s", Path(folder) / "data/raw/README.md")


def source() -> Path:
    """Finds the files that a study is made of: in the installed package, or at the top of the clone."""
    package = Path(__file__).parents[1]
    return package / "study" if (package / "study").is_dir() else package.parents[1]


def study(preset: str, *, in_git: bool, version: str) -> dict[str, str]:
    """Words the files of a study: name -> text.

    Args:
        preset: which parameters it begins with.
        in_git: whether it lies in a repository of git; else DVC is told that there is none.
        version: of medtransfer, which an environment made by `mlflow run` installs.
    """
    top = source()
    texts = {name: (top / name).read_text() for name in FILES}
    texts["params.yaml"] = texts[PRESETS[preset]]
    for name in ("params.yaml", "presets/paper.yaml", "dvc.yaml"):
        for old, new in WHERE:
            texts[name] = texts[name].replace(old, new)
    for name in ("MLproject", "dvc.yaml"):  # whose commands run the code of a clone
        texts[name] = texts[name].replace("PYTHONPATH=src ", "")
    texts["dvc.yaml"] = re.sub(
        r"(?m)^( +- )src/medtransfer.*\n(?:\1src/medtransfer.*\n)*", rf"\1{VERSION}\n", texts["dvc.yaml"]
    )
    texts["dvc.yaml"] = texts["dvc.yaml"].replace("stages:\n", STAGE, 1)
    texts["python_env.yaml"] = texts["python_env.yaml"].replace(
        "-r requirements.lock", f"medtransfer[train]=={version}"
    )
    texts["data/.gitignore"] += f"/{Path(VERSION).name}\n"
    texts["data/raw/.gitignore"] += "!README.md\n"
    texts["data/raw/README.md"] = RAW
    if not in_git:
        texts[".dvc/config"] = texts[".dvc/config"].replace("[core]\n", "[core]\n    no_scm = true\n", 1)
    return texts


def _in_git(folder: Path) -> bool:
    return any((above / ".git").exists() for above in (folder.resolve(), *folder.resolve().parents))


def write(target: Path, texts: Mapping[str, str]) -> None:
    """Writes all files of a study or none.

    Raises:
        UserError: it would overwrite a file, or the folder cannot be written.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"looked for a folder {target}, found a file; choose another name")
    taken = [name for name, text in texts.items() if _other(target / name, text)]
    if taken:
        raise UserError(f"{target} holds files that a study would overwrite {some(taken)}; choose another folder")
    beside = target.resolve().with_name(f".{target.resolve().name}.{os.getpid()}.tmp")
    placed: list[Path] = []
    try:
        for name, text in texts.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_text(text)
        if not target.exists():
            beside.rename(target.resolve())
            return
        for name in texts:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            placed += [] if (target / name).exists() else [target / name]
            (beside / name).replace(target / name)
    except OSError as error:
        for path in placed:
            path.unlink(missing_ok=True)
        raise UserError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _other(path: Path, text: str) -> bool:
    """Says whether something else is where a text shall be."""
    return path.exists() and not (path.is_file() and path.read_bytes() == text.encode())
