"""The processes of one training, as torchrun starts them: which one this is, what the first tells
the others, what they share.

One process alone is the usual case: then nothing here does anything. torch is imported where it is
needed, no earlier.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from omnicore.errors import ConfigError
from omnicore.processes import is_main, local_rank, rank, world_size

POLL = 0.1
# How long processes wait for one another at work: the first writes checkpoints while the others wait for its next gradient.
TIMEOUT = timedelta(hours=1)
CHUNK = 1 << 26  # bytes


def share(total: int, name: str) -> int:
    """What one process does of a global count.

    Raises ConfigError where it does not divide; `name` is the count's in the recipe.
    """
    if total % world_size():
        fitting = -(-total // world_size()) * world_size()
        raise ConfigError(
            f"{name}={total} does not divide among {world_size()} processes: set it to a multiple, as in"
            f" {name}={fitting}"
        )
    return total // world_size()


class Team:
    """What the first process says to all, by a word, through the store that torchrun keeps.

    torchrun starts all processes again when one is lost, and the store still has what the lost
    attempt has left, addresses of dead processes among it. So the processes that are alive agree on
    a part of the store that is theirs alone.
    """

    def __init__(self) -> None:
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        store = next(rendezvous("env://", timeout=TIMEOUT))[0]
        store.set(f"omnicore/alive/{rank()}", uuid.uuid4().hex)
        while True:
            alive = b"".join(store.get(f"omnicore/alive/{other}") for other in range(world_size()))
            attempt = f"omnicore/{hashlib.sha256(alive).hexdigest()}"
            store.set(f"{attempt}/{rank()}", "")
            if store.check([f"{attempt}/{other}" for other in range(world_size())]):
                break
            time.sleep(POLL)
        self._store = PrefixStore(attempt, store)

    def say(self, word: str, value: str = "") -> None:
        self._store.set(word, value)

    def hear(self, *words: str) -> tuple[str, str]:
        """The first of these words that is said, and what came with it.

        Waits for as long as it takes: who fails is ended by
        torchrun, with all others.
        """
        while True:
            for word in words:
                if self._store.check([word]):
                    return word, self._store.get(word).decode()
            time.sleep(POLL)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The block in which the processes compute together: collectives on CPU tensors and, where
        there are GPUs, on theirs."""
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, store=self._store, rank=rank(), world_size=world_size(), timeout=TIMEOUT
        )
        yield
        distributed.destroy_process_group()  # not after a failure: the others would be waited for


def every(value: Any) -> list[Any]:
    """The value of each process, in their order, on all of them.

    Small ones: they are pickled.
    """
    if world_size() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * world_size()
    distributed.all_gather_object(found, value)
    return found


def shared(folder: Path | None, into: Path) -> Path | None:
    """The first process' `folder` where this one can read it: itself on the same node, on each
    other node one copy, in the `into` of the node's first process."""
    if world_size() == 1:
        return folder
    files = (
        [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in _files(folder)]
        if folder and is_main()
        else []
    )
    name, files = every((folder.name if folder else "", files))[0]
    if not name:
        return None
    leader = rank() - local_rank()
    place = Path(every(str(folder if is_main() else into / name))[leader])
    leaders = sorted(set(every(leader)))
    if len(leaders) > 1:
        _send(place, files, leaders)
    every(None)  # a node's other processes wait until its copy is whole
    return place


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _send(place: Path, files: list[tuple[str, int]], leaders: list[int]) -> None:
    """From the first process to the other `leaders`, in pieces that fit into memory."""
    import torch
    from torch import distributed

    group = distributed.new_group(leaders, backend="gloo", timeout=TIMEOUT)
    if rank() not in leaders:
        return
    for name, size in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb" if is_main() else "wb") as file:
            for start in range(0, size, CHUNK):
                length = min(CHUNK, size - start)
                piece = torch.frombuffer(
                    bytearray(file.read(length) if is_main() else length), dtype=torch.uint8
                )
                distributed.broadcast(piece, 0, group=group)
                if not is_main():
                    file.write(piece.numpy().tobytes())
