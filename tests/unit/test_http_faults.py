"""Faults of a server: those that pass leave no trace, those that stay are errors and never
answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omnicore.config import EngineConfig, Profile
from omnicore.engines import client, open_engine
from omnicore.engines.base import Reply, Sampling, run_requests
from omnicore.errors import EngineError
from omnicore.storage.journal import Journal
from tests.errors import refused
from tests.stub_server import MODEL, Answer, Stub, completion, error
from tests.unit.http_fixture import (
    HTML,
    PAGE,
    answers,
    batches,
    connect,
    on,
    replied,
    requests,
    short_waits,
)

__all__ = ["short_waits"]

MISSING = {
    "type": "missing",
    "loc": ("body", "messages", 0),
    "msg": "Field 'x' required",
    "input": {"data": "QUJD" * 99},
}
SAMPLES = [i / 7 - 50 for i in range(700)]
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
def test_temporary_fault_does_not_change_the_replies(fault: Answer, tmp_path: Path) -> None:
    how: dict[str, Any] = {"seed": 3, "batch": 1, "label": "x"}
    with Stub() as stub:
        calm = list(
            run_requests(
                connect(stub), requests(12), Sampling(1, 9), journal=tmp_path / "a.journal", **how
            )
        )
    with Stub(fault=on(5, fault, times=2)) as stub:
        shaken = list(
            run_requests(
                connect(stub, timeout=0.3),
                requests(12),
                Sampling(1, 9),
                journal=tmp_path / "b.journal",
                **how,
            )
        )
        assert sorted(stub.counts.values()) == [1] * 11 + [3]
    assert shaken == calm


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (PASSING["429"], r"HTTP 429: too many requests \(3 tries\)"),
        (PASSING["500"], r"HTTP 500: internal error \(3 tries\)"),
        (PASSING["html from a proxy"], r"HTTP 502: a page titled '502 Bad Gateway' \(3 tries\)"),
        (PASSING["html with 200"], r"not a chat completion: a page titled '502 Bad Gateway'"),
        (PASSING["reset"], r"connection lost: .*\(3 tries\)"),
        (PASSING["hang"], r"no answer in 0\.3 s \(3 tries\)"),
        (PASSING["half a json, cut"], r"connection lost: .*\(3 tries\)"),
        (PASSING["half a json, whole"], r"not a chat completion: .*\(3 tries\)"),
        (PASSING["an error in a 200"], r"not a chat completion: worker died \(3 tries\)"),
        (PASSING["abort"], r"generation ended by 'abort' \(3 tries\)"),
        (
            error(429, "quota", Retry_After="3600"),
            r"HTTP 429: quota \(asks to wait 3600 s, longer than engine\.timeout\)",
        ),
        (error(400, "image is broken"), r"^HTTP 400: image is broken$"),
        (
            Answer(b'{"object": "error", "message": "no audio here"}', 400),
            r"^HTTP 400: no audio here$",
        ),
        (Answer(b'{"detail": [{"loc": ["body"]}]}', 422), r"^HTTP 422: .*body"),
        (
            Answer(json.dumps({"detail": [MISSING] * 40}).encode(), 422),
            r"^HTTP 422: body\.messages\.0: Field 'x' required$",
        ),
        (error(400, str([MISSING] * 40)), r"^HTTP 400: body\.messages\.0: Field 'x' required$"),
        (
            error(400, f"array({SAMPLES}, dtype=float32) is too short"),
            r"^HTTP 400: array\(\[\.\.\.\], dtype=float32\) is too short$",
        ),
        (error(400, f"bad {'QUJD' * 9000} picture"), r"^HTTP 400: bad \.\.\. picture$"),
        (
            error(400, "Why: " + "so it " * 900 + "is."),
            r"^HTTP 400: Why: so it .{100,150} \.\.\. .{100,150}it is\.$",
        ),
        (Answer(b"", 413), r"^HTTP 413: nothing$"),
        (
            error(
                400,
                "This model's maximum context length is 1024 tokens. However, you requested 2048.",
            ),
            (
                r"^the prompt is longer than the model's context \(HTTP 400: This model's maximum"
                r" context length is 1024 tokens"
            ),
        ),
        (
            error(400, "The decoder prompt is longer than the maximum model length of 64."),
            r"^the prompt is longer than the model's context",
        ),
    ],
)
def test_lasting_fault_is_an_error_and_never_an_answer(
    fault: Answer, says: str, tmp_path: Path
) -> None:
    """Above `max_error_rate` the step fails and says which; below, the error stands in the reply's
    place and is asked again."""
    how: dict[str, Any] = {
        "seed": 3,
        "batch": 1,
        "label": "probe",
        "journal": tmp_path / "a.journal",
    }
    with Stub(fault=on(5, fault)) as stub:
        engine = connect(stub, timeout=0.3)
        with refused(EngineError, "engine-error-rate") as caught:
            list(run_requests(engine, requests(12), Sampling(1, 9), max_error_rate=0.05, **how))
        assert "probe: 1 of 12 requests failed, more than the 5.0%" in str(caught.value)
        assert re.search(f"1 x {says.strip('^$')}", str(caught.value), re.DOTALL)
        replies = list(
            run_requests(engine, requests(12), Sampling(1, 9), max_error_rate=0.1, **how)
        )
        assert [i for i, reply in enumerate(replies) if reply.error] == [5]
        assert replies[5] == Reply(error=replies[5].error)
        assert re.search(says, replies[5].error), replies[5].error
        stub.fault = lambda request, seen: None
        before = len(stub.requests)
        assert not any(
            reply.error for reply in run_requests(engine, requests(12), Sampling(1, 9), **how)
        )
        assert len(stub.requests) == before + 1


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (
            error(401, "bad key"),
            "engine-credentials-refused",
            ["/v1/chat/completions", "HTTP 401: bad key", "OMNI_API_KEY"],
        ),
        (Answer(PAGE, 403, HTML), "engine-credentials-refused", ["HTTP 403"]),
        (
            error(404, "no such route"),
            "engine-url-not-found",
            ["HTTP 404: no such route", "ends in /v1"],
        ),
        (
            Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}),
            "engine-url-not-found",
            ["HTTP 302"],
        ),
        (
            completion("<answer>dog</answer>", model="another"),
            "engine-wrong-model",
            ["'stub' and 'another' replied"],
        ),
    ],
)
def test_permanent_failure_ends_the_step_at_once(
    fault: Answer, code: str, words: list[str], tmp_path: Path
) -> None:
    with Stub(fault=on(5, fault)) as stub:
        engine = connect(stub, concurrency=1)
        with refused(EngineError, code) as caught:
            run_requests(
                engine,
                requests(12),
                Sampling(1, 9),
                seed=0,
                batch=1,
                journal=tmp_path / "a.journal",
                label="x",
                max_error_rate=0.9,
            )
        assert len(stub.requests) == 6
    assert [word for word in words if word not in str(caught.value)] == []
    assert len(list(Journal(tmp_path / "a.journal"))) == 5


@pytest.mark.parametrize(
    ("models", "path", "code", "words"),
    [
        (None, "/v2", "engine-url-not-found", ["/v2/models", "HTTP 404: Not Found", "in /v1"]),
        (error(401, "who are you"), "/v1", "engine-credentials-refused", ["OMNI_API_KEY"]),
        (
            Answer(b'{"data": [{"id": "a"}, {"id": "b"}]}'),
            "/v1",
            "engine-model-unknown",
            ["no model 'stub'; it has 'a', 'b'"],
        ),
        (Answer(PAGE, 200, HTML), "/v1", "engine-url-not-openai", ["/v1/models"]),
        (
            Answer(PAGE, 503, HTML),
            "/v1",
            "engine-unreachable",
            ["HTTP 503: a page titled '502 Bad Gateway'; tried 1 times"],
        ),
    ],
)
def test_wrong_server_is_refused_before_any_request(
    models: Answer | None, path: str, code: str, words: list[str]
) -> None:
    with Stub(models=models) as stub, refused(EngineError, code) as caught:
        open_engine(EngineConfig(kind="http", url=stub.url.replace("/v1", path)), MODEL, Profile())
    assert [word for word in words if word not in str(caught.value)] == []


def test_missing_server_is_refused_at_once() -> None:
    with Stub() as stub:
        pass
    with refused(EngineError, "engine-unreachable", field="engine.url") as caught:
        connect(stub)
    assert f"{stub.url} does not answer (connection lost: " in str(caught.value)
    with refused(EngineError, "engine-url-invalid", field="engine.url"):
        open_engine(EngineConfig(kind="http", url="http://127.0.0.1:port/v1"), MODEL, Profile())


def test_removed_model_is_named_with_those_there_are() -> None:
    with Stub(fault=on(2, error(404, "The model `stub` does not exist."))) as stub:
        engine = connect(stub)
        stub.models = Answer(b'{"data": [{"id": "newer"}]}')
        with refused(EngineError, "engine-model-unknown") as caught:
            answers(engine, batches(5))
    assert "no model 'stub'; it has 'newer'" in str(caught.value)


def test_retry_after_of_an_hour_ends_the_step() -> None:
    with Stub(fault=on(2, Answer(reset=True))) as stub:
        engine = connect(stub, concurrency=1)
        answered = engine.answer(batches(5), Sampling(0, 1))
        stub.fault = lambda request, seen: (
            setattr(stub, "models", error(503, "loading", Retry_After="3600")) or Answer(reset=True)
        )
        with refused(EngineError, "engine-unreachable") as caught:
            list(answered)
    assert "HTTP 503: loading; tried 1 times" in str(caught.value)


def test_retry_after_is_kept_and_the_wait_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(fault=on(0, error(429, "slow down", Retry_After="1"), times=1)) as stub:
        assert not answers(connect(stub), batches(1))[0].error
        first, second = stub.times[0]
    assert second - first >= 1
    monkeypatch.setattr(client, "FIRST_WAIT", 0.5)
    waits = [[client.backoff_seconds(tries) for _ in range(200)] for tries in (1, 2, 3, 20)]
    assert [
        (min(w) >= half, max(w) <= 3 * half, len(set(w)) > 100)
        for w, half in zip(waits, (0.25, 0.5, 1, 30), strict=True)
    ] == [(True, True, True)] * 4


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
    assert low <= client.retry_after_seconds({"Retry-After": value}) <= high


def test_slow_server_gets_each_request_once() -> None:
    slow = Answer(completion("late").body, delay=0.4)
    with Stub(lambda request: slow) as stub:
        assert answers(connect(stub), batches(4)) == [replied("late")] * 4
        assert set(stub.counts.values()) == {1}


def test_server_that_restarts_gives_all_replies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


def test_dead_server_ends_the_step_and_keeps_the_replies(tmp_path: Path) -> None:
    how: dict[str, Any] = {
        "seed": 3,
        "batch": 1,
        "label": "x",
        "journal": tmp_path / "a.journal",
        "max_error_rate": 0.5,
    }
    with Stub() as stub:
        calm = list(
            run_requests(
                connect(stub),
                requests(200),
                Sampling(1, 9),
                **{**how, "journal": tmp_path / "calm.journal"},
            )
        )
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

    with refused(EngineError, "engine-unreachable") as caught:
        run_requests(Killing(), requests(200), Sampling(1, 9), **how)
    assert "connection lost: " in str(caught.value)
    assert "tried 3 times" in str(caught.value)
    kept = list(Journal(tmp_path / "a.journal"))
    assert 0 < len(kept) < 200
    before = sum(stub.counts.values())
    with stub:
        assert list(run_requests(connect(stub), requests(200), Sampling(1, 9), **how)) == calm
    assert sum(stub.counts.values()) - before == 200 - len(kept)
    assert max(stub.counts.values()) <= 2


def test_server_that_lists_models_is_not_called_dead(
    tmp_path: Path,
) -> None:
    with (
        Stub(lambda request: error(500, "out of memory")) as stub,
        refused(EngineError, "engine-error-rate") as caught,
    ):
        run_requests(
            connect(stub, concurrency=1),
            requests(5),
            Sampling(1, 9),
            seed=0,
            batch=1,
            journal=tmp_path / "a.journal",
            label="x",
        )
    assert " x HTTP 500: out of memory (3 tries)" in str(caught.value)
