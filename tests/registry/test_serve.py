"""Fine-tuned models out of the registry: served, trained further, exported. Two tiny networks are really trained."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medtransfer import params as parameters
from medtransfer import tracking
from medtransfer.comparison.selection import collect
from medtransfer.core.errors import UserError
from medtransfer.data.catalog import TASKS
from medtransfer.registry import aliases, network, onnx, serve
from medtransfer.registry import register as registering
from medtransfer.registry.candidate import Subject
from medtransfer.registry.gate import Candidate, Selected
from medtransfer.results import kept_network
from medtransfer.runs import benchmark, best_networks
from medtransfer.runs.run import plan
from medtransfer.training import objectives
from tests.support import workspace

LABEL = {"shenzhen": "Tuberculosis", "montgomery": "Lung"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, top: Path) -> Iterator[Path]:
    """A folder with one finished run of a classifier, which is tested with ten crops, and one of a segmenter."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patched.delenv("MLFLOW_RUN_ID", raising=False)
        patched.chdir(folder)
        workspace.make(folder, top, "shenzhen", "montgomery")
        here = parameters.load(folder / "params.yaml")
        planned = plan(here, folder, ["random"], list(LABEL), [0])
        benchmark.run_all(planned)
        for task in LABEL:
            runs = [run for run in planned if run.task == task]
            benchmark.write_results(runs, folder / "data/results/cells" / task)
            best_networks.write(runs, task, folder)
            (cell,) = (c for c in collect(folder / "data/results/cells", folder) if c.task == task)
            said = network.spec(cell, TASKS[task], *runs[0].normalization, "")
            file = kept_network.path(folder, task, runs[0].init.slug, "fixed")
            network.write(folder / "networks" / task, said, file)
        yield folder


def predictions(root: Path, task: str) -> pd.DataFrame:
    (path,) = (root / "data/results/cells" / task).glob("*/predictions.parquet")
    return pd.read_parquet(path)


def images(root: Path, task: str, ids: list[str]) -> list[bytes]:
    files = {path.stem: path for path in (root / "data/phantoms" / task).rglob("CXR_png/*.png")}
    return [files[name].read_bytes() for name in ids]


def answer(root: Path, task: str, given: list[Any]) -> pd.DataFrame:
    folder = root / "networks" / task
    return serve.answer(network.load(folder), network.read(folder), given)


def mask(text: str) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) > 0


def test_probabilities_are_those_of_the_run(root: Path) -> None:
    wanted = predictions(root, "shenzhen")
    found = answer(root, "shenzhen", images(root, "shenzhen", wanted["id"].tolist()))
    assert list(found.columns) == ["Tuberculosis"]
    np.testing.assert_allclose(found["Tuberculosis"], wanted["probability.Tuberculosis"], atol=1e-6)


def test_masks_are_those_of_the_run_at_the_images_own_size(root: Path) -> None:
    wanted = predictions(root, "montgomery")
    given = images(root, "montgomery", wanted["id"].tolist())
    found = answer(root, "montgomery", given)
    masks = [mask(text) for text in found["Lung"]]
    assert [int(one.sum()) for one in masks] == wanted["native_predicted"].tolist()
    assert [one.shape[::-1] for one in masks] == [Image.open(io.BytesIO(one)).size for one in given]


def test_an_image_is_the_same_as_bytes_text_array_list_and_dicom(root: Path) -> None:
    (png,) = images(root, "shenzhen", predictions(root, "shenzhen")["id"].tolist()[:1])
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    given = [png, base64.b64encode(png).decode(), pixels, pixels.tolist(), dicom(pixels)]
    found = answer(root, "shenzhen", given)["Tuberculosis"]
    assert found.nunique() == 1


