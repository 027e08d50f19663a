from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnicore.config import EngineConfig, Profile
from omnicore.dataurl import frames_from_url, from_data_url, from_wav
from omnicore.engines import client, http, open_engine
from omnicore.engines.base import Batch, Engine, Reply, Request, Sampling, ask
from omnicore.errors import DataError, EngineError
from omnicore.journal import Journal, read_jsonl
from omnicore.media import load_audio, load_image, load_video
from omnicore.prompts import parts
from omnicore.recipe import Recipe
from omnicore.schema import Query, View
from tests.media_files import make_video, medium, number_shown
from tests.stub_server import MODEL, Answer, Stub, completion, error, told

PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"
HTML = {"Content-Type": "text/html"}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


def connect(stub: Stub, profile: Profile | None = None, model: str = MODEL, **config: Any) -> Engine:
    return open_engine(
        EngineConfig(kind="http", url=stub.url, **{"retries": 2, "timeout": 5, **config}), model, profile or Profile()
    )


def requests(count: int) -> list[Request]:
    return [Request((f"question {i} dog cat owl fox",), Path()) for i in range(count)]


def batches(count: int) -> list[Batch]:
    return [Batch([request], seed) for seed, request in enumerate(requests(count))]


def answers(engine: Engine, asked: list[Batch], sampling: Sampling | None = None) -> list[Reply]:
    found = dict(pair for finished in engine.answer(asked, sampling or Sampling(1.0, 14)) for pair in finished)
    return [reply for index in range(len(asked)) for reply in found[index]]


def on(number: int, answer: Answer, times: int = 1000) -> Callable[[dict[str, Any], int], Answer | None]:
    """A fault in place of the first `times` answers to question `number`."""
    return lambda request, seen: answer if told(request).startswith(f"question {number} ") and seen < times else None


# What is sent and what is read


def test_a_request_holds_media_in_their_places_as_data_urls(prepared: Path, small_recipe: Recipe) -> None:
    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if len(q.media) == 2)
    shown = (*parts(query, View.omni, small_recipe.profile), query.media[0], "and again?")
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
    assert [item["type"] for item in content] == ["text" if isinstance(part, str) else kinds[part.kind] for part in shown]
    for item, part in zip(content, shown, strict=True):
        if isinstance(part, str):
            assert item == {"type": "text", "text": part}
        elif part.kind == "image":
            assert from_data_url(item["image_url"]["url"]) == load_image(prepared / part.uri)
        else:
            assert item["input_audio"]["format"] == "wav"
            assert np.array_equal(from_wav(item["input_audio"]["data"]), load_audio(prepared / part.uri))


