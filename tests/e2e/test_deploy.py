"""A decision becomes a commit of a bare repository, with results in a real bucket: alone, at once,
refused, reverted."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from omnicore.cli.main import main
from omnicore.cluster import gitops
from omnicore.cluster.inferenceservice import PublishedCheckpoint, publish_checkpoint
from omnicore.errors import DataError
from omnicore.lineage.step_record import write_step
from omnicore.storage import store
from omnicore.storage.files import write_json
from tests.kubectl import kustomize
from tests.seaweed import BUCKET, free_ports, seaweed, signed_in

__all__ = ["seaweed", "signed_in"]
ROOT = Path(__file__).parents[2]
FILE = "k8s/overlays/prod/champion.yaml"
RESULTS = f"s3://{BUCKET}/deploy"


class Repository:
    """A bare repository with the manifests and a champion, and work trees of it."""

    def __init__(self, root: Path, champion: PublishedCheckpoint) -> None:
        self.root, self.bare = root, root / "bare.git"
        self.git(root, "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self.tree = self.clone("tree")
        shutil.copytree(ROOT / "k8s", self.tree / "k8s")
        values = {"address": champion.address, "digest": champion.digest, "uri": champion.uri}
        path = self.tree / FILE
        path.write_text(gitops.replaced(path.read_text(), values))
        self.commit(self.tree, "the beginning")
        self.git(self.tree, "push", "--quiet", "origin", "HEAD:main")

    def git(self, tree: Path, *words: str) -> str:
        who = (
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            "-c",
            "protocol.file.allow=always",
        )
        return subprocess.run(
            ["git", *who, *words], cwd=tree, check=True, capture_output=True, text=True
        ).stdout.strip()

    def clone(self, name: str) -> Path:
        self.git(self.root, "clone", "--quiet", str(self.bare), name)
        return self.root / name

    def commit(self, tree: Path, message: str) -> None:
        self.git(tree, "add", "--all")
        self.git(tree, "commit", "--quiet", f"--message={message}")

    def log(self, branch: str = "main") -> list[str]:
        return self.git(self.bare, "log", "--format=%s", branch).splitlines()

    def text(self, branch: str = "main") -> str:
        return self.git(self.bare, "show", f"{branch}:{FILE}")

    def hook(self, script: str) -> None:
        path = self.bare / "hooks" / "pre-receive"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture(scope="module")
def models(
    seaweed: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PublishedCheckpoint]:
    """Published results of three trainings, and of one with a pickle beside its weights."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.env.items():
            patch.setenv(name, value)
        return {
            name: published(tmp_path_factory.mktemp(name), name)
            for name in ("first", "second", "third", "pickled")
        }


def published(folder: Path, name: str) -> PublishedCheckpoint:
    weights = folder / "checkpoint"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_text(name)
    if name == "pickled":
        (weights / "pytorch_model.bin").write_text("")
    write_step(
        folder, {"step": "rlvr", "section": "rlvr", "key": name, "seconds": 1.0, "summary": {}}
    )
    store.publish(folder, f"{RESULTS}/{name}")
    return publish_checkpoint(f"{RESULTS}/{name}", "")


