from __future__ import annotations

import logging
import re
import time
from types import SimpleNamespace

import pytest

from medtransfer.core import progress


def test_a_bar_says_what_work_is_at_and_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 112.0, 170.0])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.parts("intervals over patients") as tell:
        (_, first), (_, second) = progress.each(tell, {"shenzhen": 1, "chestxray14": 3})
        first("reading 2 runs", 0.5)
        progress.between(second, 0.2, 1.0, "bootstrap of 14 labels")("320 of 640 resamples", 0.5)
        time.sleep(0.25)  # a bar is drawn ten times a second
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "chestxray14: bootstrap of 14 labels: 320 of 640 resamples" in shown
    assert "70 %; about 30 s left" in shown  # a quarter, and .2 + .8 / 2 of three; in 70 s
    assert "intervals over patients ━━━━━━━━━━ 100 %" in shown


def test_elsewhere_a_line_is_written_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0, 320.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    caplog.set_level(logging.INFO, "medtransfer")
    with progress.parts("images of other tasks") as tell:
        for share in (0.1, 0.2, 0.3, 0.4):
            tell("networks of drive", share)
    assert caplog.messages == [
        "images of other tasks: networks of drive, 20 %; about 3 min left",
        "images of other tasks: networks of drive, 40 %; about 8 min left",
    ]


def test_what_has_nothing_to_do_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.parts("images of other tasks"), progress.bar("protocols and fractions", 0, "cells"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "share", "words"),
    [(10.0, 0.0, ""), (10.0, 1.0, ""), (10.0, 0.2, "; about 40 s left"), (60.0, 0.25, "; about 3 min left")],
)
def test_time_left(seconds: float, share: float, words: str) -> None:
    assert progress.time_left(seconds, share) == words
