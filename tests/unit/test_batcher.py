"""The thread that generates, ended while it does: everybody is told.

What serves whole answers is in tests/e2e/test_serve.py.
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
from omnicore.serving import server
from omnicore.serving.batcher import Batcher, GenerationJob
from omnicore.serving.chat import Generation, PreparedRequest, RequestError


def job(encoder: Any, said: Queue[Generation | RequestError]) -> GenerationJob:
    return GenerationJob(
        PreparedRequest(encoder.prompt(["Which digit?"]), 2000, 10.0, seed=3), said.put, stream=True
    )


def test_whoever_has_no_whole_answer_at_the_end_is_told(
    random_model: Any, encoder: Any, small_recipe: Recipe
) -> None:
    held = server.ChatServer("tiny", small_recipe, most=4)
    running, waiting = Queue[Generation | RequestError](), Queue[Generation | RequestError]()
    thread = threading.Thread(target=held.batcher.run, args=(random_model.eval(), encoder))
    thread.start()
    held.batcher.submit(job(encoder, running))
    assert isinstance(
        running.get(timeout=60), Generation
    )  # it is being answered: who comes now waits
    held.batcher.submit(job(encoder, waiting))
    held._taken = 2
    began = time.monotonic()
    asyncio.run(held.drain(0.2))
    assert time.monotonic() - began < 10
    thread.join(60)
    for said in (running, waiting):
        *_, last = list(said.queue)
        assert isinstance(last, RequestError)
        assert (last.status, last.code) == (503, "ending")
    assert held.instead == "the server is being ended"
    with pytest.raises(RequestError, match="the server was ended"):
        held.batcher.submit(job(encoder, waiting))


def test_a_batch_that_fails_is_told_and_ends_nothing(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, said = Batcher(lambda size: None), Queue[Generation | RequestError]()
    tries = iter([RuntimeError("no memory")])

    def answer(model: Any, encoder: Any, jobs: list[GenerationJob]) -> None:
        if error := next(tries, None):
            raise error
        jobs[0].finish = "stop"
        jobs[0].tell(Generation("4", ("4",), (0.0,), "stop"))

    monkeypatch.setattr(batcher, "_answer", answer)
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
def test_a_body_that_never_comes_holds_no_place_for_ever(
    message: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READING", 0.2)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return message

    with pytest.raises(RequestError) as refused:
        asyncio.run(server._body(Request({"type": "http", "headers": []}, receive)))
    assert refused.value.status == status
