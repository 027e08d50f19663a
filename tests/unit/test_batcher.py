"""Shutdown and failures of the generating thread: every request gets a reply or an error.

Complete replies are tested in tests/e2e/test_serve.py.
"""

from __future__ import annotations

import asyncio
import threading
import time
from queue import Queue
from typing import Any

import pytest
from starlette.requests import Request

from omnicore.config.recipe import Recipe
from omnicore.serving.request import RequestError


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global Batcher, Generation, GenerationJob, PreparedRequest, server

    from omnicore.serving import server
    from omnicore.serving.batcher import Batcher, GenerationJob
    from omnicore.serving.prompt import PreparedRequest
    from omnicore.serving.response import Generation


def job(encoder: Any, said: Queue[Generation | RequestError]) -> GenerationJob:
    return GenerationJob(
        PreparedRequest(encoder.prompt(["Which digit?"]), 2000, 10.0, seed=3), said.put, stream=True
    )


def test_unfinished_requests_get_an_error_on_shutdown(
    random_model: Any, encoder: Any, small_recipe: Recipe
) -> None:
    chat = server.ChatServer("tiny", small_recipe, max_requests=4)
    running, waiting = Queue[Generation | RequestError](), Queue[Generation | RequestError]()
    thread = threading.Thread(target=chat.batcher.run, args=(random_model.eval(), encoder))
    thread.start()
    chat.batcher.submit(job(encoder, running))
    # Its first token is there: the next request has to wait.
    assert isinstance(running.get(timeout=60), Generation)
    chat.batcher.submit(job(encoder, waiting))
    chat._in_flight = 2
    began = time.monotonic()
    asyncio.run(chat.drain(0.2))
    assert time.monotonic() - began < 10
    thread.join(60)
    for said in (running, waiting):
        *_, last = list(said.queue)
        assert isinstance(last, RequestError)
        assert (last.status, last.code) == (503, "ending")
    assert chat.not_ready_reason == "the server is shutting down"
    with pytest.raises(RequestError) as caught:
        chat.batcher.submit(job(encoder, waiting))
    assert (caught.value.status, caught.value.code) == (503, "ending")


def test_failed_batch_does_not_stop_the_batcher(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, said = Batcher(lambda size: None), Queue[Generation | RequestError]()
    failures = iter([RuntimeError("no memory")])

    def generate(model: Any, encoder: Any, jobs: list[GenerationJob]) -> None:
        error = next(failures, None)
        if error:
            raise error
        jobs[0].finish = "stop"
        jobs[0].update(Generation("4", ("4",), (0.0,), "stop"))

    monkeypatch.setattr(batcher, "_generate", generate)
    thread = threading.Thread(target=batcher.run, args=(None, encoder))
    thread.start()
    batcher.submit(job(encoder, said))
    first = said.get(timeout=60)
    assert isinstance(first, RequestError)
    assert (first.status, first.message) == (500, "generation failed: RuntimeError: no memory")
    batcher.submit(job(encoder, said))
    assert said.get(timeout=60) == Generation("4", ("4",), (0.0,), "stop")
    batcher.stop()
    thread.join(60)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"type": "http.disconnect"}, 499),
        ({"type": "http.request", "body": b"", "more_body": True}, 408),
    ],
)
def test_incomplete_body_times_out(
    message: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_TIMEOUT", 0.2)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return message

    with pytest.raises(RequestError) as refused:
        asyncio.run(server._body(Request({"type": "http", "headers": []}, receive)))
    assert refused.value.status == status
