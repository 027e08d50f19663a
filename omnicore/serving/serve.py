"""Process of `omnicore serve`: port, signals and shutdown, on KServe's server.

KServe 0.21 gives the process its liveness probe and /metrics. Its OpenAI routes need vLLM, its
readiness probe is always true, it binds 0.0.0.0, and on SIGTERM it closes its port at once: these
four are replaced.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading

import uvicorn

from omnicore.config.recipe import Recipe
from omnicore.errors import ConfigError
from omnicore.serving.server import ChatServer

logger = logging.getLogger(__name__)

LAST_BYTES = 3  # seconds to send the rest of the responses once the port is closed


class _DrainingServer(uvicorn.Server):
    """Server that finishes its requests before it closes its port.

    uvicorn would close the port at the first signal, and new clients would not be told to retry.
    """

    def __init__(self, config: uvicorn.Config, chat: ChatServer, grace: float) -> None:
        super().__init__(config)
        self._chat, self._grace = chat, grace
        self._ending = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002
        """Start draining; at a second signal, end at once."""
        if self._ending.is_set():
            self._chat.batcher.stop()
            self.should_exit = True
        if self._loop:
            self._loop.call_soon_threadsafe(self._ending.set)

    async def run_model(self) -> None:
        """Serve, with the model in a thread, until it is drained or the model has failed."""
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._generate, name="model", daemon=True)
        thread.start()
        draining = asyncio.create_task(self._drain())
        await self.serve()
        draining.cancel()
        self._chat.batcher.stop()
        thread.join(LAST_BYTES)

    async def _drain(self) -> None:
        await self._ending.wait()
        await self._chat.drain(self._grace)
        self.should_exit = True

    def _generate(self) -> None:
        self._chat.run()
        if self._chat.error:
            self.should_exit = True


def serve(
    model: str, recipe: Recipe, host: str, port: int, max_requests: int, grace: float
) -> None:
    """Serve a model until SIGTERM or Ctrl-C; a second signal ends it at once.

    Args:
        model: A checkpoint directory or an embedded model.
        recipe: Profile and number of cores.
        host: Address to listen on.
        port: Port to listen on, 1 to 65535.
        max_requests: In-flight requests.
        grace: Seconds for which requests in flight are answered after the signal.

    Raises:
        ConfigError: An option is invalid, or the port is in use.
        CheckpointError: The model cannot be loaded.
    """
    _check_options(host, port, max_requests, grace)
    # KServe parses the command line when it is imported, and these options are not its own.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        from kserve import ModelServer
        from kserve.model_server import app
        from kserve.protocol.rest.server import RESTServer
    finally:
        sys.argv = arguments
    chat = ChatServer(model, recipe, max_requests)
    chat.add_routes(app)
    kserve = ModelServer(http_port=port, enable_grpc=False, workers=1)
    rest = RESTServer(
        "kserve.model_server:app",
        kserve.dataplane,
        kserve.model_repository_extension,
        port,
        grace_period=LAST_BYTES,
    )
    rest.config.host = host
    rest.create_application()
    for name in ("uvicorn.access", "uvicorn.error", "kserve", "kserve.trace"):
        # A line per request would hide what matters.
        logging.getLogger(name).setLevel(logging.WARNING)
    logger.info(f"{model} at http://{host}:{port}/v1")
    asyncio.run(_DrainingServer(rest.config, chat, grace).run_model())
    if chat.error:
        raise chat.error


def _check_options(host: str, port: int, max_requests: int, grace: float) -> None:
    if not 0 < port < 1 << 16:
        raise ConfigError(
            f"--port {port} is not a port: use one from 1 to 65535",
            code="serve-port-invalid",
            field="--port",
        )
    if max_requests < 1 or grace < 0:
        raise ConfigError(
            f"--queue {max_requests} and --grace {grace:g}: use at least 1 request and at least 0"
            " seconds",
            code="serve-limit-invalid",
            field="--queue" if max_requests < 1 else "--grace",
        )
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; use another --port or --host",
                code="serve-port-unavailable",
                field="--port",
            ) from error
