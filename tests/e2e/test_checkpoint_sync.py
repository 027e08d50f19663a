"""Journals that survive the machine: kept in a real S3 store while a step runs, brought back by the
same command elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omnicore.config.recipe import load_recipe
from omnicore.errors import StorageError
from omnicore.runtime import checkpoint_sync
from omnicore.runtime.checkpoint_sync import CheckpointSync
from omnicore.runtime.run import run_step
from omnicore.storage import store
from omnicore.storage.digests import KEY_FILE
from tests.cases import slow
from tests.errors import refused
from tests.seaweed import (
    Proxy,
    Seaweed,
    impatient,
    objects,
    overwrite,
    proxy,
    seaweed,
    signed_in,
    uri,
)
from tests.stub_server import MODEL, Stub
from tests.unit.test_kill import journaled

__all__ = ["impatient", "proxy", "seaweed", "signed_in", "uri"]
pytestmark = pytest.mark.usefixtures("signed_in")
KEY = "k" * 64
PROBE = [
    "prepare.split=dev",
    "prepare.scale=0.05",
    f"probe.model={MODEL}",
    "probe.engine.kind=http",
    "probe.engine.concurrency=2",
]
EAGER = (
    "import sys; from omnicore.cli.main import main; from omnicore.runtime import checkpoint_sync as sync;"
    " sync.EVERY = sync.POLL = 0.05; sys.exit(main())"
)


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def journal(directory: Path, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / KEY_FILE).write_text(KEY)
    (directory / "replies.journal").write_text(text)


def folder(directory: Path, step: int, text: str = "whole") -> Path:
    made = directory / "checkpoints.journal" / f"step-{step:06d}"
    made.mkdir(parents=True)
    (made / "weights").write_text(f"{text} {step}")
    return made


def kept(seaweed: Seaweed, uri: str) -> list[str]:
    """What is kept, without the sha256 of pieces and the files of folders."""
    found = [
        name.removeprefix(f"{KEY[:32]}/").partition("-" if "replies" in name else "/published")[0]
        for name in objects(seaweed, f"{uri}.unfinished")
    ]
    return sorted({name for name in found if "/weights" not in name})


def test_journal_is_synced_in_pieces_and_restored(
    seaweed: Seaweed, uri: str, tmp_path: Path
) -> None:
    first = CheckpointSync(tmp_path / "a", uri, KEY)
    first.restore()
    assert not (tmp_path / "a").exists(), "nothing is kept, so nothing is begun"
    for text in ("one\n", "one\ntwo\nthr", "one\ntwo\nthr", "one\ntwo\nthree\n"):
        journal(tmp_path / "a", text)
        assert first.try_to_sync()
    assert kept(seaweed, uri) == [f"replies.journal/{place:015d}" for place in (0, 4, 8)]
    journal(tmp_path / "b", "of another step")
    (tmp_path / "b" / KEY_FILE).write_text("another key")
    (tmp_path / "b" / "half.jsonl").touch()
    second = CheckpointSync(tmp_path / "b", uri, KEY)
    second.restore()
    assert {path.name: path.read_text() for path in (tmp_path / "b").iterdir()} == {
        KEY_FILE: KEY,
        "replies.journal": "one\ntwo\nthree\n",
    }
    journal(tmp_path / "b", "one\ntwo\nthree\nfour\n")
    second.try_to_sync()
    assert kept(seaweed, uri)[-1] == f"replies.journal/{14:015d}"
    checkpoint_sync.forget(uri, KEY)
    assert kept(seaweed, uri) == []


@pytest.mark.parametrize(
    ("here", "back", "places"),
    [
        ("one\n", "one\ntwo\n", [0, 4]),
        ("one\ntwo\nthr", "one\ntwo\nthr", [0, 4]),
        ("one\ntwo\nthree\n", "one\ntwo\nthree\n", [0, 4, 8]),
        ("uno\n", "uno\n", [0]),
    ],
    ids=["shorter", "torn", "longer", "other"],
)
def test_local_and_synced_journals_are_merged(
    seaweed: Seaweed, uri: str, tmp_path: Path, here: str, back: str, places: list[int]
) -> None:
    before = CheckpointSync(tmp_path / "a", uri, KEY)
    for text in ("one\n", "one\ntwo\n"):
        journal(tmp_path / "a", text)
        before.try_to_sync()
    journal(tmp_path / "b", here)
    after = CheckpointSync(tmp_path / "b", uri, KEY)
    after.restore()
    assert (tmp_path / "b" / "replies.journal").read_text() == back
    after.try_to_sync()
    assert kept(seaweed, uri) == [f"replies.journal/{place:015d}" for place in places]


def test_damaged_piece_ends_the_journal_before_it(
    seaweed: Seaweed, uri: str, tmp_path: Path
) -> None:
    keeper = CheckpointSync(tmp_path / "a", uri, KEY)
    for text in ("one\n", "one\ntwo\n", "one\ntwo\nthree\n"):
        journal(tmp_path / "a", text)
        keeper.try_to_sync()
    (name,) = [
        name for name in objects(seaweed, f"{uri}.unfinished") if "/000000000000004-" in name
    ]
    overwrite(seaweed, f"{uri}.unfinished", name, b"tow\n")
    CheckpointSync(tmp_path / "b", uri, KEY).restore()
    assert (tmp_path / "b" / "replies.journal").read_text() == "one\n"
    assert kept(seaweed, uri) == [f"replies.journal/{0:015d}"]


def test_only_whole_folders_are_synced(seaweed: Seaweed, uri: str, tmp_path: Path) -> None:
    work = tmp_path / "a"
    keeper = CheckpointSync(work, uri, KEY)
    journal(work, "")
    folder(work, 2)
    keeper.try_to_sync()
    folder(work, 4)
    folder(work, 6).rename(work / "checkpoints.journal" / "step-000006.tmp")
    keeper.try_to_sync()
    assert kept(seaweed, uri) == [
        "checkpoints.journal/step-000002",
        "checkpoints.journal/step-000004",
    ]
    shutil.rmtree(work / "checkpoints.journal" / "step-000002")
    folder(work, 8)
    keeper.try_to_sync()
    assert kept(seaweed, uri) == [
        "checkpoints.journal/step-000004",
        "checkpoints.journal/step-000008",
    ]

    CheckpointSync(tmp_path / "b", uri, KEY).restore()
    assert [path.name for path in (tmp_path / "b" / "checkpoints.journal").iterdir()] == [
        "step-000008"
    ]
    assert (
        tmp_path / "b" / "checkpoints.journal" / "step-000008" / "weights"
    ).read_text() == "whole 8"
    where = f"{uri}.unfinished/{KEY[:32]}/checkpoints.journal/step-000008"
    overwrite(seaweed, where, f"{store.require(where).folder}/weights", b"rotten8")
    CheckpointSync(tmp_path / "c", uri, KEY).restore()
    assert [path.name for path in (tmp_path / "c" / "checkpoints.journal").iterdir()] == [
        "step-000004"
    ]
    journal(tmp_path / "d", "")
    folder(tmp_path / "d", 10)
    CheckpointSync(tmp_path / "d", uri, KEY).restore()
    assert [path.name for path in (tmp_path / "d" / "checkpoints.journal").iterdir()] == [
        "step-000010"
    ]


def test_folder_removed_during_upload_is_synced(
    seaweed: Seaweed, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a step that saves faster than the network takes it would have nothing kept, ever."""
    work, publish = tmp_path / "a", store.publish

    def slow(directory: Path, where: str, **given: object) -> store.Publication:
        shutil.rmtree(work / "checkpoints.journal" / "step-000002")
        return publish(directory, where, **given)  # type: ignore[arg-type]

    keeper = CheckpointSync(work, uri, KEY)
    journal(work, "")
    folder(work, 2)
    monkeypatch.setattr(store, "publish", slow)
    assert keeper.try_to_sync()
    assert kept(seaweed, uri) == ["checkpoints.journal/step-000002"]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_sync, "EVERY", 0.05)
    monkeypatch.setattr(checkpoint_sync, "POLL", 0.02)