def test_a_video_is_sent_as_frames_and_its_sound_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MEDIA_CACHE", str(tmp_path / "cache"))
    path = make_video(tmp_path / "a.mp4", 4.0, 12, (96, 64), 440.0)
    clip = medium(path, "video", 1.0, 3.0), medium(path, "audio", 1.0, 3.0)
    with Stub(lambda request: completion("x")) as stub:
        answers(connect(stub, Profile(fps=2.0)), [Batch([Request((*clip, "What barks?"), tmp_path)], 7)])
        (sent,) = stub.requests
    video, sound, text = sent["messages"][0]["content"]
    frames = frames_from_url(video["video_url"]["url"]).frames
    assert [number_shown(frame) for frame in frames] == [number_shown(f) for f in load_video(path, 2.0, 32, 1.0, 3.0).frames]
    assert len(frames) > 2
    assert sent["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 2.0}}
    assert np.abs(from_wav(sound["input_audio"]["data"]) - load_audio(path, 1.0, 3.0)).max() < 1e-4
    assert (sound["input_audio"]["format"], text) == ("wav", {"type": "text", "text": "What barks?"})


def test_without_a_system_prompt_none_is_sent(prepared: Path) -> None:
    with Stub() as stub:
        answers(connect(stub), batches(1))
        assert [m["role"] for m in stub.requests[0]["messages"]] == ["user"]
        assert "logprobs" not in stub.requests[0]


def test_a_medium_is_encoded_once_for_the_draws_of_its_query(
    prepared: Path, small_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = http.encoded, []
    monkeypatch.setattr(http, "encoded", lambda media, *args: (encoded.append(media), encode(media, *args))[1])
    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if len(q.media) == 2)
    shown = parts(query, View.omni, small_recipe.profile)
    with Stub() as stub:
        answers(connect(stub), [Batch([Request(shown, prepared)], seed) for seed in range(8)])
        assert len({json.dumps(request["messages"]) for request in stub.requests}) == 1
    assert sorted(encoded, key=str) == sorted(query.media, key=str)


def test_encoded_media_are_kept_up_to_a_bound(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = [q.media[0] for q in read_jsonl(prepared / "queries.jsonl", Query) if q.media]
    media = list(dict.fromkeys(media))[:6]
    monkeypatch.setattr(http, "encoded", lambda medium, *args: (encoded.append(medium), http.Item(b"{}".rjust(100)))[1])
    monkeypatch.setattr(http, "KEPT", 300)
    encoded: list[Any] = []
    with Stub(lambda request: completion("x")) as stub:
        engine = connect(stub, concurrency=1)
        answers(engine, [Batch([Request((m, "?"), prepared)], i) for i, m in enumerate([*media, media[-1], media[0]])])
    assert encoded == [*media, media[0]]  # the last is still there, the first has made room


def test_a_missing_medium_is_named_after_what_was_answered(prepared: Path) -> None:
    query = next(q for q in read_jsonl(prepared / "queries.jsonl", Query) if q.media)
    lost = query.media[0].model_copy(update={"uri": "media/gone.png", "sha256": "0" * 64})
    seen: list[int] = []
    with Stub() as stub:
        answered = connect(stub, concurrency=1).answer([*batches(3), Batch([Request((lost,), prepared)], 9)], Sampling(0, 1))
        with pytest.raises(DataError, match=r"media/gone\.png is missing"):
            seen.extend(index for finished in answered for index, _ in finished)
    assert seen == [0, 1, 2]


replied = partial(Reply, tokens=9)  # as many as the stub counts


def tokens(*logprobs: float) -> dict[str, Any]:
    return {"content": [{"token": "t", "logprob": p, "bytes": None, "top_logprobs": []} for p in logprobs]}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (completion("B"), replied("B")),
        (completion(""), replied("")),
        (completion("B", reasoning_content="It barks."), replied("B", "It barks.")),
        (completion("B", reasoning="It barks."), replied("B", "It barks.")),
        (completion(None, reasoning_content="It ba", finish_reason="length"), replied("", "It ba", truncated=True)),
        (completion("<answer>B", finish_reason="length"), replied("<answer>B", truncated=True)),
        (completion("<think>It barks.</think>\n\nB"), replied("B", "It barks.")),
        (completion("It barks.\n</think>\nB"), replied("B", "It barks.")),
        (completion("<think>It ba", finish_reason="length"), replied("<think>It ba", truncated=True)),
        (completion("B <think>or C</think>"), replied("B <think>or C</think>")),
        (completion("<think>a</think>B", reasoning="b"), replied("<think>a</think>B", "b")),
        (completion("B", logprobs=tokens(-0.5, 0.0)), replied("B", logprobs=(-0.5, 0.0))),
        (completion("B", model=f"{MODEL}-2026-11-05"), replied("B")),
        (completion("B", model=""), replied("B")),
        (completion("B", usage=None), Reply("B")),
    ],
)
def test_replies_are_read(sent: Answer, read: Reply) -> None:
    with Stub(lambda request: sent) as stub:
        assert answers(connect(stub), batches(1)) == [read]


def test_a_model_that_is_served_under_two_names_may_use_either() -> None:
    two = Answer(
        json.dumps(
            {"data": [{"id": "first", "root": "/m"}, {"id": "second", "root": "/m"}, {"id": "other", "root": "/o"}]}
        ).encode()
    )
    with Stub(lambda request: completion("B", model="first"), models=two) as stub:
        assert answers(connect(stub, model="second"), batches(1)) == [replied("B")]
        with pytest.raises(EngineError, match="asked for 'other' and answered by 'first'"):
            answers(connect(stub, model="other"), batches(1))


def test_the_key_is_sent_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    with Stub() as stub:
        answers(connect(stub, key_env="STUB_KEY"), batches(1))
        answers(connect(stub, key_env="STUB_KEY_2"), batches(1))
        assert ["authorization: bearer secret" in headers.lower() for headers in stub.headers] == [True, False]


# How it is asked


