import io
import json
import sys
import time

import pytest

from omnicore.progress import format_figures, track


def test_figures_are_told_in_one_line():
    assert (
        format_figures({"queries": 1600, "raw": 0.61234, "model": "embedded:x"})
        == "queries 1600  raw 0.612  model embedded:x"
    )
    assert format_figures({}) == ""


def test_without_a_terminal_progress_is_one_line_at_the_end(monkeypatch, capsys):
    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    with track(10, "probe text_only") as progress:
        progress.advance(4, loss=0.5)
        progress.advance(6, loss=0.25)
        assert capsys.readouterr() == ("", "")
    assert capsys.readouterr() == ("", "probe text_only: 10 of 10  loss 0.25\n")


def test_failed_work_does_not_say_that_it_ended(monkeypatch, capsys):
    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    with pytest.raises(RuntimeError, match="fell"), track(10, "sft"):
        raise RuntimeError("fell over")
    assert capsys.readouterr().err == ""


def test_progress_file_is_throttled_with_start_and_end(monkeypatch, tmp_path):
    path, clock = tmp_path / "progress.json", 100.0
    monkeypatch.setenv("OMNI_PROGRESS", str(path))
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    read = lambda: json.loads(path.read_text())  # noqa: E731
    with track(10, "rlvr") as progress:
        assert read() == {"label": "rlvr", "done": 0, "total": 10, "facts": {}}
        progress.advance(reward=0.25)
        assert read()["done"] == 0
        clock += 0.25
        progress.advance(reward=0.5)
        assert read() == {"label": "rlvr", "done": 2, "total": 10, "facts": {"reward": 0.5}}
        progress.advance(8, loss=float("nan"))
        assert read() == {
            "label": "rlvr",
            "done": 10,
            "total": 10,
            "facts": {"reward": 0.5, "loss": None},
        }
    assert [entry.name for entry in tmp_path.iterdir()] == ["progress.json"]


def test_work_does_not_fail_for_its_progress_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OMNI_PROGRESS", str(tmp_path / "absent" / "progress.json"))
    with track(1, "sft") as progress:
        progress.advance()
    assert progress.done == 1
    assert "sft: 1 of 1" in capsys.readouterr().err


def test_a_terminal_shows_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("OMNI_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with track(10, "evaluate") as progress:
        progress.advance(10, loss=0.5)
    shown = sys.stderr.getvalue()
    assert "evaluate" in shown
    assert "10/10" in shown
    assert "loss 0.5" in shown
