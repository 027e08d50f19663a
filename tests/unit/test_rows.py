"""Rows: lengths from headers, prompts when they are due, and rows that are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnicore.config import Profile, SftConfig
from omnicore.engines.base import Request
from omnicore.errors import DataError
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.schema import Media, Query
from omnicore.storage.digests import sha256_file
from omnicore.storage.files import read_jsonl, write_jsonl
from tests.errors import refused
from tests.media_files import make_video


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global filter_by_length, PromptReader, read_rows, TrainingRow

    from omnicore.engines.transformers import PromptReader
    from omnicore.training.rows import TrainingRow, filter_by_length, read_rows


def picture(path: Path, width: int, height: int, turned: bool = False) -> None:
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    )
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image.save(path, exif=exif)


def sound(path: Path, seconds: float, rate: int = SAMPLE_RATE) -> None:
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, round(seconds * rate)), rate)


def medium(path: Path, kind: Any, **clip: float) -> Media:
    return Media(kind=kind, uri=path.name, sha256=sha256_file(path), **clip)


@pytest.mark.parametrize(
    ("name", "make", "clip"),
    [
        ("small.png", lambda p: picture(p, 28, 28), {}),
        ("odd.png", lambda p: picture(p, 301, 173), {}),
        ("turned.jpg", lambda p: picture(p, 420, 173, turned=True), {}),
        ("large.png", lambda p: picture(p, 2500, 1700), {}),
        ("short.wav", lambda p: sound(p, 0.4), {}),
        ("odd.wav", lambda p: sound(p, 0.40007), {}),
        ("music.flac", lambda p: sound(p, 0.7, 44100), {}),
        ("song.mp3", lambda p: sound(p, 0.9, 22050), {}),
        ("clip.wav", lambda p: sound(p, 3.0, 8000), {"start": 0.5, "end": 1.17}),
        ("over.wav", lambda p: sound(p, 1.0), {"start": 0.4, "end": 1.5}),
    ],
)
def test_length_by_the_header_is_the_prompts(
    encoder: Any, tmp_path: Path, name: str, make: Any, clip: dict[str, float]
) -> None:
    make(tmp_path / name)
    kind = "audio" if Path(name).suffix in (".wav", ".flac", ".mp3") else "image"
    reader = PromptReader(encoder, Profile())
    request = Request((medium(tmp_path / name, kind, **clip), "Which digit?"), tmp_path)
    assert reader.length(request) == len(reader.prompt(request).ids)
    assert reader.seconds(request.parts[0], tmp_path) == (  # type: ignore[arg-type]
        pytest.approx(len(reader_wave(request)) / SAMPLE_RATE, abs=1e-3) if kind == "audio" else 0
    )


def reader_wave(request: Request) -> Any:
    from omnicore.media.read import read_media

    return read_media(request.parts[0], request.root, Profile())  # type: ignore[arg-type]


def test_a_videos_length_is_known_without_torchvision(encoder: Any, tmp_path: Path) -> None:
    """4 s at 2 a second: 8 frames, two a step of the grid; 168 x 112, which upstream's least size
    for videos makes larger."""
    path = make_video(tmp_path / "film.mp4", 4.0, 10, (168, 112), None)
    reader = PromptReader(encoder, Profile(fps=2.0))
    request = Request((medium(path, "video"), "Which digit?"), tmp_path)
    blank = reader.length(Request(("Which digit?",), tmp_path))
    high, wide = (
        280,
        392,
    )  # the least area of 100,352 pixels at the same proportions, in steps of 28
    assert reader.length(request) - blank == 4 * (high // 28) * (wide // 28) + 2


@pytest.fixture
def rows(encoder: Any, tmp_path: Path) -> list[TrainingRow]:
    sound(tmp_path / "a.wav", 0.5)
    sound(tmp_path / "long.wav", 1.5)  # the embedded models hear one second
    picture(tmp_path / "p.png", 28, 28)
    media = {
        "heard": (medium(tmp_path / "a.wav", "audio"),),
        "unheard": (medium(tmp_path / "long.wav", "audio"),),
        "seen": (medium(tmp_path / "p.png", "image"),),
        "wordy": (),
    }
    queries = [
        Query(
            benchmark="b",
            id=name,
            type="t",
            question="Which digit? " * (20 if name == "wordy" else 1),
            options=("1", "2"),
            answer="1",
            media=found,
            cluster="c",
            target="<answer>1</answer>",
        )
        for name, found in media.items()
    ]
    write_jsonl(tmp_path / "rows.jsonl", queries)
    return read_rows(
        tmp_path / "rows.jsonl", PromptReader(encoder, Profile()), Profile(), targets=True
    )


@pytest.mark.parametrize(
    ("given", "room", "kept"),
    [
        (
            {},
            0,
            ["heard", "seen", "wordy"],
        ),  # what the model would hear a part of is too long whatever the context
        ({"max_length": 40}, 0, ["heard", "seen"]),
        ({"max_length": 60}, 33, ["seen"]),
        ({"max_length": 10_000}, 0, ["heard", "seen", "wordy"]),
    ],
)
def test_overlong_rows_are_listed_and_left_out(
    rows: list[TrainingRow], tmp_path: Path, given: dict[str, Any], room: int, kept: list[str]
) -> None:
    config = SftConfig(data="rows.jsonl", max_too_long=0.8, **given)
    found = filter_by_length(rows, config, tmp_path, context=2048, room=room)
    assert [row.query.id for row in found] == kept
    listed = read_jsonl(tmp_path / "too_long.jsonl", dict)
    assert {one["id"] for one in listed} == {row.query.id for row in rows} - set(kept)
    by_id = {row.query.id: row for row in rows}
    assert all(one["tokens"] == by_id[one["id"]].tokens + room for one in listed)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_too_many_overlong_rows_fail_the_step(
    rows: list[TrainingRow], tmp_path: Path, share: float
) -> None:
    with refused(DataError, "training-rows-too-long", field="max_too_long") as caught:
        filter_by_length(rows, SftConfig(data="x", max_too_long=share), tmp_path, context=2048)
    assert str(caught.value).startswith("1 of 4 rows are too long for a context of 2048 tokens")
    assert [one["id"] for one in read_jsonl(tmp_path / "too_long.jsonl", dict)] == ["unheard"]


def test_unreadable_medium_names_line_and_row(rows: list[TrainingRow], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"^b/heard: .*a\.wav is not the file that was prepared"):
        _ = rows[0].prompt
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: b/heard: .*a\.wav is not a readable sound"
    ):
        read_rows(
            tmp_path / "rows.jsonl",
            PromptReader(rows[0].reader.encoder, Profile()),
            Profile(),
            targets=True,
        )


def test_media_are_processed_once_when_due(
    rows: list[TrainingRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    process = PromptReader._process

    def counted(self: PromptReader, decoded: Any) -> Any:
        done.append(type(decoded).__name__)
        return process(self, decoded)

    monkeypatch.setattr(PromptReader, "_process", counted)
    assert not done
    first = [row.prompt for row in rows if row.query.id in ("heard", "seen")]
    assert done == ["ndarray", "Image"]
    again = [row.prompt for row in rows if row.query.id in ("heard", "seen")]
    assert len(done) == 2
    assert [p.ids for p in first] == [p.ids for p in again]
    assert all(a.media[0] is b.media[0] for a, b in zip(first, again, strict=True))


def test_a_row_counts_its_reply(rows: list[TrainingRow], encoder: Any) -> None:
    for row in rows:
        if row.query.id != "unheard":
            assert row.tokens == len(row.prompt.ids) + len(encoder.reply_ids("<answer>1</answer>"))
