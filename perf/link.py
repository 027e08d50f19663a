"""A network of a given speed in front of a server on this machine, whose loopback is faster than
any that jobs and stores share."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

PIECE = 1 << 17  # bytes
WAIT = 0.002  # seconds: a shorter sleep takes longer than it says


class _Rate:
    """Lets pieces pass so that they take the time that the link would need for them."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, 0.0

    async def passed(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now) + size / self._rate
        if self._free - now > WAIT:
            await asyncio.sleep(self._free - now)


async def _serve(port: int, rate: float, said: Connection) -> None:
    up, down = _Rate(rate), _Rate(rate)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: _Rate) -> None:
        try:
            while piece := await reader.read(PIECE):
                await way.passed(len(piece))
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(carry(reader, back, up), carry(there, writer, down))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4 * PIECE)
    said.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(port: int, rate: float, said: Connection) -> None:
    asyncio.run(_serve(port, rate, said))


@contextmanager
def link(port: int, mbit: int) -> Iterator[int]:
    """The port at which the server at `port` is reached with `mbit` million bits a second each way,
    all connections together."""
    heard, said = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_run, args=(port, mbit * 125_000, said), daemon=True)
    process.start()
    try:
        yield heard.recv()
    finally:
        process.kill()
        process.join()