@pytest.fixture
def repository(
    signed_in: None, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> Repository:
    return Repository(tmp_path, models["first"])


def decision(
    root: Path,
    candidate: PublishedCheckpoint,
    champion: PublishedCheckpoint,
    decided: str = "promote",
) -> Path:
    """What promote writes, about two published models."""
    folder = root / f"decision-{candidate.address.rpartition('/')[2]}"
    folder.mkdir(exist_ok=True)
    figures = {"value": 0.4, "low": 0.35, "high": 0.45, "n": 500}
    digests = {
        "champion": gitops._model(champion.address),
        "candidate": gitops._model(candidate.address),
    }
    found = {
        "decision": decided,
        "reasons": ["40 points better", "none worse"],
        "difference": figures,
        "by_benchmark": {"elm": figures},
    }
    hashes = {
        "champion": "c" * 64,
        "candidate": "d" * 64,
        "profile_hash": "e" * 64,
        "manifest_hash": "f" * 64,
    }
    write_json(folder / "decision.json", {**found, **hashes, "models": digests})
    return folder


def deploy(
    repository: Repository,
    decided: Path,
    candidate: PublishedCheckpoint,
    to: str = "",
    *options: str,
) -> int:
    place = ["--repo", to or str(repository.bare), "--checkpoint", candidate.address]
    return main(["deploy", "--decision", str(decided), *place, *options])


def served(tree: Path) -> tuple[str, str, str]:
    """Address, digest and uri of the champion as kubectl renders the overlay."""
    kustomize.cache_clear()
    (found,) = [
        o for o in kustomize(tree / "k8s" / "overlays" / "prod") if o["kind"] == "InferenceService"
    ]
    predictor = found["spec"]["predictor"]
    return *predictor["initContainers"][0]["args"][:2], predictor["model"]["storageUri"]


def names(model: PublishedCheckpoint) -> tuple[str, str, str]:
    return model.address, model.digest, model.uri


def test_a_commit_changes_three_values_carries_its_evidence_and_is_reverted(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = models["first"], models["second"]
    before = repository.text()
    decided = decision(tmp_path, second, first)
    assert deploy(repository, decided, second) == 0
    assert f"on main: {second.address} is the champion" in capsys.readouterr().out
    after = repository.text()
    changed = [
        (a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b
    ]
    assert [b.split(":")[0].strip() for _, b in changed] == ["address", "digest", "uri"]
    message = repository.git(repository.bare, "log", "-1", "--format=%B", "main")
    for part in (
        "- 40 points better",
        "elm: +40.0 [+35.0, +45.0] over 500",
        f"Replaces: {first.address}",
        f"Manifest: {'f' * 64}",
    ):
        assert part in message
    assert (
        repository.git(repository.bare, "show", "--stat", "--format=", "main")
        .splitlines()[0]
        .split()[0]
        == FILE
    )
    assert served(repository.clone("after")) == names(second)

    assert deploy(repository, decided, second) == 0  # the same again, as a retry does
    assert "serves already" in capsys.readouterr().out
    assert len(repository.log()) == 2

    tree = repository.clone("back")
    repository.git(tree, "revert", "--no-edit", "HEAD")
    repository.git(tree, "push", "--quiet")
    assert served(tree) == names(first)
    assert repository.text() == before


def test_of_two_at_once_one_wins_and_the_other_is_told_to_compare_again(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready = threading.Barrier(2)
    push, waited = gitops._push, threading.local()

    def together(*arguments: Any) -> str:
        if not hasattr(waited, "done"):
            waited.done = True
            ready.wait(30)  # both have seen the same champion, and have their commits
        return push(*arguments)

    monkeypatch.setattr(gitops, "_push", together)
    given = {
        name: decision(tmp_path, models[name], models["first"]) for name in ("second", "third")
    }

    def run(name: str) -> str:
        try:
            return gitops.deploy(
                given[name], models[name].address, str(repository.bare), "main", file=FILE
            )
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = dict(zip(given, pool.map(run, given), strict=True))
    (winner,) = [name for name, words in said.items() if "is the champion" in words]
    (loser,) = set(given) - {winner}
    assert f"the champion has moved: {FILE} on main serves {models[winner].address}" in said[loser]
    assert "evaluate this champion, and promote again" in said[loser]
    assert len(repository.log()) == 2
    assert f'"{models[winner].digest}"' in repository.text()


@pytest.mark.parametrize(("moves", "status"), [(1, 0), (gitops.TRIES, 2)])
def test_a_branch_that_moves_is_taken_up_where_it_is(
    moves: int,
    status: int,
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    push, left = gitops._push, list(range(moves))

    def moved(*arguments: Any) -> str:
        if left:
            (repository.tree / f"{left.pop()}.txt").write_text("")
            repository.commit(repository.tree, "another's")
            repository.git(repository.tree, "push", "--quiet", "origin", "HEAD:main")
        return push(*arguments)

    monkeypatch.setattr(gitops, "_push", moved)
    assert (
        deploy(repository, decision(tmp_path, models["second"], models["first"]), models["second"])
        == status
    )
    assert repository.log().count("another's") == moves
    assert ("The champion is second" in repository.log()) == (status == 0)
    assert (
        status == 0
        or f"has moved {moves} times meanwhile, and nothing was changed" in capsys.readouterr().err
    )


def test_a_push_whose_answer_was_lost_has_happened(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = gitops._push
    monkeypatch.setattr(
        gitops, "_push", lambda *arguments: push(*arguments) or "the connection was reset"
    )
    assert (
        deploy(repository, decision(tmp_path, models["second"], models["first"]), models["second"])
        == 0
    )
    assert len(repository.log()) == 2


def test_a_proposal_is_a_branch_of_its_own(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = models["second"]
    decided = decision(tmp_path, second, models["first"])
    for date in ("2026-11-01T00:00Z", "2026-11-02T00:00Z"):
        monkeypatch.setenv("GIT_COMMITTER_DATE", date)
        assert deploy(repository, decided, second, "", "--propose") == 0
        told = "is proposed" if date.startswith("2026-11-01") else "is proposed already, by commit"
        assert told in capsys.readouterr().out
    assert len(repository.log()) == 1
    assert repository.log(f"champion-{second.digest[:12]}")[0] == "The champion is second"


def test_in_a_work_tree_the_commit_is_made_and_left_to_be_pushed(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second, tree = models["second"], repository.clone("mine")
    decided = decision(tmp_path, second, models["first"])
    (tree / "note.txt").write_text("")
    assert deploy(repository, decided, second, str(tree)) == 2
    assert (
        "has changes that are not committed (?? note.txt): commit or stash them"
        in capsys.readouterr().err
    )
    (tree / "note.txt").unlink()
    assert deploy(repository, decided, second, str(tree), "--branch", "other") == 2
    assert "has main checked out, not other" in capsys.readouterr().err
    assert deploy(repository, decided, second, str(tree)) == 0
    assert "not pushed" in capsys.readouterr().out
    assert served(tree) == names(second)
    assert len(repository.log()) == 1


def test_a_commit_that_a_hook_refuses_leaves_the_work_tree_as_it_was(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = repository.clone("mine")
    hook = tree / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho no commits on fridays >&2\nexit 1\n")
    hook.chmod(0o755)
    assert (
        deploy(
            repository,
            decision(tmp_path, models["second"], models["first"]),
            models["second"],
            str(tree),
        )
        == 2
    )
    assert "no commits on fridays" in capsys.readouterr().err
    assert repository.git(tree, "status", "--porcelain") == ""
    assert served(tree) == names(models["first"])


@contextmanager
def read_only(repository: Repository) -> Iterator[str]:
    """The repository behind git's own daemon, which takes no pushes."""
    (port,) = free_ports(1)
    command = [
        "git",
        "daemon",
        "--reuseaddr",
        "--export-all",
        "--listen=127.0.0.1",
        f"--port={port}",
        f"--base-path={repository.root}",
    ]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"git://127.0.0.1:{port}/bare.git"
    try:
        limit = time.monotonic() + 20
        while subprocess.run(
            ["git", "ls-remote", url], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < limit
            time.sleep(0.1)
        yield url
    finally:
        daemon.terminate()
        daemon.wait()


def test_who_may_not_push_is_told_so_and_nothing_is_half_done(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = repository.git(repository.bare, "for-each-ref")
    decided = decision(tmp_path, models["second"], models["first"])
    repository.hook("echo main is protected >&2; exit 1")
    for options in ([], ["--propose"]):
        assert deploy(repository, decided, models["second"], "", *options) == 2
        said = capsys.readouterr().err
        assert "takes no commit on" in said
        assert "and nothing was changed" in said
        assert "main is protected" in said
    with read_only(repository) as url:
        assert deploy(repository, decided, models["second"], url) == 2
    assert f"{url} takes no commit on main, and nothing was changed" in capsys.readouterr().err
    assert repository.git(repository.bare, "for-each-ref") == before


# The candidate and the champion that were compared, the candidate that is named, options, and what is said.
REFUSED: dict[str, tuple[str, str, str, list[str], str]] = {
    "another candidate": ("third", "first", "second", [], "was decided on: name that one"),
    "another champion": (
        "second",
        "third",
        "second",
        [],
        "the champion has moved: .*/first .model ",
    ),
    "a pickle": (
        "pickled",
        "first",
        "pickled",
        [],
        r"holds pytorch_model\.bin, which may run code",
    ),
    "no such branch": ("second", "first", "second", ["--branch", "x"], "git clone of"),
    "no such file": (
        "second",
        "first",
        "second",
        ["--file", "a.yaml"],
        "main has no a.yaml: name the file .* with --file",
    ),
    "no champion": (
        "second",
        "first",
        "second",
        ["--file", "k8s/base/priorities.yaml"],
        "does not name a champion",
    ),
    "nobody there": (
        "second",
        "first",
        "second",
        ["--repo", "http://127.0.0.1:9/x.git"],
        r"git clone of http://127\.0\.0\.1:9/x\.git",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(
    case: str,
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compared, champion, candidate, options, words = REFUSED[case]
    decided = decision(tmp_path, models[compared], models[champion])
    assert deploy(repository, decided, models[candidate], "", *options) == 2
    assert re.search(words, capsys.readouterr().err)
    assert len(repository.log()) == 1


def test_a_decision_to_keep_is_kept_and_a_model_outside_of_s3_is_not_served(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second, first = models["second"], models["first"]
    assert deploy(repository, decision(tmp_path, second, first, "keep"), second) == 2
    assert "decides to keep the champion: 40 points better; none worse" in capsys.readouterr().err
    assert (
        deploy(repository, decision(tmp_path, second, first), second._replace(address="runs/rlvr"))
        == 2
    )
    assert "--checkpoint 'runs/rlvr': what serves is fetched from S3" in capsys.readouterr().err
    assert len(repository.log()) == 1


def test_the_first_champion_is_not_of_a_comparison(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(ROOT / FILE, repository.tree / FILE)
    repository.commit(repository.tree, "none yet")
    repository.git(repository.tree, "push", "--quiet", "origin", "HEAD:main")
    assert (
        deploy(repository, decision(tmp_path, models["second"], models["first"]), models["second"])
        == 2
    )
    assert "names no champion yet" in capsys.readouterr().err


def test_the_token_goes_to_the_address_in_a_header_and_into_no_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/x.git"
    monkeypatch.setenv(gitops.TOKEN, "secret")
    with pytest.raises(gitops.ConfigError, match="403") as raised:
        gitops._git(tmp_path, "ls-remote", url, address=url)
    server.shutdown()
    server.server_close()
    assert seen[0] == f"Basic {base64.b64encode(b'omnicore:secret').decode()}"
    assert "secret" not in str(raised.value)
    assert gitops.TOKEN not in gitops._environment()
