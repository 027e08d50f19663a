"""A network of a given speed in front of a local server.

Loopback is faster than any network between jobs and stores.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

PIECE = 1 << 17  # bytes
WAIT = 0.002  # seconds; shorter sleeps last longer than requested


class _Rate:
    """Delay pieces by the time that the link needs for them."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, 0.0

    async def wait(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / self._rate
        if self._free - now > WAIT:
            await asyncio.sleep(self._free - now)


async def _serve(port: int, rate: float, port_pipe: Connection) -> None:
    up, down = _Rate(rate), _Rate(rate)

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: _Rate
    ) -> None:
        try:
            while piece := await reader.read(PIECE):
                await rate.wait(len(piece))
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, downstream, up), carry(upstream, writer, down))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4 * PIECE)
    port_pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(port: int, rate: float, port_pipe: Connection) -> None:
    asyncio.run(_serve(port, rate, port_pipe))


@contextmanager
def link(port: int, mbit: int) -> Iterator[int]:
    """Yield a port that forwards to `port` at `mbit` million bits a second each way, in total."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_run, args=(port, mbit * 125_000, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.kill()
        process.join()
