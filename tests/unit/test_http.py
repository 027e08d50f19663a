"""What is sent to a server of models, and what is read of its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnicore.config import Profile
from omnicore.config.recipe import Recipe
from omnicore.data.prompts import prompt_parts
from omnicore.engines import openai
from omnicore.engines.base import Batch, Reply, Request, Sampling
from omnicore.errors import DataError, EngineError
from omnicore.media.data_url import image_from_url, video_from_url, wav_from_base64
from omnicore.media.images import load_image
from omnicore.media.read import read_media, with_common_fps
from omnicore.media.sounds import load_audio
from omnicore.media.video import load_video
from omnicore.schema import Query, View
from omnicore.storage.files import read_jsonl
from tests.errors import refused
from tests.media_files import make_picture, make_tone, make_video, medium, number_shown
from tests.stub_server import MODEL, Answer, Stub, completion, error, last_text
from tests.unit.http_fixture import answers, batches, connect, replied, requests, short_waits

__all__ = ["short_waits"]


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global PromptReader

    from omnicore.engines.transformers import PromptReader


def test_request_holds_media_in_place_as_data_urls(prepared: Path, small_recipe: Recipe) -> None:
    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if len(q.media) == 2)
    shown = (*prompt_parts(query, View.omni, small_recipe.profile), query.media[0], "and again?")
    with Stub(lambda request: completion("x")) as stub:
        engine = connect(stub, Profile(system="Be brief."))
        answers(engine, [Batch([Request(shown, prepared)], 7)], Sampling(0.5, 9, logprobs=True))
        (sent,) = stub.requests
    content = sent["messages"][1].pop("content")
    assert sent == {
        "model": MODEL,
        "temperature": 0.5,
        "top_p": 1,
        "max_tokens": 9,
        "logprobs": True,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user"}],
        "seed": 7,
    }
    kinds = {"image": "image_url", "audio": "input_audio"}
    assert [item["type"] for item in content] == [
        "text" if isinstance(part, str) else kinds[part.kind] for part in shown
    ]
    for item, part in zip(content, shown, strict=True):
        if isinstance(part, str):
            assert item == {"type": "text", "text": part}
        elif part.kind == "image":
            assert image_from_url(item["image_url"]["url"]) == load_image(prepared / part.uri)
        else:
            assert item["input_audio"]["format"] == "wav"
            assert np.array_equal(
                wav_from_base64(item["input_audio"]["data"]), load_audio(prepared / part.uri)
            )


def test_video_is_sent_as_frames_and_its_sound_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    path = make_video(tmp_path / "a.mp4", 4.0, 12, (96, 64), 440.0)
    clip = medium(path, "video", 1.0, 3.0), medium(path, "audio", 1.0, 3.0)
    with Stub(lambda request: completion("x")) as stub:
        answers(
            connect(stub, Profile(fps=2.0)), [Batch([Request((*clip, "What barks?"), tmp_path)], 7)]
        )
        (sent,) = stub.requests
    video, sound, text = sent["messages"][0]["content"]
    frames = video_from_url(video["video_url"]["url"]).frames
    assert [number_shown(frame) for frame in frames] == [
        number_shown(f) for f in load_video(path, 2.0, 32, 1.0, 3.0).frames
    ]
    assert len(frames) > 2
    assert sent["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}
    assert sent["mm_processor_kwargs"] == {"fps": 2.0}
    assert (
        np.abs(wav_from_base64(sound["input_audio"]["data"]) - load_audio(path, 1.0, 3.0)).max()
        < 1e-4
    )
    assert (sound["input_audio"]["format"], text) == (
        "wav",
        {"type": "text", "text": "What barks?"},
    )


def test_videos_of_different_rates_are_refused() -> None:
    slow, fast, text = (
        openai.MessageItem(b"{}", 0.5),
        openai.MessageItem(b"{}", 2.0),
        openai.text_item("?"),
    )
    with refused(DataError, "request-mixed-video-rates") as caught:
        openai.request_tail([slow, text, fast], 1)
    assert "0.5 and 2 frames a second" in str(caught.value)
    assert json.loads(b'[{"a":[{"b":[' + openai.request_tail([slow, text, slow], 1) + b"]")[0][
        "mm_processor_kwargs"
    ] == {"fps": 0.5}


@pytest.mark.parametrize(
    ("lengths", "fps", "frames"),
    [
        ((2.0,), 2.0, [4]),  # alone, as the profile says
        ((2.0, 2.0), 2.0, [4, 4]),
        (
            (2.0, 6.0),
            4 / 6,
            [2, 4],
        ),  # the longer one is shown in max_frames, and the other at its rate
        ((7.0, 3.0, 2.0), 4 / 7, [4, 2, 2]),
    ],
)
def test_videos_of_a_request_share_one_frame_rate(
    tmp_path: Path, encoder: Any, lengths: tuple[float, ...], fps: float, frames: list[int]
) -> None:
    profile = Profile(fps=2.0, max_frames=4)
    made = [
        make_video(tmp_path / f"{number}.mp4", seconds, 8, (64, 48), None)
        for number, seconds in enumerate(lengths)
    ]
    media = [medium(path, "video") for path in made]
    request = Request((*media, "?"), tmp_path)
    shown = with_common_fps(request.parts, tmp_path, profile)
    videos = [read_media(each, tmp_path, shown) for each in media]
    assert [len(video.frames) for video in videos] == frames
    assert {video.fps for video in videos} == {videos[0].fps}
    assert videos[0].fps == pytest.approx(fps)
    # The same in this process, by headers alone, and over HTTP.
    reader = PromptReader(encoder, profile)
    assert [reader._media_size(each, tmp_path, shown)[0] for each in media] == frames
    with Stub() as stub:
        (reply,) = answers(connect(stub, profile), [Batch([request], 0)])
        assert reply.error == ""
        assert stub.requests[0]["mm_processor_kwargs"] == {"fps": videos[0].fps}
        items = stub.requests[0]["messages"][0]["content"]
        assert [item["video_url"]["url"].count(",") for item in items[:-1]] == frames


def test_without_a_system_prompt_none_is_sent(prepared: Path) -> None:
    with Stub() as stub:
        answers(connect(stub), batches(1))
        assert [m["role"] for m in stub.requests[0]["messages"]] == ["user"]
        assert "logprobs" not in stub.requests[0]


def test_medium_is_encoded_once_for_all_draws(
    prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = openai.media_item, []
    monkeypatch.setattr(
        openai, "media_item", lambda media, *args: (encoded.append(media), encode(media, *args))[1]
    )
    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if len(q.media) == 2)
    shown = prompt_parts(query, View.omni, small_recipe.profile)
    with Stub() as stub:
        answers(connect(stub), [Batch([Request(shown, prepared)], seed) for seed in range(8)])
        assert len({json.dumps(request["messages"]) for request in stub.requests}) == 1
    assert sorted(encoded, key=str) == sorted(query.media, key=str)


def test_encoded_media_are_cached_up_to_a_limit(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [q.media[0] for q in read_jsonl(prepared / "queries.jsonl", Query) if q.media]
    media = list(dict.fromkeys(media))[:6]
    monkeypatch.setattr(
        openai,
        "media_item",
        lambda medium, *args: (encoded.append(medium), openai.MessageItem(b"{}".rjust(100)))[1],
    )
    monkeypatch.setattr(openai, "CACHE_BYTES", 300)
    encoded: list[Any] = []
    with Stub(lambda request: completion("x")) as stub:
        engine = connect(stub, concurrency=1)
        answers(
            engine,
            [
                Batch([Request((m, "?"), prepared)], i)
                for i, m in enumerate([*media, media[-1], media[0]])
            ],
        )
    assert encoded == [*media, media[0]]  # the last is still there, the first has made room


BAD = {
    "lost": (lambda path: path.unlink(), "is missing: run prepare again, or copy the {kind} there"),
    "changed": (
        lambda path: path.write_bytes(b"another"),
        "is not the file that was prepared, its sha256 differs: run prepare",
    ),
    "refused by the disk": (
        lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),
        "cannot be read: Input/output error",
    ),
}


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_unreadable_medium_is_error_of_its_query(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    spoil: Callable[[Path], Any],
    message: str,
) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        openai, "CACHE_BYTES", 0
    )  # each medium makes room for the next, the unreadable one as well
    path = {
        "image": lambda: make_picture(tmp_path / "bad.png", "red", (32, 32)),
        "audio": lambda: make_tone(tmp_path / "bad.wav", 300, 0.5),
        "video": lambda: make_video(tmp_path / "bad.mp4", 1.0, 8, (64, 48), None),
    }[kind]()
    good = medium(make_picture(tmp_path / "good.png", "blue", (32, 32)), "image")
    bad = medium(path, kind)
    spoil(path)
    asked = [
        Batch([Request((shown, "?"), tmp_path)], seed)
        for seed, shown in enumerate([good, bad, bad, good, bad], 1)
    ]
    with Stub(lambda request: completion("x")) as stub:
        replies = answers(connect(stub, concurrency=2), asked)
        assert stub.asked == 2
    assert [reply.text for reply in replies] == ["x", "", "", "x", ""]
    assert all(
        reply.error.startswith(f"{path.name} {message.format(kind=kind)}")
        for reply in replies
        if not reply.text
    )


def tokens(*logprobs: float) -> dict[str, Any]:
    return {
        "content": [
            {"token": "t", "logprob": p, "bytes": None, "top_logprobs": []} for p in logprobs
        ]
    }


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (completion("B"), replied("B")),
        (completion(""), replied("")),
        (completion("B", reasoning_content="It barks."), replied("B", "It barks.")),
        (completion("B", reasoning="It barks."), replied("B", "It barks.")),
        (
            completion(None, reasoning_content="It ba", finish_reason="length"),
            replied("", "It ba", truncated=True),
        ),
        (completion("<answer>B", finish_reason="length"), replied("<answer>B", truncated=True)),
        (completion("<think>It barks.</think>\n\nB"), replied("B", "It barks.")),
        (completion("It barks.\n</think>\nB"), replied("B", "It barks.")),
        (
            completion("<think>It ba", finish_reason="length"),
            replied("<think>It ba", truncated=True),
        ),
        (completion("B <think>or C</think>"), replied("B <think>or C</think>")),
        (completion("<think>a</think>B", reasoning="b"), replied("<think>a</think>B", "b")),
        (completion("B", logprobs=tokens(-0.5, 0.0)), replied("B", logprobs=(-0.5, 0.0))),
        (completion("B", model=f"{MODEL}-2026-11-05"), replied("B")),
        (completion("B", model=""), replied("B")),
        (completion("B", model=None), replied("B")),
        (completion("B", usage=None), Reply("B")),
        (completion("B", usage={"prompt_tokens": 9, "completion_tokens": None}), Reply("B")),
        (Answer(b"\xef\xbb\xbf" + completion("B").body), replied("B")),
    ],
)
def test_replies_are_parsed(sent: Answer, read: Reply) -> None:
    with Stub(lambda request: sent) as stub:
        assert answers(connect(stub), batches(1)) == [read]


def test_model_may_reply_under_its_other_name() -> None:
    two = Answer(
        json.dumps(
            {
                "data": [
                    {"id": "first", "root": "/m"},
                    {"id": "second", "root": "/m"},
                    {"id": "other", "root": "/o"},
                ]
            }
        ).encode()
    )
    with Stub(lambda request: completion("B", model="first"), models=two) as stub:
        assert answers(connect(stub, model="second"), batches(1)) == [replied("B")]
        with refused(EngineError, "engine-wrong-model") as caught:
            answers(connect(stub, model="other"), batches(1))
        assert "'other' and 'first' replied" in str(caught.value)


def test_models_may_begin_with_a_byte_order_mark() -> None:
    listed = Answer(b"\xef\xbb\xbf" + json.dumps({"data": [{"id": MODEL, "root": None}]}).encode())
    with Stub(lambda request: completion("B"), models=listed) as stub:
        assert answers(connect(stub), batches(1)) == [replied("B")]


def test_api_key_is_sent_if_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    with Stub() as stub:
        answers(connect(stub, key_env="STUB_KEY"), batches(1))
        answers(connect(stub, key_env="STUB_KEY_2"), batches(1))
        assert ["authorization: bearer secret" in headers.lower() for headers in stub.headers] == [
            True,
            False,
        ]


# How it is asked


def test_concurrency_limits_requests_and_connections() -> None:
    with Stub(service=0.01) as stub:
        assert not any(reply.error for reply in answers(connect(stub, concurrency=5), batches(60)))
        assert stub.most == 5
        assert stub.connections <= 5 + 1  # and one that asked for /models


def test_finished_replies_are_yielded_before_the_rest() -> None:
    answered = threading.Event()

    def slow_first(request: dict[str, Any], seen: int) -> Answer | None:
        if not last_text(request).startswith("question 0 "):
            return None
        return (
            completion("late", reasoning="x")
            if answered.is_set()
            else error(503, "wait", Retry_After="1")
        )

    order = []
    with Stub(fault=slow_first) as stub:
        for finished in connect(stub, retries=6).answer(batches(8), Sampling(0, 1)):
            order += [index for index, _ in finished]
            if len(order) == 7:
                answered.set()
    assert order[-1] == 0
    assert sorted(order) == list(range(8))


def test_closing_the_iterator_stops_the_requests() -> None:
    with Stub(service=0.01) as stub:
        for _ in connect(stub, concurrency=2).answer(batches(1000), Sampling(0, 1)):
            break
        asked = len(stub.requests)
        assert asked < 500
        answers(connect(stub), batches(1))
        assert len(stub.requests) == asked + 1


def test_replies_keep_the_order_of_their_batch() -> None:
    with Stub(lambda request: completion(last_text(request))) as stub:
        replies = answers(connect(stub), [Batch(requests(3), 1), Batch(requests(2), 2)])
    assert [reply.text.split()[1] for reply in replies] == ["0", "1", "2", "0", "1"]