def test_requests_overlap_up_to_the_limit_over_pooled_connections() -> None:
    with Stub(service=0.01) as stub:
        assert not any(reply.error for reply in answers(connect(stub, concurrency=5), batches(60)))
        assert stub.most == 5
        assert stub.connections <= 5 + 1  # and one that asked for /models


def test_what_is_finished_is_given_before_the_rest_is() -> None:
    answered = threading.Event()

    def slow_first(request: dict[str, Any], seen: int) -> Answer | None:
        if not told(request).startswith("question 0 "):
            return None
        return completion("late", reasoning="x") if answered.is_set() else error(503, "wait", Retry_After="1")

    order = []
    with Stub(fault=slow_first) as stub:
        for finished in connect(stub, retries=6).answer(batches(8), Sampling(0, 1)):
            order += [index for index, _ in finished]
            if len(order) == 7:
                answered.set()
    assert order[-1] == 0
    assert sorted(order) == list(range(8))


def test_who_stops_listening_stops_the_asking() -> None:
    with Stub(service=0.01) as stub:
        for _ in connect(stub, concurrency=2).answer(batches(1000), Sampling(0, 1)):
            break
        asked = len(stub.requests)
        assert asked < 500
        answers(connect(stub), batches(1))
        assert len(stub.requests) == asked + 1


def test_a_batch_of_several_requests_is_answered_in_its_order() -> None:
    with Stub(lambda request: completion(told(request))) as stub:
        replies = answers(connect(stub), [Batch(requests(3), 1), Batch(requests(2), 2)])
    assert [reply.text.split()[1] for reply in replies] == ["0", "1", "2", "0", "1"]


# Faults

