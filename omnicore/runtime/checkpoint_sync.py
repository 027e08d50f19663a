"""What an unfinished step has done, kept in S3 while it works, so that it outlives the pod that does it.

  <output>.unfinished/<key>/
    replies.journal/000000000000000-<sha256>    a piece of a journal that is only ever appended to: where it begins, and the sha256
                                                of the journal up to its end
    checkpoints.journal/step-000020/            a folder of a journal that is a directory, published by omnicore/storage/store.py

A piece is one object and a folder is published whole, so what is read back is always something that the step has had. Pieces whose
sha256 does not follow from those before are another writer's, or damaged: the journal ends before them. Folders never change once
they have their name (`.tmp` behind it until then), and the last by name is the newest, which is enough to go on from.
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
from omnicore.runtime.run import KEY_FILE, unfinished_key
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE
from omnicore.storage.files import atomic_writer, read_json

if TYPE_CHECKING:
    from omnicore.storage.s3 import Bucket

logger = logging.getLogger(__name__)
EVERY = 30.0  # seconds from one look at the journals to the next; a folder that is complete is not waited with
POLL = 1.0
PIECE = re.compile(r"([^/]+\.journal)/(\d{15})-([0-9a-f]{64})")
FOLDER = re.compile(r"([^/]+\.journal/[^/]+)/" + re.escape(store.PUBLISHED))


@contextmanager
def kept(directory: Path, output: str, key: str) -> Iterator[None]:
    """Brings what is kept of the step with this key back into `directory`, then keeps what its
    journals hold while the block runs.

    Raises StorageError when the store is away at the beginning. What goes wrong later is said on
    stderr, and the step goes on.
    """
    keeper = Keeper(directory, output, key)
    keeper.bring_back()
    thread = threading.Thread(target=keeper.run, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        keeper.ended.set()
        thread.join()
        keeper.try_to_keep()  # what it has done since the last look; the same command goes on from there
        raise
    keeper.finished = True  # an upload that is under way is given up
    keeper.ended.set()
    thread.join()


def forget(output: str, key: str) -> None:
    """Removes what is kept of the step with this key, which is published by now.

    What is kept of other settings stays.
    """
    try:
        _remove(*store.open_bucket(_place(output, key)))
    except OmniError as error:
        logger.warning("%s: its journals and checkpoints were not deleted: %s", output, error)


def _place(output: str, key: str) -> str:
    return f"{output}.unfinished/{key[:32]}"


class Keeper:
    """`directory` is where the step works, `output` its s3:// address."""

    def __init__(self, directory: Path, output: str, key: str) -> None:
        self._directory, self._key = directory, key
        self._uri = _place(output, key)
        self._bucket, self._prefix = store.open_bucket(self._uri)
        self._links = directory.with_name(directory.name + ".keeping")
        self._ends: dict[
            str, tuple[int, hashlib._Hash]
        ] = {}  # of each journal, what is kept: its length and sha256
        self._folders: set[str] = set()  # that are kept, as in checkpoints.journal/step-000020
        self.ended, self.finished, self._warned = threading.Event(), False, False

    def bring_back(self) -> None:
        """Makes the directory hold at least what is kept.

        What it holds itself of the same key and is longer, or newer, stays.
        """
        shutil.rmtree(self._links, ignore_errors=True)
        finished = self._directory / STEP_FILE
        if finished.exists() and read_json(finished).get("key") == self._key:
            return  # and only not published yet
        there = self._list()
        pieces = sorted(match.groups() for name in there if (match := PIECE.fullmatch(name)))
        self._folders = {match[1] for name in there if (match := FOLDER.fullmatch(name))}
        if not pieces and not self._folders:
            return
        if unfinished_key(self._directory) != self._key:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir(parents=True)
            (self._directory / KEY_FILE).write_text(self._key)
        for journal in sorted({journal for journal, _, _ in pieces}):
            self._bring_journal(
                journal, [(int(start), sha256) for name, start, sha256 in pieces if name == journal]
            )
        for journal in sorted({folder.partition("/")[0] for folder in self._folders}):
            self._bring_folder(journal)

    def _bring_journal(self, journal: str, pieces: list[tuple[int, str]]) -> None:
        content, sha256, strange = b"", hashlib.sha256(), []
        for start, expected in pieces:
            name = f"{journal}/{start:015d}-{expected}"
            after = sha256.copy()
            with self._bucket.errors(f"{self._uri}/{name}"):
                piece = (
                    (self._bucket.read(f"{self._prefix}/{name}") or b"")
                    if start == len(content)
                    else b""
                )
            after.update(piece)
            if piece and after.hexdigest() == expected:
                content, sha256 = content + piece, after
            else:
                strange.append(f"{self._prefix}/{name}")
        path = self._directory / journal
        held = path.read_bytes() if path.exists() else b""
        if not content.startswith(held) and not held.startswith(content):
            strange = [
                f"{self._prefix}/{journal}/{start:015d}-{expected}" for start, expected in pieces
            ]
            content, sha256 = b"", hashlib.sha256()
        if strange:
            with self._bucket.errors(self._uri):
                self._bucket.remove(strange)
        if len(content) > len(held):
            with atomic_writer(path) as file:
                file.write(content)
        self._ends[journal] = len(content), sha256

    def _bring_folder(self, journal: str) -> None:
        held = max((path.name for path in _folders(self._directory / journal)), default="")
        for folder in sorted(
            (name for name in self._folders if name.startswith(f"{journal}/")), reverse=True
        ):
            name = folder.partition("/")[2]
            if name <= held:
                return
            try:
                store.fetch(f"{self._uri}/{folder}", self._links / folder)
            except StorageError as error:
                self._list()  # raises where the store is away: that is no damage
                logger.warning("%s; loading the checkpoint before it", error)
                self._folders.remove(folder)
                continue
            (self._directory / journal).mkdir(exist_ok=True)
            (self._links / folder).rename(self._directory / journal / name)
            return

    def run(self) -> None:
        """Until `ended`."""
        looked, failed = time.monotonic(), False
        while not self.ended.wait(POLL):
            due = time.monotonic() - looked >= EVERY
            if due or (not failed and set(self._complete()) - self._folders):
                failed = not self.try_to_keep()
                looked = time.monotonic()

    def try_to_keep(self) -> bool:
        """Keeps what is new, and says so once when that does not go."""
        try:
            self._keep()
        except _Finished:
            return True
        except Exception as error:
            if not self._warned:
                logger.warning("%s: syncing the journals failed, retrying: %s", self._uri, error)
            self._warned = True
            return False
        self._warned = False
        return True

    def _keep(self) -> None:
        for path in sorted(self._directory.glob("*.journal")):
            if path.name != KEY_FILE and path.is_file():
                self._keep_journal(path)
        complete = self._complete()
        for folder in sorted(complete, reverse=True):
            journal = folder.partition("/")[0]
            newest = max(
                (name for name in self._folders if name.startswith(f"{journal}/")), default=""
            )
            if folder > newest and self._keep_folder(folder):
                for old in {name for name in self._folders if name.startswith(f"{journal}/")} - set(
                    complete
                ):
                    _remove(self._bucket, f"{self._prefix}/{old}")
                    self._folders.remove(old)

    def _keep_journal(self, path: Path) -> None:
        end, sha256 = self._ends.get(path.name, (0, hashlib.sha256()))
        with path.open("rb") as file:
            file.seek(end)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]  # a line that is being written may yet be taken back
        if new:
            after = sha256.copy()
            after.update(new)
            with self._bucket.errors(f"{self._uri}/{path.name}"):
                self._bucket.write(
                    f"{self._prefix}/{path.name}/{end:015d}-{after.hexdigest()}", new
                )
            self._ends[path.name] = end + len(new), after

    def _keep_folder(self, folder: str) -> bool:
        """Whether it is kept.

        From links to its files: a step that removes old folders faster than they are sent would else have
        none kept, ever.
        """
        links = self._links / folder
        shutil.rmtree(links, ignore_errors=True)
        try:
            shutil.copytree(self._directory / folder, links, copy_function=os.link)
        except (FileNotFoundError, shutil.Error):
            return False  # removed a moment ago: a newer one is there
        store.publish(links, f"{self._uri}/{folder}", moved=self._moved)
        shutil.rmtree(links)
        self._folders.add(folder)
        return True

    def _moved(self, size: int, moved: int) -> None:  # noqa: ARG002
        if self.finished:
            raise _Finished

    def _complete(self) -> list[str]:
        return [
            f"{journal.name}/{path.name}"
            for journal in self._directory.glob("*.journal")
            if journal.is_dir()
            for path in _folders(journal)
        ]

    def _list(self) -> list[str]:
        with self._bucket.errors(self._uri):
            return list(self._bucket.list(f"{self._prefix}/"))


class _Finished(Exception):
    """The result is there: what leads to it is not needed any more."""


def _folders(journal: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [
            path for path in journal.iterdir() if path.is_dir() and not path.name.endswith(".tmp")
        ]
    return []


def _remove(bucket: Bucket, prefix: str) -> None:
    """What says that a folder is there goes first, so that none is ever seen in part."""
    with bucket.errors(f"s3://{bucket.name}/{prefix}"):
        names = [f"{prefix}/{name}" for name in bucket.list(f"{prefix}/")]
        first = [name for name in names if name.endswith(f"/{store.PUBLISHED}")]
        bucket.remove(first)
        bucket.remove([name for name in names if name not in set(first)])
