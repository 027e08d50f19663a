"""A benchmark with bad videos from its files to its scores: prepare names them, and what breaks
later costs one query."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.data.benchmarks.records import Problem
from omnicore.errors import DataError, EngineError
from omnicore.runtime.run import run_step
from omnicore.schema import Query
from omnicore.storage.files import read_json, read_jsonl
from tests.errors import refused
from tests.media_files import SOUND_RATE, make_sound_track, make_video, tone, write_video
from tests.stub_server import MODEL, Stub


def half(path: Path) -> None:
    write_video(
        path,
        [i / 8 for i in range(65)],
        (64, 48),
        tone(440, 8.0, SOUND_RATE),
        options={"movflags": "faststart"},
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "mute": (
        lambda path: make_video(path, 1.0, 8, (64, 48), None),
        "audio Videos/mute/mute_video.mp4 has no audio track",
    ),
    "heard": (make_sound_track, "video Videos/heard/heard_video.mp4 has no video track"),
    "half": (half, "video Videos/half/half_video.mp4 is damaged or truncated after"),
    "text": (
        lambda path: path.write_text("not found"),
        "video Videos/text/text_video.mp4 is not a readable video",
    ),
    "zero": (
        lambda path: path.touch(),
        "video Videos/zero/zero_video.mp4 is not a readable video: it is empty",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six good videos and the bad ones, in the form of Daily-Omni, one question each."""
    root = tmp_path / "Daily-Omni"
    makers = {
        f"good{i}": lambda path, i=i: make_video(path, 1.0, 8, (64, 48), 300.0 + 20 * i)
        for i in range(6)
    }
    for name, make in {**makers, **{name: make for name, (make, _) in BAD.items()}}.items():
        path = root / "Videos" / name / f"{name}_video.mp4"
        path.parent.mkdir(parents=True)
        make(path)
    items = [
        {
            "Question": f"What barks in {video.name}?",
            "Choice": ["A. dog", "B. cat", "C. owl", "D. fox"],
            "Answer": "A",
            "video_id": video.name,
            "Type": "Reasoning",
            "video_duration": "30s",
        }
        for video in sorted((root / "Videos").iterdir())
    ]
    (root / "qa.json").write_text("[\n" + ",\n".join(map(json.dumps, items)) + "\n]\n")
    return root


def test_unreadable_videos_are_listed(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"

    def step(name: str, output: str, *sets: str, **inputs: str) -> dict[str, Any]:
        engines = [
            f"{section}engine={json.dumps({'kind': 'http', 'url': stub.url})}"
            for section in ("", "probe.")
        ]
        settings = [
            "profile.style=value",
            "profile.instruction=",
            f"model={MODEL}",
            f"probe.model={MODEL}",
            "probe.draws.text_only=0",
            *engines,
        ]
        settings += [
            f"prepare.sources.daily_omni={json.dumps(str(folder))}",
            "prepare.max_refused=0.5",
            *sets,
        ]
        recipe = load_recipe("qwen3-vl-audit", settings)
        return run_step(
            name, recipe, {role: out / place for role, place in inputs.items()}, out / output
        )["summary"]

    with Stub() as stub:
        with refused(DataError, "benchmark-too-many-refused") as caught:
            step("prepare", "strict", "prepare.max_refused=0.01")
        assert "Daily-Omni: 5 of 11 items cannot be read" in str(caught.value)
        assert all(message in str(caught.value) for _, message in BAD.values())
        assert stub.pings == 0

        prepared = step("prepare", "prepare")
        assert (prepared["queries"], prepared["refused"]) == (6, 5)
        problems = {
            problem.id: problem
            for problem in read_jsonl(out / "prepare" / "problems.jsonl", Problem)
        }
        assert {name.removesuffix("-0") for name in problems} == set(BAD)
        for name, (_, message) in BAD.items():
            assert problems[f"{name}-0"].message.startswith(message)
            assert (problems[f"{name}-0"].file, problems[f"{name}-0"].field) == ("qa.json", "media")

        assert step("probe", "probe", queries="prepare")["errors"] == 0
        step("clean", "clean", queries="prepare", draws="probe")
        whole = step("evaluate", "whole", queries="prepare", manifest="clean")
        assert (whole["queries"], whole["errors"]) == (6, 0)

        queries = {
            query.id: query for query in read_jsonl(out / "prepare" / "queries.jsonl", Query)
        }
        lost = queries["good3-0"].media[0].uri
        (out / "prepare" / lost).unlink()
        named = (
            rf"{lost} is missing: run prepare again, or copy the video there \(daily_omni/good3-0\)"
        )
        with pytest.raises(
            EngineError,
            match=rf"evaluate: [12] of 12 requests failed.*{named}.*engine\.max_error_rate",
        ):
            step("evaluate", "part", queries="prepare", manifest="clean")

        capsys.readouterr()
        part = step(
            "evaluate", "part", "engine.max_error_rate=0.2", queries="prepare", manifest="clean"
        )
        errors = read_jsonl(out / "part" / "errors.jsonl", dict)
        assert {(error["benchmark"], error["id"]) for error in errors} == {
            ("daily_omni", "good3-0")
        }
        assert all(error["error"].startswith(f"{lost} is missing") for error in errors)
        assert part["errors"] == part["errors_daily_omni"] == len(errors)
        assert (
            f"{len(errors)} of {part['asked']} requests failed and are not scored (daily_omni"
            in capsys.readouterr().err
        )
        scores = read_json(out / "part" / "scores.json")
        counts = scores["by_benchmark"]["daily_omni"]["counts"]["raw"]
        assert (counts["queries"], counts["errors"]) == (6, 1)
        assert scores["raw"]["micro"]["n"] == 5

        step("clean", "later", queries="prepare", draws="probe")
        step("report", "report", queries="prepare", audit="clean", draws="probe")
        assert f"{lost}" in (out / "report" / "report.html").read_text()
