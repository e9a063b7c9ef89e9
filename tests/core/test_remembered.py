from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medtransfer.core import remembered


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "medtransfer"


def slow_answer(asked: list[str]) -> Callable[[str], int]:
    @remembered.remembered("numpy")
    def length(word: str) -> int:
        asked.append(word)
        if not word:
            raise ValueError("no word")
        return len(word)

    return length


def test_an_answer_is_asked_for_once_across_processes(cache: Path) -> None:
    asked: list[str] = []
    assert [slow_answer(asked)("abc"), slow_answer(asked)("abc"), slow_answer(asked)("ab")] == [3, 3, 2]
    assert asked == ["abc", "ab"]
    assert len(list(cache.glob("*length-*.json"))) == 1


def test_another_version_of_the_library_is_asked_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    slow_answer(asked)("abc")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0")
    slow_answer(asked)("abc")
    assert asked == ["abc", "abc"]


def test_what_fails_is_not_kept(cache: Path) -> None:
    asked: list[str] = []
    for _ in range(2):
        with pytest.raises(ValueError, match="no word"):
            slow_answer(asked)("")
    assert asked == ["", ""]


@pytest.mark.parametrize("content", ["", "[", "[1]", "null"])
def test_a_damaged_file_only_costs_time(cache: Path, content: str) -> None:
    asked: list[str] = []
    slow_answer(asked)("abc")
    [path] = cache.glob("*.json")
    path.write_text(content)
    assert slow_answer(asked)("abc") == 3
    assert asked == ["abc", "abc"]


def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path) -> None:
    cache.parent.joinpath("medtransfer").write_text("a file in the folder's place")
    assert slow_answer([])("abc") == 3
