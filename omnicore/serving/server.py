"""Routes, readiness and metrics of `omnicore serve`."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from omnicore.config import EngineConfig
from omnicore.config.recipe import Recipe
from omnicore.engines import canary
from omnicore.engines.canary_media import MediaKind
from omnicore.engines.transformers import TransformersEngine
from omnicore.errors import EngineError
from omnicore.lineage import signing
from omnicore.progress import format_figures
from omnicore.serving.batcher import Batcher, GenerationJob
from omnicore.serving.prompt import PreparedRequest, prepare_request
from omnicore.serving.request import RequestError, parse_request
from omnicore.serving.response import EventStream, Generation, completion_body, error_event
from omnicore.storage.digests import model_directory
from omnicore.telemetry.metrics import SERVE_METRICS

logger = logging.getLogger(__name__)

KINDS: frozenset[MediaKind] = frozenset({"image", "audio"})
MAX_BODY = 64 << 20  # bytes; room for more than the 32 frames of a video
# Seconds that a body may take: a client that sends nothing would hold its place forever.
BODY_TIMEOUT = 60.0
CLIENT_GONE = 499  # status in the metrics, as nginx logs it

Updates = asyncio.Queue[Generation | RequestError]


def _definition(name: str) -> tuple[str, str, tuple[str, ...]]:
    return name, SERVE_METRICS[name].help, SERVE_METRICS[name].labels


REQUESTS = Counter(*_definition("omni_serve_requests_total"))
SECONDS = Histogram(
    *_definition("omni_serve_request_seconds"), buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
)
TOKENS = Counter(*_definition("omni_serve_tokens_total"))
BATCH = Histogram(*_definition("omni_serve_batch_size"), buckets=(1, 2, 4, 8, 16, 32))
IN_FLIGHT = Gauge(*_definition("omni_serve_requests_in_flight"))
WAITING = Gauge(*_definition("omni_serve_requests_waiting"))
CANARY = Gauge(*_definition("omni_serve_canary_passed"))


class ChatServer:
    """Chat completions of one model.

    Attributes:
        max_requests: In-flight requests; one more gets status 429.
        error: Exception that ended `run`; the process has to end.
    """

    def __init__(self, model: str, recipe: Recipe, max_requests: int) -> None:
        self.name, self.max_requests = model, max_requests
        self._in_flight, self._shutting_down = 0, False
        self._loading = "the model is being loaded"
        self.error: Exception | None = None
        self.batcher = Batcher(BATCH.observe)
        WAITING.set_function(lambda: self.batcher.waiting)
        IN_FLIGHT.set_function(lambda: self._in_flight)
        self._recipe, self._created = recipe, int(time.time())

    @property
    def not_ready_reason(self) -> str:
        """Why requests are refused; empty if the server is ready."""
        return "the server is shutting down" if self._shutting_down else self._loading

    def run(self) -> None:
        """Load the model, verify it with the canary, and generate until the batcher is stopped.

        It needs its own thread, in which all of torch runs. If the canary fails, the server stays
        up and its readiness probe tells the reason.
        """
        try:
            engine = self._load()
            summary = canary.verify_engine(engine, EngineConfig(), self._recipe.profile, KINDS)
        except EngineError as error:
            self._loading = str(error)
            logger.warning(f"not ready: {error}")
            return
        except Exception as error:
            self.error = error
            return
        for kind in KINDS:
            CANARY.labels(kind).set(1)
        self.encoder = engine.encoder
        self.context_length = int(engine.model.config.get_text_config().max_position_embeddings)
        self._loading = ""
        logger.info(f"ready  {format_figures(summary)}")
        self.batcher.run(engine.model, engine.encoder)

    def _load(self) -> TransformersEngine:
        torch.set_num_threads(self._recipe.cores)
        torch.set_flush_denormal(True)
        signing.verify_signature(model_directory(self.name))
        engine = TransformersEngine(self.name, self._recipe.profile)
        self._loading = "the canary is testing the model"
        return engine

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes; routes of the same path that are added later are never reached."""
        for path in ("/health", "/v2/health/ready"):
            app.add_api_route(path, self.ready, methods=["GET"], response_model=None)
        app.add_api_route("/v1/models", self.models, methods=["GET"], response_model=None)
        app.routes.append(Route("/v1/chat/completions", self, methods=["POST"]))

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and return when those in flight have ended.

        Requests that take longer than `seconds` get an error.
        """
        self._shutting_down, until = True, time.monotonic() + seconds
        while self._in_flight and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self.batcher.stop()

    async def ready(self) -> Response:
        """Answer the readiness probe."""
        if self.not_ready_reason:
            return JSONResponse({"ready": False, "reason": self.not_ready_reason}, 503)
        return JSONResponse({"ready": True})

    async def models(self) -> Response:
        """List the model."""
        model = {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "omnicore",
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a chat completion, as an ASGI application.

        A request, also a streamed one, counts as in flight until its last byte has been sent.
        """
        began = time.monotonic()
        self._in_flight += 1
        try:
            try:
                response = await self._chat(Request(scope, receive), began)
            except RequestError as error:
                response = _error_response(error)
            if not isinstance(response, StreamingResponse):
                _count_request(response.status_code, began)
            await response(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _chat(self, http_request: Request, began: float) -> Response:
        if self.not_ready_reason:
            raise RequestError(503, f"not ready: {self.not_ready_reason}", "not_ready")
        # Before the body is read: overload must not cost memory.
        if self._in_flight > self.max_requests:
            raise RequestError(
                429, f"{self.max_requests} requests are in flight: try again later", "overloaded"
            )
        request = parse_request(await _body(http_request))
        if request.model != self.name:
            raise RequestError(
                404,
                f"no model {request.model!r} here; this server has {self.name!r}",
                "model_not_found",
                "model",
            )
        prepared = await asyncio.to_thread(
            prepare_request, request, self.encoder, self.context_length
        )
        loop, updates = asyncio.get_running_loop(), Updates()

        def update(generation: Generation | RequestError) -> None:
            # The loop is closed if the server has ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(updates.put_nowait, generation)

        job = GenerationJob(prepared, update, stream=request.stream)
        self.batcher.submit(job)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.name,
        }
        if request.stream:
            events = _events(EventStream(head, request), job, updates, began)
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        generation = await _whole_generation(http_request, job, updates)
        _count_tokens(prepared, generation)
        return JSONResponse(completion_body(head, request, prepared, generation))


