"""Messages, values and files that the processes of one training exchange, as torchrun starts them.

A single process is the usual case: then the functions return at once. torch is imported inside the
functions that need it.
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

POLL = 0.1  # seconds between two looks for a message
# Limit of one collective: rank 0 writes checkpoints while the others wait for its next gradient.
TIMEOUT = timedelta(hours=1)
CHUNK = 1 << 26  # bytes of one broadcast


def per_process(total: int, name: str) -> int:
    """Return the share of one process in a global count.

    Args:
        total: The count for all processes together.
        name: Its field in the recipe.

    Raises:
        ConfigError: The count is not a multiple of the number of processes.
    """
    if total % world_size():
        fitting = -(-total // world_size()) * world_size()
        raise ConfigError(
            f"{name}={total} is not a multiple of {world_size()} processes: set it to one, as in"
            f" {name}={fitting}",
            code="distributed-count-indivisible",
            field=name,
        )
    return total // world_size()


class RankMessages:
    """Key-value messages between the ranks over torchrun's TCPStore.

    torchrun restarts all processes when one is lost, while the store keeps the entries of the lost
    attempt, such as addresses of dead processes. So the ranks that are alive first agree on a
    prefix of their own.
    """

    def __init__(self) -> None:
        """Agree with all other ranks on a prefix; returns once all are there."""
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        ranks = range(world_size())
        store = next(rendezvous("env://", timeout=TIMEOUT))[0]
        store.set(f"omnicore/alive/{rank()}", uuid.uuid4().hex)
        while True:
            alive = b"".join(store.get(f"omnicore/alive/{other}") for other in ranks)
            attempt = f"omnicore/{hashlib.sha256(alive).hexdigest()}"
            store.set(f"{attempt}/{rank()}", "")
            if store.check([f"{attempt}/{other}" for other in ranks]):
                break
            time.sleep(POLL)
        self._store = PrefixStore(attempt, store)

    def send(self, key: str, value: str = "") -> None:
        """Send a message to all ranks."""
        self._store.set(key, value)

    def receive(self, *keys: str) -> tuple[str, str]:
        """Wait for a message with one of these keys; return its key and value.

        There is no timeout: torchrun ends all processes when one fails.
        """
        while True:
            for key in keys:
                if self._store.check([key]):
                    return key, self._store.get(key).decode()
            time.sleep(POLL)

    @contextmanager
    def process_group(self) -> Iterator[None]:
        """Open torch's process group: collectives on CPU tensors and, with GPUs, on theirs."""
        import torch
        from torch import distributed

        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank())
            backend = "cpu:gloo,cuda:nccl"
        distributed.init_process_group(
            backend, store=self._store, rank=rank(), world_size=world_size(), timeout=TIMEOUT
        )
        yield
        # Only after success: after a failure it would wait for the other ranks.
        distributed.destroy_process_group()


def all_gather(value: Any) -> list[Any]:
    """Return the value of each rank, in their order, on all of them; values are pickled."""
    if world_size() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast_folder(folder: Path | None, into: Path) -> Path | None:
    """Return rank 0's folder where this process can read it.

    Args:
        folder: The folder on rank 0, or None; other ranks' values do not count.
        into: Where the first process of each other node puts its copy.

    Returns:
        The folder itself on rank 0's node, the node's copy on another one, None where rank 0 has
        none.
    """
    if world_size() == 1:
        return folder
    name, files = "", list[tuple[str, int]]()
    if folder and is_main():
        name = folder.name
        for path in _files(folder):
            files.append((path.relative_to(folder).as_posix(), path.stat().st_size))
    name, files = all_gather((name, files))[0]
    if not name:
        return None
    leader = rank() - local_rank()  # the first process of this node
    own = str(folder if is_main() else into / name)
    target = Path(all_gather(own)[leader])
    leaders = sorted(set(all_gather(leader)))
    if len(leaders) > 1:
        _broadcast_files(target, files, leaders)
    all_gather(None)  # the other processes of a node wait until its copy is whole
    return target


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _broadcast_files(folder: Path, files: list[tuple[str, int]], leaders: list[int]) -> None:
    """Send files from rank 0 to the other `leaders`, in pieces of at most CHUNK bytes."""
    import torch
    from torch import distributed

    group = distributed.new_group(leaders, backend="gloo", timeout=TIMEOUT)
    if rank() not in leaders:
        return
    for name, size in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb" if is_main() else "wb") as file:
            for start in range(0, size, CHUNK):
                length = min(CHUNK, size - start)
                content = bytearray(file.read(length) if is_main() else length)
                piece = torch.frombuffer(content, dtype=torch.uint8)
                distributed.broadcast(piece, 0, group=group)
                if not is_main():
                    file.write(piece.numpy().tobytes())
