"""What `pip install medtransfer` gives outside of a clone: the wheel, and a place without the extras."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from medtransfer.cli import init_study
from medtransfer.core import extras

LACKING = sorted({module for modules in extras.EXTRAS.values() for module in modules})
BASE = """
import importlib.machinery, json, sys
lacking, find = set(json.loads(sys.argv[1])), importlib.machinery.PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.partition(".")[0] in lacking else find(name, path, target)
importlib.machinery.PathFinder.find_spec = without
import medtransfer as mt
from pathlib import Path
from medtransfer.cli.main import run
words = "compare --csv scores.csv --metric test_auc --val val_auc --margin 0.01 --out out"
run(words.split(), Path.cwd())
comparison = mt.compare("scores.csv", metric="test_auc", val="val_auc", margin=0.01)
said = {"answer": comparison.answer, "html": len(comparison.to_html()), "tasks": len(mt.tasks()), "refused": []}
comparison.figure("forest").savefig("forest.png")
for words in (["finetune", "random"], ["services"]):
    try:
        run(words, Path.cwd())
    except mt.UserError as error:
        said["refused"].append(str(error))
run(["init", "study"], Path.cwd())
run(["inits", "imagenet@resnet50"], Path("study"))
print("SAID", json.dumps(said))
"""


def test_anybodys_scores_are_compared_without_the_extras(tmp_path: Path, top: Path) -> None:
    shutil.copyfile(top / "examples/scores.csv", tmp_path / "scores.csv")
    command = [sys.executable, "-c", BASE, json.dumps(LACKING)]
    environment = {**os.environ, "PYTHONPATH": str(top / "src")}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.partition("SAID ")[2])
    assert said["answer"].startswith("Start from logistic: better than tree by more than 1 point; better than forest.")
    assert " ".join(said["answer"].split()) in " ".join(ended.stdout.split())
    assert said["answer"] in (tmp_path / "out/index.html").read_text()
    assert (tmp_path / "forest.png").stat().st_size > 1000
    assert said["tasks"] >= 7
    assert [line.partition(" needs")[0] for line in said["refused"]] == ["finetune", "services"]
    assert [re.findall(r"medtransfer\[(\w+)\]", line) for line in said["refused"]] == [["train"], ["services"]]
    assert "resnet50: 24M parameters, 224 pixels" in ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(top)]
    subprocess.run(words, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_files_of_a_study_and_no_tests(wheel: Path, top: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        (described,) = (packed.read(name).decode() for name in names if name.endswith("dist-info/METADATA"))
    code = {
        str(path.relative_to(top / "src")) for path in (top / "src").rglob("*.*") if path.suffix in (".py", ".html")
    }
    assert code <= names
    assert {"medtransfer/py.typed", "medtransfer/weights/timm_index.json.gz"} <= names
    assert {name for name in names if name.startswith("medtransfer/study/")} == {
        f"medtransfer/study/{name}" for name in init_study.FILES
    }
    assert not [name for name in names if re.search(r"tests/|test_|\.pyc$|/conftest|\.db$", name)]
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", described, re.MULTILINE)
    assert {"mlflow", "pandas", "matplotlib"} <= set(needed)
    assert not set(needed) & {"torch", "torchvision", "timm", "ray", "optuna", "dvc", "lightly", "psycopg"}


@pytest.mark.slow
def test_everything_runs_in_a_study_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """By DVC, MLflow and the command line, with no line of the clone: the wheel comes before it in Python's path."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "installed")
    kept = ("PATH", "HOME", "XDG_CACHE_HOME", "LANG")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": str(tmp_path / "installed"), "MLFLOW_DISABLE_TELEMETRY": "true", "DVC_NO_ANALYTICS": "true",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def call(*words: str, folder: Path) -> str:
        ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout + ended.stderr

    python = (sys.executable, "-m", "medtransfer")
    call(*python, "init", "s", folder=tmp_path)
    study = tmp_path / "s"
    where = call(sys.executable, "-c", "import medtransfer; print(medtransfer.__file__)", folder=study)
    assert where.startswith(str(tmp_path / "installed"))
    tree = yaml.safe_load((study / "params.yaml").read_text())
    tree["phantoms"] |= {"size": 40, "images": {"shenzhen": 40}}
    tree["tasks"]["shenzhen"] |= {"cache_size": 36, "image_size": 32}
    tree["classification"] |= {"max_epochs": 1}
    tree["benchmark"] |= {"inits": ["random", "imagenet"], "tasks": ["shenzhen"], "seeds": [0, 1]}
    tree["comparison"] |= {"resamples": 200}
    (study / "params.yaml").write_text(yaml.safe_dump(tree))
    call(*python, "phantoms", folder=study)
    assert "prepared shenzhen (synthetic)" in call(*python, "prepare", "shenzhen", folder=study)
    words = ("finetune", "--task", "shenzhen", "--init", "random", "--seed", "0")
    assert "0 finished before, 1 to do" in call(*python, *words, folder=study)

    first = call("dvc", "repro", folder=study)
    assert "4 runs: 1 finished before, 3 to do" in first
    page = study / "data/results/report/index.html"
    assert "Synthetic phantoms" in page.read_text()
    second = call("dvc", "repro", folder=study)
    assert "Stage 'benchmark@shenzhen' didn't change, skipping" in second
    page.unlink()
    call("mlflow", "run", ".", "--env-manager", "local", "-e", "compare", folder=study)
    assert page.is_file()
    assert "imagenet" in call(*python, "show", folder=study)

    # An upgrade: stages run, and what they did is found.
    (described,) = (tmp_path / "installed").glob("*.dist-info/METADATA")
    described.write_text(re.sub(r"(?m)^Version: .*", "Version: 99.0", described.read_text()))
    third = call("dvc", "repro", "benchmark", folder=study)
    assert "Running stage 'benchmark@shenzhen'" in third
    assert "4 runs: 4 finished before, 0 to do" in third
    assert "medtransfer 99.0" in (study / "data/version.txt").read_text()