async def _whole_generation(
    http_request: Request, job: GenerationJob, updates: Updates
) -> Generation:
    """Wait for the end of a generation, as long as the client does."""
    while True:
        with suppress(TimeoutError):
            generation = await asyncio.wait_for(updates.get(), 1.0)
            break
        if await http_request.is_disconnected():
            # The model would generate for a client that may be retrying already.
            job.abandoned = True
            raise RequestError(CLIENT_GONE, "the client is gone")
    if isinstance(generation, RequestError):
        raise generation
    return generation


async def _events(
    events: EventStream, job: GenerationJob, updates: Updates, began: float
) -> AsyncIterator[bytes]:
    status = CLIENT_GONE  # unless the stream reaches its end
    try:
        yield events.first()
        while True:
            update = await updates.get()
            if isinstance(update, RequestError):
                status = update.status
                yield error_event(update)
                return
            yield events.more(update)
            if update.finish:
                yield events.last(job.prepared, update)
                status = 200
                _count_tokens(job.prepared, update)
                return
    finally:
        job.abandoned = True
        _count_request(status, began)


async def _body(request: Request) -> bytes:
    """Read a body.

    Raises:
        RequestError: It is larger than MAX_BODY, whatever its Content-Length says, or takes longer
            than BODY_TIMEOUT.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise RequestError(
                        413,
                        f"the body is larger than {MAX_BODY >> 20} MiB: send fewer or smaller"
                        " media",
                        "body_too_large",
                    )
    except TimeoutError:
        raise RequestError(
            408, f"the body was incomplete after {BODY_TIMEOUT:g} s", "body_too_slow"
        ) from None
    except ClientDisconnect:
        raise RequestError(CLIENT_GONE, "the client is gone") from None
    return bytes(body)


def _error_response(error: RequestError) -> Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else {}
    return JSONResponse(error.body(), error.status, headers=headers)


def _count_request(status: int, began: float) -> None:
    REQUESTS.labels(str(status)).inc()
    SECONDS.observe(time.monotonic() - began)


def _count_tokens(prepared: PreparedRequest, generation: Generation) -> None:
    TOKENS.labels("prompt").inc(len(prepared.prompt.ids))
    TOKENS.labels("completion").inc(len(generation.tokens))