@pytest.mark.usefixtures("eager", "impatient")
def test_outage_is_logged_once_and_fails_nothing(
    uri: str, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with checkpoint_sync.synced(tmp_path / "a", uri, KEY):
        proxy.close()
        journal(tmp_path / "a", "one\n")
        folder(tmp_path / "a", 2)
        until(lambda: "syncing the journals failed" in capsys.readouterr().err)
        time.sleep(0.5)
        assert capsys.readouterr().err == ""
    checkpoint_sync.forget(uri, KEY)
    assert f"{uri}: its journals and checkpoints were not deleted" in capsys.readouterr().err
    with (
        refused(StorageError, "s3-unreachable"),
        checkpoint_sync.synced(tmp_path / "b", uri, KEY),
    ):
        pass


def test_failed_step_syncs_and_finished_step_does_not(
    seaweed: Seaweed, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_sync, "POLL", 60)

    def fail() -> None:
        with checkpoint_sync.synced(tmp_path / "a", uri, KEY):
            journal(tmp_path / "a", "one\n")
            folder(tmp_path / "a", 2)
            raise StorageError("away")

    with pytest.raises(StorageError, match="away"):
        fail()
    assert kept(seaweed, uri) == ["checkpoints.journal/step-000002", f"replies.journal/{0:015d}"]
    keeper = CheckpointSync(tmp_path / "a", uri, KEY)
    keeper.restore()
    folder(tmp_path / "a", 4)
    keeper.finished = True
    assert keeper.try_to_sync()
    assert "checkpoints.journal/step-000004" not in kept(seaweed, uri)


def omnicore(arguments: list[str], scratch: Path) -> subprocess.Popen[bytes]:
    scratch.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", EAGER, *arguments], env={**os.environ, "TMPDIR": str(scratch)}
    )


