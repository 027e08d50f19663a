"""Replicate a running step's journals and checkpoints to S3 so that another pod can resume.

  <output>.unfinished/<key>/
    replies.journal/000000000000000-<sha256>    a piece of an append-only journal: its offset, and
                                                the sha256 of the journal up to the piece's end
    checkpoints.journal/step-000020/            a folder of a journal that is a directory, published
                                                by omnicore/storage/store.py

A piece is one object and a folder is published as a whole, so what is read back is a state that the
step has had. A piece whose sha256 does not follow from those before it is damaged or of another
writer: the journal ends before it. A folder never changes once it has its name (`.tmp` behind it
until then); the last by name is the newest and is enough to resume.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from omnicore.errors import OmniError, StorageError
from omnicore.runtime.outputs import unfinished_key
from omnicore.storage import store
from omnicore.storage.digests import KEY_FILE, STEP_FILE
from omnicore.storage.files import atomic_writer, read_json

if TYPE_CHECKING:
    from omnicore.storage.s3 import Bucket

logger = logging.getLogger(__name__)
EVERY = 30.0  # seconds between two syncs of the journals; a complete folder is sent at once
POLL = 1.0  # seconds between two looks for a complete folder
PIECE = re.compile(r"([^/]+\.journal)/(\d{15})-([0-9a-f]{64})")
FOLDER = re.compile(r"([^/]+\.journal/[^/]+)/" + re.escape(store.PUBLISHED))


@contextmanager
def synced(directory: Path, output: str, key: str) -> Iterator[None]:
    """Restore a step's replica into `directory`, then replicate its journals during the block.

    Later errors of the store are logged, and the step continues.

    Args:
        directory: Where the step runs.
        output: Its s3:// address.
        key: The key of its result; the replica of another key is left alone.

    Raises:
        StorageError: The store is unreachable at the beginning.
    """
    sync = CheckpointSync(directory, output, key)
    sync.restore()
    thread = threading.Thread(target=sync.run, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        sync.ended.set()
        thread.join()
        sync.try_to_sync()  # the work since the last sync, from which the same command resumes
        raise
    sync.finished = True  # an upload in progress is abandoned
    sync.ended.set()
    thread.join()


def forget(output: str, key: str) -> None:
    """Delete the replica of a step whose result is published; those of other keys stay."""
    try:
        _delete(*store.open_bucket(_replica_uri(output, key)))
    except OmniError as error:
        logger.warning("%s: its journals and checkpoints were not deleted: %s", output, error)


class CheckpointSync:
    """Replicates the journals in `directory` to `<output>.unfinished/<key>`.

    `_ends` holds the length and the sha256 of what the replica has of each journal, `_folders` the
    folders that it has, as in checkpoints.journal/step-000020.
    """

    def __init__(self, directory: Path, output: str, key: str) -> None:
        """Open the bucket of `output`, the s3:// address of a step that runs in `directory`."""
        self._directory, self._key = directory, key
        self._uri = _replica_uri(output, key)
        self._bucket, self._prefix = store.open_bucket(self._uri)
        self._links = directory.with_name(directory.name + ".keeping")
        self._ends: dict[str, tuple[int, hashlib._Hash]] = {}
        self._folders: set[str] = set()
        self.ended, self.finished, self._warned = threading.Event(), False, False

    def restore(self) -> None:
        """Make the directory hold at least what the replica has.

        Its own journals and folders of the same key stay where they are longer or newer.
        """
        shutil.rmtree(self._links, ignore_errors=True)
        step_file = self._directory / STEP_FILE
        if step_file.exists() and read_json(step_file).get("key") == self._key:
            return  # finished here, and not yet published
        pieces = self._list_replica()
        if not pieces and not self._folders:
            return
        if unfinished_key(self._directory) != self._key:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir(parents=True)
            (self._directory / KEY_FILE).write_text(self._key)
        for journal in sorted(pieces):
            self._restore_journal(journal, sorted(pieces[journal]))
        for journal in sorted({folder.partition("/")[0] for folder in self._folders}):
            self._restore_newest_folder(journal)

    def run(self) -> None:
        """Sync until `ended` is set."""
        synced, failed = time.monotonic(), False
        while not self.ended.wait(POLL):
            due = time.monotonic() - synced >= EVERY
            if due or (not failed and set(self._complete_folders()) - self._folders):
                failed = not self.try_to_sync()
                synced = time.monotonic()

    def try_to_sync(self) -> bool:
        """Send what is new and return whether that succeeded; log the first of several failures."""
        try:
            self._sync()
        except _Finished:
            return True
        except Exception as error:
            if not self._warned:
                logger.warning("%s: syncing the journals failed, retrying: %s", self._uri, error)
            self._warned = True
            return False
        self._warned = False
        return True

    def _list_replica(self) -> dict[str, list[tuple[int, str]]]:
        """Return offset and sha256 of the replica's pieces by journal, and note its folders."""
        pieces: dict[str, list[tuple[int, str]]] = {}
        for name in self._list():
            piece, folder = PIECE.fullmatch(name), FOLDER.fullmatch(name)
            if piece:
                pieces.setdefault(piece[1], []).append((int(piece[2]), piece[3]))
            elif folder:
                self._folders.add(folder[1])
        return pieces

    def _restore_journal(self, journal: str, pieces: list[tuple[int, str]]) -> None:
        content, sha256, foreign = self._read_pieces(journal, pieces)
        path = self._directory / journal
        own = path.read_bytes() if path.exists() else b""
        if not content.startswith(own) and not own.startswith(content):
            foreign = [self._piece_key(journal, start, digest) for start, digest in pieces]
            content, sha256 = b"", hashlib.sha256()
        if foreign:
            with self._bucket.errors(self._uri):
                self._bucket.remove(foreign)
        if len(content) > len(own):
            with atomic_writer(path) as file:
                file.write(content)
        self._ends[journal] = len(content), sha256

    def _read_pieces(
        self, journal: str, pieces: list[tuple[int, str]]
    ) -> tuple[bytes, hashlib._Hash, list[str]]:
        """Return the journal, its hash, and the keys of pieces that do not follow those before."""
        content, sha256, foreign = b"", hashlib.sha256(), []
        for start, expected in pieces:
            key = self._piece_key(journal, start, expected)
            piece = b""
            if start == len(content):
                with self._bucket.errors(f"s3://{self._bucket.name}/{key}"):
                    piece = self._bucket.read(key) or b""
            after = sha256.copy()
            after.update(piece)
            if piece and after.hexdigest() == expected:
                content, sha256 = content + piece, after
            else:
                foreign.append(key)
        return content, sha256, foreign

    def _piece_key(self, journal: str, start: int, sha256: str) -> str:
        return f"{self._prefix}/{journal}/{start:015d}-{sha256}"

    def _restore_newest_folder(self, journal: str) -> None:
        newest = max((path.name for path in _folders(self._directory / journal)), default="")
        for folder in sorted(self._replicated(journal), reverse=True):
            name = folder.partition("/")[2]
            if name <= newest:
                return
            try:
                store.fetch(f"{self._uri}/{folder}", self._links / folder)
            except StorageError as error:
                # Raises where the store is unreachable: then the checkpoint may well be intact.
                self._list()
                logger.warning("%s; loading the checkpoint before it", error)
                self._folders.remove(folder)
                continue
            (self._directory / journal).mkdir(exist_ok=True)
            (self._links / folder).rename(self._directory / journal / name)
            return

    def _replicated(self, journal: str) -> list[str]:
        return [folder for folder in self._folders if folder.startswith(f"{journal}/")]

    def _sync(self) -> None:
        for path in sorted(self._directory.glob("*.journal")):
            if path.name != KEY_FILE and path.is_file():
                self._send_journal(path)
        complete = self._complete_folders()
        for folder in sorted(complete, reverse=True):
            journal = folder.partition("/")[0]
            newest = max(self._replicated(journal), default="")
            if folder > newest and self._send_folder(folder):
                for old in set(self._replicated(journal)) - set(complete):
                    _delete(self._bucket, f"{self._prefix}/{old}")
                    self._folders.remove(old)

    def _send_journal(self, path: Path) -> None:
        end, sha256 = self._ends.get(path.name, (0, hashlib.sha256()))
        with path.open("rb") as file:
            file.seek(end)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]  # an incomplete line may still be removed
        if not new:
            return
        after = sha256.copy()
        after.update(new)
        with self._bucket.errors(f"{self._uri}/{path.name}"):
            self._bucket.write(self._piece_key(path.name, end, after.hexdigest()), new)
        self._ends[path.name] = end + len(new), after

    def _send_folder(self, folder: str) -> bool:
        """Publish a folder and return whether it was still there.

        It is sent from links to its files: a step may remove old folders faster than one is sent.
        """
        links = self._links / folder
        shutil.rmtree(links, ignore_errors=True)
        try:
            shutil.copytree(self._directory / folder, links, copy_function=os.link)
        except (FileNotFoundError, shutil.Error):
            return False  # removed just now: there is a newer one
        store.publish(links, f"{self._uri}/{folder}", moved=self._moved)
        shutil.rmtree(links)
        self._folders.add(folder)
        return True

    def _moved(self, size: int, moved: int) -> None:  # noqa: ARG002
        if self.finished:
            raise _Finished

    def _complete_folders(self) -> list[str]:
        names = []
        for journal in self._directory.glob("*.journal"):
            if journal.is_dir():
                names += [f"{journal.name}/{path.name}" for path in _folders(journal)]
        return names

    def _list(self) -> list[str]:
        with self._bucket.errors(self._uri):
            return list(self._bucket.list(f"{self._prefix}/"))


class _Finished(Exception):
    """The step has finished: its journals are not needed any more."""


def _replica_uri(output: str, key: str) -> str:
    return f"{output}.unfinished/{key[:32]}"


def _folders(journal: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [
            path for path in journal.iterdir() if path.is_dir() and not path.name.endswith(".tmp")
        ]
    return []


def _delete(bucket: Bucket, prefix: str) -> None:
    """Delete a replica; first the object that marks a folder as complete, so none is half there."""
    with bucket.errors(f"s3://{bucket.name}/{prefix}"):
        names = [f"{prefix}/{name}" for name in bucket.list(f"{prefix}/")]
        markers = [name for name in names if name.endswith(f"/{store.PUBLISHED}")]
        bucket.remove(markers)
        bucket.remove([name for name in names if name not in set(markers)])