PASSING = {
    "429": error(429, "too many requests"),
    "500": error(500, "internal error"),
    "408": error(408, "timed out"),
    "html from a proxy": Answer(PAGE, 502, HTML),
    "html with 200": Answer(PAGE, 200, HTML),
    "reset": Answer(reset=True),
    "hang": Answer(hang=True),
    "half a json, cut": Answer(completion("<answer>dog</answer>").body, cut=True),
    "half a json, whole": Answer(completion("<answer>dog</answer>").body[:-20]),
    "an error in a 200": Answer(b'{"error": {"message": "worker died"}}'),
    "no choices": Answer(b'{"model": "stub", "choices": []}'),
    "abort": completion("<answer>dog</answer>", finish_reason="abort"),
    "not utf-8": Answer(b"\xff\xfe"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_leaves_no_trace(fault: Answer, tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": 3, "batch": 1, "label": "x"}
    with Stub() as stub:
        calm = list(ask(connect(stub), requests(12), Sampling(1, 9), journal=tmp_path / "a.journal", **how))
    with Stub(fault=on(5, fault, times=2)) as stub:
        shaken = list(ask(connect(stub, timeout=0.3), requests(12), Sampling(1, 9), journal=tmp_path / "b.journal", **how))
        assert sorted(stub.counts.values()) == [1] * 11 + [3]
    assert shaken == calm


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (PASSING["429"], r"HTTP 429: too many requests \(3 tries\)"),
        (PASSING["500"], r"HTTP 500: internal error \(3 tries\)"),
        (PASSING["html from a proxy"], r"HTTP 502: a page titled '502 Bad Gateway' \(3 tries\)"),
        (PASSING["html with 200"], r"no chat completion: a page titled '502 Bad Gateway'"),
        (PASSING["reset"], r"connection lost: .*\(3 tries\)"),
        (PASSING["hang"], r"no answer in 0\.3 s \(3 tries\)"),
        (PASSING["half a json, cut"], r"connection lost: .*\(3 tries\)"),
        (PASSING["half a json, whole"], r"no chat completion: .*\(3 tries\)"),
        (PASSING["an error in a 200"], r"no chat completion: worker died \(3 tries\)"),
        (PASSING["abort"], r"generation ended by 'abort' \(3 tries\)"),
        (error(429, "quota", Retry_After="3600"), r"HTTP 429: quota \(asks to wait 3600 s, longer than engine\.timeout\)"),
        (error(400, "image is broken"), r"^HTTP 400: image is broken$"),
        (Answer(b'{"object": "error", "message": "no audio here"}', 400), r"^HTTP 400: no audio here$"),
        (Answer(b'{"detail": [{"loc": ["body"]}]}', 422), r"^HTTP 422: .*body"),
        (Answer(b"", 413), r"^HTTP 413: nothing$"),
        (
            error(400, "This model's maximum context length is 1024 tokens. However, you requested 2048."),
            r"^the prompt is longer than the model's context \(HTTP 400: This model's maximum context length is 1024 tokens",
        ),
        (
            error(400, "The decoder prompt is longer than the maximum model length of 64."),
            r"^the prompt is longer than the model's context",
        ),
    ],
)
def test_a_fault_that_stays_is_an_error_and_never_an_answer(fault: Answer, says: str, tmp_path: Path) -> None:
    """Above `max_error_rate` the step fails and says which; below, the error stands in the reply's place and is asked again."""
    how: dict[str, Any] = {"seed": 3, "batch": 1, "label": "probe", "journal": tmp_path / "a.journal"}
    with Stub(fault=on(5, fault)) as stub:
        engine = connect(stub, timeout=0.3)
        with pytest.raises(EngineError, match=r"(?s)probe: 1 of 12 requests failed, more than the 5\.0%.*1 x " + says.strip("^$")):
            list(ask(engine, requests(12), Sampling(1, 9), max_error_rate=0.05, **how))
        replies = list(ask(engine, requests(12), Sampling(1, 9), max_error_rate=0.1, **how))
        assert [i for i, reply in enumerate(replies) if reply.error] == [5]
        assert replies[5] == Reply(error=replies[5].error)
        assert re.search(says, replies[5].error), replies[5].error
        stub.fault = lambda request, seen: None
        before = len(stub.requests)
        assert not any(reply.error for reply in ask(engine, requests(12), Sampling(1, 9), **how))
        assert len(stub.requests) == before + 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (error(401, "bad key"), r"/v1/chat/completions refuses the credentials \(HTTP 401: bad key\).*OMNI_API_KEY"),
        (Answer(PAGE, 403, HTML), r"refuses the credentials \(HTTP 403"),
        (error(404, "no such route"), r"is not there \(HTTP 404: no such route\): engine\.url .* ends in /v1"),
        (Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}), r"is not there \(HTTP 302"),
        (completion("<answer>dog</answer>", model="another"), r"asked for 'stub' and answered by 'another'"),
    ],
)
def test_what_no_retry_can_mend_ends_the_step_at_once(fault: Answer, says: str, tmp_path: Path) -> None:
    with Stub(fault=on(5, fault)) as stub:
        engine = connect(stub, concurrency=1)
        with pytest.raises(EngineError, match=says):
            ask(
                engine, requests(12), Sampling(1, 9), seed=0, batch=1, journal=tmp_path / "a.journal", label="x", max_error_rate=0.9
            )
        assert len(stub.requests) == 6
    assert len(list(Journal(tmp_path / "a.journal"))) == 5


@pytest.mark.parametrize(
    ("models", "path", "says"),
    [
        (
            None,
            "/v2",
            r"/v2/models is not there \(HTTP 404: Not Found\): engine\.url is the base of the API and mostly ends in /v1",
        ),
        (error(401, "who are you"), "/v1", r"refuses the credentials .*OMNI_API_KEY"),
        (Answer(b'{"data": [{"id": "a"}, {"id": "b"}]}'), "/v1", r"has no model 'stub'; it has 'a', 'b'"),
        (Answer(PAGE, 200, HTML), "/v1", r"/models lists no models"),
        (Answer(PAGE, 503, HTML), "/v1", r"does not answer \(HTTP 503: a page titled '502 Bad Gateway'; asked 1 times"),
    ],
)
def test_a_wrong_server_is_refused_before_anything_is_asked(models: Answer | None, path: str, says: str) -> None:
    with Stub(models=models) as stub, pytest.raises(EngineError, match=says):
        open_engine(EngineConfig(kind="http", url=stub.url.replace("/v1", path)), MODEL, Profile())