def dicom(pixels: NDArray[np.uint8]) -> bytes:
    """Writes an 8-bit gray DICOM file."""
    said = {
        "Rows": pixels.shape[0], "Columns": pixels.shape[1], "SamplesPerPixel": 1, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "PhotometricInterpretation": "MONOCHROME2",
        "PixelData": pixels.tobytes(), "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SOPInstanceUID": "1.2.3",
    }  # fmt: skip
    dataset = Dataset()
    for name, value in said.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b"no image", "image 0 cannot be decoded: its format is none of those"),
        ("no base64!", "image 0 is text, but not base64"),
        (7, "image 0 must be bytes of a file"),
        (np.zeros((2, 2, 2, 2)), "image 0 cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused(root: Path, given: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        answer(root, "shenzhen", [given])


def test_no_image_no_answer(root: Path) -> None:
    assert answer(root, "shenzhen", []).to_dict("list") == {"Tuberculosis": []}


def test_lists_of_a_task_with_windows_are_values_in_their_unit(root: Path) -> None:
    folder = root / "networks/shenzhen"
    said = dataclasses.replace(network.read(folder), windows=((40.0, 400.0),))
    values = np.linspace(-200, 255, 64).reshape(8, 8).round().astype(int)
    model = network.load(folder)
    one, two = (serve.answer(model, said, [given]) for given in (values.tolist(), values.astype(np.float32)))
    assert one.equals(two)
    with pytest.raises(UserError, match="physical unit"):
        serve.answer(model, said, images(root, "shenzhen", predictions(root, "shenzhen")["id"].tolist()[:1]))


def test_a_promoted_model_can_be_trained_further(root: Path) -> None:
    folder = root / "networks/shenzhen"
    model, said = network.load(folder).train(), network.read(folder)
    goal = network.objective(said, torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    goal.loss(model(torch.randn(4, 3, 32, 32)), torch.ones(4, 1)).backward()  # type: ignore[no-untyped-call]  # torch's own stub is untyped
    optimizer.step()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in model.named_parameters() if "head" in key)
    assert isinstance(goal, objectives.ClassificationObjective)


def register(root: Path, task: str) -> str:
    """Registers a network as `promote` does, without the decision; returns its URI."""
    client = tracking.connect(root)
    name = f"medtransfer-{task}"
    if not aliases.owned(client, name):
        client.create_registered_model(name, {aliases.TAG: "model"})
        with registering.decided(root, name, name, {"verb": "promote"}, {}, None) as run:
            run_id = run.run_id
        selected = Selected(scope=task, init="random", tasks=(task,), marks=(), gaps=())
        candidate = Candidate(model=name, key="k", parameters=1)
        said = network.read(root / "networks" / task)
        subject = Subject(
            selected=selected, candidate=candidate, init=plan_init(root), facts={}, origin=(), spec=said,
            file=root / "networks" / task / network.WEIGHTS,
        )  # fmt: skip
        folder = root / "registering" / task
        version = registering._model(client, subject, run_id, {"key": "k"}, folder, root)
        client.set_registered_model_alias(name, "champion", version.version)
    return f"models:/{name}@champion"


def plan_init(root: Path) -> Any:
    return plan(parameters.load(root / "params.yaml"), root, ["random"], ["shenzhen"], [0])[0].init


@pytest.mark.slow
def test_a_registered_model_answers_through_mlflow(root: Path) -> None:
    model = mlflow.pyfunc.load_model(register(root, "shenzhen"))
    wanted = predictions(root, "shenzhen")
    given = pd.DataFrame({"image": images(root, "shenzhen", wanted["id"].tolist())})
    np.testing.assert_allclose(model.predict(given)["Tuberculosis"], wanted["probability.Tuberculosis"], atol=1e-6)
    assert model.metadata.signature.inputs.input_names() == ["image"]
    assert model.metadata.signature.outputs.input_names() == ["Tuberculosis"]
    assert model.predict(model.input_example)["Tuberculosis"].between(0, 1).all()
    with pytest.raises(MlflowException, match=r"^image 1 is text, but not base64"):
        model.predict(pd.DataFrame({"image": [given["image"][0], "no base64!"]}))


def test_nothing_in_a_registered_model_is_pickled(root: Path) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(register(root, "shenzhen")))
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pt2", ".pth", ".pickle", ".joblib"))]


@pytest.mark.slow
def test_a_fresh_process_without_medtransfer_predicts_with_it(root: Path) -> None:
    wanted = predictions(root, "shenzhen")
    texts = [base64.b64encode(one).decode() for one in images(root, "shenzhen", wanted["id"].tolist())]
    (root / "in.json").write_text(json.dumps({"dataframe_records": [{"image": text} for text in texts]}))
    words = ["models", "predict", "-m", register(root, "shenzhen"), "-i", "in.json", "-o", "out.json", "-t", "json"]
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-m", "mlflow", *words, "--env-manager", "local"], cwd=root, env=environment, check=True
    )
    said = json.loads((root / "out.json").read_text())["predictions"]
    np.testing.assert_allclose(
        [one["Tuberculosis"] for one in said], wanted["probability.Tuberculosis"], atol=1e-6
    )  # fmt: skip


@pytest.mark.slow
def test_onnx_gives_the_same_outputs_or_is_refused(root: Path) -> None:
    register(root, "shenzhen")
    words = onnx.export("medtransfer-shenzhen", "champion", root / "exports", root)
    assert "its outputs differ from torch's by" in words
    said = json.loads((root / "exports/medtransfer-shenzhen-v1.json").read_text())
    assert (said["labels"], said["image_size"]) == (["Tuberculosis"], 32)
    runtime, path = onnx._libraries(), root / "exports/medtransfer-shenzhen-v1.onnx"
    session = runtime.InferenceSession(str(path))
    assert session.run(None, {"image": np.zeros((5, 3, 32, 32), np.float32)})[0].shape == (5, 1)
    other = network.load(root / "networks/shenzhen")
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    with pytest.raises(UserError, match="differs from torch's"):
        onnx.check(other, 32, path, runtime)


def test_a_missing_library_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        onnx._libraries()


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looked for model\.json"):
        network.load(tmp_path)
