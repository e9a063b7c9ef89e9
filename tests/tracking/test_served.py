from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from medtransfer.cli.main import run
from medtransfer.core.errors import UserError
from medtransfer.tracking import served


def test_a_database_is_served_on_loopback_and_its_address_is_in_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://me:hushhush@db/mlflow")
    began: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: began.append(call))
    served.serve(tmp_path)
    [(program, words, environment)] = began
    assert program == sys.executable
    assert words[1:] == ["-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", "5000"]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://me:hushhush@db/mlflow"


def test_what_a_server_has_is_not_served_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5500")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:5500 serves this study's runs already"):
        served.serve(tmp_path)


def test_serve_is_yes_or_no(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text((top / "params.yaml").read_text())
    with pytest.raises(UserError, match="serve must be yes or no, got 'on'"):
        run(["ui", "--serve", "on"], tmp_path)