def test_no_server_is_refused_at_once() -> None:
    with Stub() as stub:
        pass
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:\d+/v1 does not answer \(connection lost: .*start the server"):
        connect(stub)
    with pytest.raises(EngineError, match=r"is no address"):
        open_engine(EngineConfig(kind="http", url="http://127.0.0.1:port/v1"), MODEL, Profile())


def test_a_model_that_goes_is_missed_by_name() -> None:
    with Stub(fault=on(2, error(404, "The model `stub` does not exist."))) as stub:
        engine = connect(stub)
        stub.models = Answer(b'{"data": [{"id": "newer"}]}')
        with pytest.raises(EngineError, match=r"has no model 'stub'; it has 'newer'"):
            answers(engine, batches(5))


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with Stub(fault=on(2, Answer(reset=True))) as stub:
        engine = connect(stub, concurrency=1)
        answered = engine.answer(batches(5), Sampling(0, 1))
        stub.fault = lambda request, seen: setattr(stub, "models", error(503, "loading", Retry_After="3600")) or Answer(reset=True)
        with pytest.raises(EngineError, match=r"does not answer \(HTTP 503: loading; asked 1 times"):
            list(answered)


def test_retry_after_is_honoured_and_the_wait_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(fault=on(0, error(429, "slow down", Retry_After="1"), times=1)) as stub:
        assert not answers(connect(stub), batches(1))[0].error
        first, second = stub.times[0]
    assert second - first >= 1
    monkeypatch.setattr(client, "FIRST_WAIT", 0.5)
    waits = [[client._wait(tries) for _ in range(200)] for tries in (1, 2, 3, 20)]
    assert [(min(w) >= half, max(w) <= 3 * half, len(set(w)) > 100) for w, half in zip(waits, (0.25, 0.5, 1, 30), strict=True)] == [
        (True, True, True)
    ] * 4


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e8, 1e10),
        ("Sat, 01 Jan 2000 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, low: float, high: float) -> None:
    assert low <= client._after({"Retry-After": value}) <= high


def test_a_slow_server_is_waited_for() -> None:
    slow = Answer(completion("late").body, delay=0.4)
    with Stub(lambda request: slow) as stub:
        assert answers(connect(stub), batches(4)) == [replied("late")] * 4
        assert set(stub.counts.values()) == {1}


def test_a_server_that_dies_and_returns_is_waited_for_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.05)
    with Stub(service=0.01) as stub:
        calm = answers(connect(stub), batches(200))
    stub = Stub(service=0.01)
    stub.start()
    engine, replies, died = connect(stub, retries=8, concurrency=16), {}, False
    for finished in engine.answer(batches(200), Sampling(1.0, 14)):
        replies |= dict(finished)
        if not died and len(replies) > 40:
            died = True
            stub.stop()
            back = threading.Timer(0.5, stub.start)
            back.start()
    back.join()
    stub.stop()
    assert [replies[i] for i in range(200)] == [[reply] for reply in calm]


def test_a_dead_server_ends_the_step_and_loses_nothing(tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": 3, "batch": 1, "label": "x", "journal": tmp_path / "a.journal", "max_error_rate": 0.5}
    with Stub() as stub:
        calm = list(ask(connect(stub), requests(200), Sampling(1, 9), **{**how, "journal": tmp_path / "calm.journal"}))
    stub = Stub(service=0.01)
    stub.start()
    engine = connect(stub, concurrency=16)

    class Killing:
        name = "killing"

        def answer(self, asked: Any, sampling: Sampling) -> Iterator[Any]:
            for count, finished in enumerate(engine.answer(asked, sampling)):
                if count == 1:
                    stub.stop()
                yield finished

    with pytest.raises(
        EngineError, match=r"does not answer \(connection lost: .*asked 3 times .*the same command asks only the rest"
    ):
        ask(Killing(), requests(200), Sampling(1, 9), **how)
    kept = list(Journal(tmp_path / "a.journal"))
    assert 0 < len(kept) < 200
    before = sum(stub.counts.values())
    with stub:
        assert list(ask(connect(stub), requests(200), Sampling(1, 9), **how)) == calm
    assert sum(stub.counts.values()) - before == 200 - len(kept)
    assert max(stub.counts.values()) <= 2


def test_a_server_that_fails_every_question_but_lists_models_is_laid_to_the_questions(tmp_path: Path) -> None:
    with (
        Stub(lambda request: error(500, "out of memory")) as stub,
        pytest.raises(EngineError, match=r"x: \d of 5 requests failed.*HTTP 500: out of memory"),
    ):
        ask(connect(stub, concurrency=1), requests(5), Sampling(1, 9), seed=0, batch=1, journal=tmp_path / "a.journal", label="x")