@pytest.mark.parametrize("seed", [0, slow(1)])
def test_probe_resumes_on_another_machine(
    seaweed: Seaweed, uri: str, tmp_path: Path, seed: int
) -> None:
    """With another seed it is another result, which takes nothing of the first."""
    queries = tmp_path / "prepare"
    run_step("prepare", load_recipe("tiny", PROBE[:2]), {}, queries)

    def settings(stub: Stub, seed: int) -> list[str]:
        return [*PROBE, f"probe.engine.url={stub.url}", f"seed={seed}"]

    with Stub() as stub:
        calm = run_step(
            "probe",
            load_recipe("tiny", settings(stub, seed)),
            {"queries": queries},
            tmp_path / "calm",
        )
        total = stub.asked
    with Stub(service=0.02) as stub:

        def command(seed: int) -> list[str]:
            sets = [part for value in settings(stub, seed) for part in ("--set", value)]
            return ["probe", *sets, "--input", f"queries={queries}", "--output", uri]

        with omnicore(command(0), tmp_path / "first") as process:
            until(
                lambda: (
                    any(".journal/" in name for name in objects(seaweed, f"{uri}.unfinished"))
                    and stub.asked > total / 4
                )
            )
            process.kill()
            assert process.wait() == -signal.SIGKILL
        shutil.rmtree(tmp_path / "first")
        (key,) = {name.partition("/")[0] for name in objects(seaweed, f"{uri}.unfinished")}
        CheckpointSync(tmp_path / "kept", uri, key).restore()
        answered, before = journaled(tmp_path / "kept"), dict(stub.counts)
        assert 0 < len(answered) < 0.9 * total
        with omnicore(command(seed), tmp_path / "second") as process:
            assert process.wait() == 0
        asked = {
            number: count - before.get(number, 0) for number, count in stub.counts.items() if number
        }
        assert sum(asked.values()) == (total - len(answered) if seed == 0 else total)
        assert seed or not any(asked[number] for number in answered)
    record = json.loads(store.read_file(uri, store.require(uri), "step.json"))
    assert (record["key"], record["digest"]) == (calm["key"], calm["digest"])
    kept = {name.partition("/")[0] for name in objects(seaweed, f"{uri}.unfinished")}
    assert kept == (set() if seed == 0 else {key})  # what is kept of other settings stays
