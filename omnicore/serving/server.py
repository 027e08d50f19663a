"""Routes, readiness and metrics of `omnicore serve`, on KServe's ModelServer.

KServe 0.21 gives the process its liveness and /metrics. Its own OpenAI routes need vLLM, its readiness is always true, it binds
0.0.0.0, and at SIGTERM it closes its port at once: those four are replaced here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
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
from omnicore.errors import ConfigError, EngineError
from omnicore.lineage import signing
from omnicore.progress import told
from omnicore.serving.batcher import Batcher, GenerationJob
from omnicore.serving.chat import (
    EventStream,
    Generation,
    PreparedRequest,
    RequestError,
    completion_body,
    error_event,
    parse_request,
    prepare_request,
)
from omnicore.storage.digests import model_directory
from omnicore.telemetry.metrics import SERVE_METRICS

KINDS: frozenset[MediaKind] = frozenset({"image", "audio"})
Said = asyncio.Queue[Generation | RequestError]
MAX_BODY = 64 << 20  # bytes: 32 frames of a video and more
READING = 60.0  # seconds that a body may take: who sends none would hold a place for ever
LAST = 3  # seconds for the last bytes of what is answered, once the port is closed


def _named(name: str) -> tuple[str, str, tuple[str, ...]]:
    return name, SERVE_METRICS[name].help, SERVE_METRICS[name].labels


REQUESTS = Counter(*_named("omni_serve_requests_total"))
SECONDS = Histogram(
    *_named("omni_serve_request_seconds"), buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
)
TOKENS = Counter(*_named("omni_serve_tokens_total"))
BATCH = Histogram(*_named("omni_serve_batch_size"), buckets=(1, 2, 4, 8, 16, 32))
TAKEN = Gauge(*_named("omni_serve_requests_in_flight"))
WAITING = Gauge(*_named("omni_serve_requests_waiting"))
CANARY = Gauge(*_named("omni_serve_canary_passed"))


class ChatServer:
    """One model.

    `instead` says why it is not ready; empty when it is. `error` is what no waiting mends: the
    server ends. `most` requests are taken at a time, being read, waiting, or being answered; one
    more is sent away, to come again.
    """

    def __init__(self, model: str, recipe: Recipe, most: int) -> None:
        self.name, self.most = model, most
        self._taken, self._ending, self._loading = 0, False, "the model is being loaded"
        self.error: Exception | None = None
        self.batcher = Batcher(BATCH.observe)
        WAITING.set_function(lambda: self.batcher.waiting)
        TAKEN.set_function(lambda: self._taken)
        self._recipe, self._created = recipe, int(time.time())

    @property
    def instead(self) -> str:
        return "the server is being ended" if self._ending else self._loading

    def work(self) -> None:
        """Loads the model, lets the canary try it, then answers until `stop`: for a thread of its
        own, where all of torch runs."""
        try:
            engine = self._load()
            found = canary.verify_engine(engine, EngineConfig(), self._recipe.profile, KINDS)
        except EngineError as error:
            self._loading = str(
                error
            )  # the server stays, so that whoever asks whether it is ready is told why not
            print(f"not ready: {error}", file=sys.stderr, flush=True)
            return
        except Exception as error:
            self.error = error
            return
        for kind in KINDS:
            CANARY.labels(kind).set(1)
        self.encoder, self.context = (
            engine.encoder,
            int(engine.model.config.get_text_config().max_position_embeddings),
        )
        self._loading = ""
        print(f"ready  {told(found)}", file=sys.stderr, flush=True)
        self.batcher.run(engine.model, engine.encoder)

    def _load(self) -> TransformersEngine:
        torch.set_num_threads(self._recipe.cores)
        torch.set_flush_denormal(True)
        signing.verify_signature(model_directory(self.name))
        engine = TransformersEngine(self.name, self._recipe.profile)
        self._loading = "the canary is trying the model"
        return engine

    def add_to(self, app: FastAPI) -> None:
        """Routes of the same path that are added later, as KServe's own are, are never reached."""
        for path in ("/health", "/v2/health/ready"):
            app.add_api_route(path, self.ready, methods=["GET"], response_model=None)
        app.add_api_route("/v1/models", self.models, methods=["GET"], response_model=None)
        app.routes.append(Route("/v1/chat/completions", self, methods=["POST"]))

    async def drain(self, seconds: float) -> None:
        """Takes no request any more, and returns when those on their way are answered.

        What is not within `seconds` is told so.
        """
        self._ending, until = True, time.monotonic() + seconds
        while self._taken and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self.batcher.stop()

    async def ready(self) -> Response:
        if self.instead:
            return JSONResponse({"ready": False, "reason": self.instead}, 503)
        return JSONResponse({"ready": True})

    async def models(self) -> Response:
        model = {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "omnicore",
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Chat completions, as an ASGI application: so a request keeps its place until its last
        byte is sent, a stream's, too."""
        began = time.monotonic()
        self._taken += 1
        try:
            try:
                response = await self._chat(Request(scope, receive), began)
            except RequestError as refused:
                response = _error(refused)
            if not isinstance(response, StreamingResponse):
                _count(response.status_code, began)
            await response(scope, receive, send)
        finally:
            self._taken -= 1

    async def _chat(self, request: Request, began: float) -> Response:
        if self.instead:
            raise RequestError(503, f"not ready: {self.instead}", "not_ready")
        if self._taken > self.most:  # before the body is read: overload must not cost memory
            raise RequestError(
                429, f"{self.most} requests are on their way already: try again later", "overloaded"
            )
        wanted = parse_request(await _body(request))
        if wanted.model != self.name:
            raise RequestError(
                404,
                f"no model {wanted.model!r} here; this server has {self.name!r}",
                "model_not_found",
                "model",
            )
        asked = await asyncio.to_thread(prepare_request, wanted, self.encoder, self.context)
        loop, said = asyncio.get_running_loop(), Said()

        def tell(so_far: Generation | RequestError) -> None:
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(said.put_nowait, so_far)

        job = GenerationJob(asked, tell, stream=wanted.stream)
        self.batcher.submit(job)
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.name,
        }
        if wanted.stream:
            events = _events(EventStream(head, wanted), job, said, began)
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        while True:
            with suppress(TimeoutError):
                answer = await asyncio.wait_for(said.get(), 1.0)
                break
            if await request.is_disconnected():
                job.left = (
                    True  # else the model would write on for somebody who tries again already
                )
                raise RequestError(499, "the client is gone")
        if isinstance(answer, RequestError):
            raise answer
        _tokens(asked, answer)
        return JSONResponse(completion_body(head, wanted, asked, answer))


