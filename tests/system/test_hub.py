"""Weights of a gated repository, from the command line to MLflow; the token is in nothing that is left of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from tests.support import fake_hub, fakes, workspace
from tests.support.fake_hub import TOKEN, Hub

NAME = "hf:lab/gated"
CARD = b"---\nlicense: mit\n---\n"
SECRETS = (TOKEN, "SIGNED", "hf_OFSOMEONEELSE")
"""the token, what signs addresses of the store, and a token that opens nothing"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = timm.create_model(fakes.BACKBONE, num_classes=0).state_dict()
    config = json.dumps({"architecture": fakes.BACKBONE, "pretrained_cfg": {}}).encode()
    with fake_hub.running() as running:
        files = {"model.safetensors": save(dict(state)), "config.json": config, "README.md": CARD}
        running.add("lab/gated", files, gated=True)
        yield running


def holding(secrets: tuple[str, ...], root: Path) -> list[Path]:
    """Lists the files that hold a secret."""
    wanted = [secret.encode() for secret in secrets]
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and any(one in path.read_bytes() or one in str(path).encode() for one in wanted)
    ]


@pytest.mark.slow
def test_a_token_is_in_nothing_that_is_printed_or_written(hub: Hub, top: Path, tmp_path: Path) -> None:
    root, home = tmp_path / "study", tmp_path / "home"
    root.mkdir()
    workspace.make(root, top, "shenzhen")
    said = []

    def verb(*words: str, **more: str) -> int:
        status, output = fake_hub.run(top, root, fake_hub.environment(hub, home, **more), *words)
        said.append(output)
        return status

    assert verb("weights", NAME) == 1
    assert verb("weights", NAME, HF_TOKEN="hf_OFSOMEONEELSE", HF_DEBUG="1") == 1
    hub.cuts = [1000]
    assert verb("--verbose", "weights", NAME, HF_TOKEN=TOKEN, HF_DEBUG="1") == 0, said[-1]
    assert "Trying to resume download" in said[-1]
    (home / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    hub.repositories["lab/gated"].push({})
    assert verb("finetune", NAME, "--task", "shenzhen", "--seed", "0", HF_DEBUG="1") == 0, said[-1]
    assert "by now" in said[-1]
    assert any(TOKEN in str(headers) for _, path, headers in hub.asked if path.startswith("/api"))
    (home / "token").unlink()
    assert not [secret for secret in SECRETS if secret in "".join(said)]
    assert holding(SECRETS, tmp_path) == []
    assert holding((NAME,), root / "mlruns") != []  # what was looked through is what was written
    assert b"lab/gated" in (root / "mlflow.db").read_bytes()


@pytest.mark.slow
def test_what_was_fetched_serves_another_workspace_without_a_network(hub: Hub, top: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for number in ("one", "two"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "params.yaml").write_text((top / "params.yaml").read_text())
    filled = fake_hub.environment(hub, home, HF_TOKEN=TOKEN)
    status, output = fake_hub.run(top, tmp_path / "one", filled, "weights", NAME)
    assert status == 0, output
    hub.asked.clear()
    offline = fake_hub.environment(hub, home, HF_HUB_OFFLINE="1")
    status, output = fake_hub.run(top, tmp_path / "two", offline, "weights", NAME)
    assert status == 0, output
    locks = [(tmp_path / number / "downloads.lock.json").read_text() for number in ("one", "two")]
    assert locks[0] == locks[1]
    assert hub.asked == []
    status, output = fake_hub.run(top, tmp_path / "two", {**offline, "HF_HOME": str(tmp_path)}, "weights", "hf:lab/x")
    assert (status, "HF_HUB_OFFLINE keeps the hub from being asked" in output) == (1, True)
