from __future__ import annotations

import getpass
import socket

import pytest

from medtransfer.packs import private


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    private._names.cache_clear()
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu07.ward.example")
    monkeypatch.setattr(socket, "getfqdn", lambda: "gpu07.ward.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/alice/study/weights.pth", "weights.pth"),
        ("read from ~/study/weights.pth.", "read from weights.pth."),
        (r"C:\Users\alice\weights.pth", "weights.pth"),
        ("see data/raw/mine/task.yaml, 1/2", "see data/raw/mine/task.yaml, 1/2"),
        ("https://user:secret99@files.example/w.pth?token=abcdef", "https://files.example/w.pth"),
        ("CUDA error on gpu07, as alice said", "CUDA error on ***, as *** said"),
        ("gpu07.ward.example:1234", "***:1234"),
        ("tuning/shenzhen/file:/home/alice/w.pth@resnet50", "tuning/shenzhen/file:w.pth@resnet50"),
        ("alice", "alice"),  # a whole value may be a name of ours
        ("malice", "malice"),
    ],
)
def test_paths_hosts_users_and_passwords_are_left_out_of_texts(text: str, left: str) -> None:
    assert private.clean([{"a": text}]) == [{"a": left}]


@pytest.mark.parametrize(
    ("init", "name"),
    [
        ("file:/home/alice/w@2.pth@resnet50+chexpert", "file:w@2.pth@resnet50+chexpert"),
        ("file:https://files.ward.example/a/w.pth@resnet50", "file:w.pth@resnet50"),
        ("file:w.pth@resnet50", "file:w.pth@resnet50"),
        ("imagenet@resnet50+chestxray14", "imagenet@resnet50+chestxray14"),
        ("timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ("hf:org/repo/w.bin@resnet50", "hf:org/repo/w.bin@resnet50"),
    ],
)
def test_a_file_is_called_by_its_last_part(init: str, name: str) -> None:
    assert private.name_of(init) == name
    assert private.clean({init: init}) == {name: name}