async def _events(
    events: EventStream, job: GenerationJob, said: Said, began: float
) -> AsyncIterator[bytes]:
    code = 499  # unless it is told to the end
    try:
        yield events.first()
        while isinstance(answer := await said.get(), Generation):
            yield events.more(answer)
            if answer.finish:
                yield events.last(job.asked, answer)
                code = 200
                _tokens(job.asked, answer)
                return
        code = answer.status
        yield error_event(answer)
    finally:
        job.left = True
        _count(code, began)


async def _body(request: Request) -> bytes:
    """Raises Refused above MAX_BODY, whatever the client says of its length, and for one that takes
    longer than READING."""
    body = bytearray()
    try:
        async with asyncio.timeout(READING):
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
            408, f"the body was not there after {READING:g} s", "body_too_slow"
        ) from None
    except ClientDisconnect:
        raise RequestError(499, "the client is gone") from None
    return bytes(body)


def _error(refused: RequestError) -> Response:
    again = {"Retry-After": "1"} if refused.status in (429, 503) else {}
    return JSONResponse(refused.body(), refused.status, headers=again)


def _count(code: int, began: float) -> None:
    REQUESTS.labels(str(code)).inc()
    SECONDS.observe(time.monotonic() - began)


def _tokens(asked: PreparedRequest, answer: Generation) -> None:
    TOKENS.labels("prompt").inc(len(asked.prompt.ids))
    TOKENS.labels("completion").inc(len(answer.tokens))


def serve(model: str, recipe: Recipe, host: str, port: int, most: int, grace: float) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what is on its way for at most `grace` seconds.

    A second signal ends that.     Raises ConfigError for a port that is none or is taken, and what
    loading the model raises.
    """
    if not 0 < port < 1 << 16:
        raise ConfigError(f"--port {port} is no port: give one from 1 to 65535")
    if most < 1 or grace < 0:
        raise ConfigError(
            f"--queue {most} and --grace {grace:g}: at least one request, and no less than 0"
            " seconds"
        )
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port} cannot be listened on: {error.strerror}; give another --port or"
                " --host"
            ) from error
    arguments, sys.argv = (
        sys.argv,
        sys.argv[:1],
    )  # KServe reads the command line when it is imported, and ours is not for it
    try:
        from kserve import ModelServer
        from kserve.model_server import app
    finally:
        sys.argv = arguments
    server = ChatServer(model, recipe, most)
    server.add_to(app)

    class Bound(ModelServer):  # type: ignore[misc]
        async def _serve(self) -> None:
            rest, loop, ended = (
                self._rest_server._server,
                asyncio.get_running_loop(),
                asyncio.Event(),
            )
            rest.config.host = host

            def end(
                *_: object,
            ) -> None:  # uvicorn's own would close the port, and whoever comes would not be told to come again
                if ended.is_set():
                    server.batcher.stop()
                    rest.should_exit = True
                loop.call_soon_threadsafe(ended.set)

            async def drain() -> None:
                await ended.wait()
                await server.drain(grace)
                rest.should_exit = True

            rest.handle_exit = end
            thread = threading.Thread(target=self._work, name="model", daemon=True)
            thread.start()
            draining = asyncio.create_task(drain())
            await super()._serve()
            draining.cancel()
            server.batcher.stop()
            thread.join(LAST)

        def _work(self) -> None:
            server.work()
            if server.error:
                self._rest_server._server.should_exit = True

    kserve = Bound(http_port=port, enable_grpc=False, grace_period=LAST, workers=1)
    for name in ("uvicorn.access", "uvicorn.error", "kserve", "kserve.trace"):
        logging.getLogger(name).setLevel(
            logging.WARNING
        )  # a line a request would bury what matters
    print(f"{model} at http://{host}:{port}/v1", file=sys.stderr, flush=True)
    kserve.start([])
    if server.error:
        raise server.error
