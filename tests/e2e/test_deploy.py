"""Deploy a decision as a commit of a bare repository, with results in a real bucket."""

from __future__ import annotations

import base64
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
from omnicore.cluster import git, gitops
from omnicore.cluster.inferenceservice import PublishedCheckpoint, publish_checkpoint
from omnicore.errors import CheckpointError, ConfigError, DataError
from omnicore.lineage.step_record import write_step
from omnicore.storage import store
from omnicore.storage.files import write_json
from tests.errors import refused
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
        path.write_text(gitops.replace_data(path.read_text(), values))
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
        "champion": gitops._model_digest(champion.address),
        "candidate": gitops._model_digest(candidate.address),
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
    *,
    branch: str = "main",
    file: str = FILE,
    propose: bool = False,
) -> str:
    return gitops.deploy(
        decided,
        candidate.address,
        to or str(repository.bare),
        branch,
        file=file,
        propose=propose,
    )


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


def test_commit_changes_three_values_and_reverts(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = models["first"], models["second"]
    before = repository.text()
    decided = decision(tmp_path, second, first)
    place = ["--repo", str(repository.bare), "--checkpoint", second.address]
    assert main(["cluster", "deploy", "--decision", str(decided), *place]) == 0
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

    # The same again, as a retry does.
    assert deploy(repository, decided, second) == f"{second.address} serves already on main"
    assert len(repository.log()) == 2

    tree = repository.clone("back")
    repository.git(tree, "revert", "--no-edit", "HEAD")
    repository.git(tree, "push", "--quiet")
    assert served(tree) == names(first)
    assert repository.text() == before


def test_concurrent_deploys_leave_one_winner(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ready = threading.Barrier(2)
    push, waited = gitops.push_error, threading.local()

    def together(*arguments: Any) -> str:
        if not hasattr(waited, "done"):
            waited.done = True
            # Both have seen the same champion and have their commits.
            ready.wait(30)
        return push(*arguments)

    monkeypatch.setattr(gitops, "push_error", together)
    given = {
        name: decision(tmp_path, models[name], models["first"]) for name in ("second", "third")
    }

    def run(name: str) -> str:
        try:
            return deploy(repository, given[name], models[name])
        except DataError as error:
            return f"{error.code}: {error}"

    with ThreadPoolExecutor(2) as pool:
        messages = dict(zip(given, pool.map(run, given), strict=True))
    (winner,) = [name for name, text in messages.items() if "is the champion" in text]
    (loser,) = set(given) - {winner}
    assert messages[loser].startswith("deploy-champion-moved: ")
    assert f"{FILE} on main serves {models[winner].address}" in messages[loser]
    assert len(repository.log()) == 2
    assert f'"{models[winner].digest}"' in repository.text()


@pytest.mark.parametrize("moves", [1, gitops.TRIES])
def test_deploy_follows_a_branch_that_moves(
    moves: int,
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push, left = gitops.push_error, list(range(moves))

    def moved(*arguments: Any) -> str:
        if left:
            (repository.tree / f"{left.pop()}.txt").write_text("")
            repository.commit(repository.tree, "another's")
            repository.git(repository.tree, "push", "--quiet", "origin", "HEAD:main")
        return push(*arguments)

    monkeypatch.setattr(gitops, "push_error", moved)
    decided = decision(tmp_path, models["second"], models["first"])
    if moves < gitops.TRIES:
        deploy(repository, decided, models["second"])
    else:
        with refused(ConfigError, "deploy-branch-moved"):
            deploy(repository, decided, models["second"])
    assert repository.log().count("another's") == moves
    assert ("The champion is second" in repository.log()) == (moves < gitops.TRIES)


def test_push_with_a_lost_answer_succeeds(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = gitops.push_error
    monkeypatch.setattr(
        gitops, "push_error", lambda *arguments: push(*arguments) or "the connection was reset"
    )
    decided = decision(tmp_path, models["second"], models["first"])
    assert "is the champion" in deploy(repository, decided, models["second"])
    assert len(repository.log()) == 2


def test_proposal_is_a_new_branch(
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = models["second"]
    decided = decision(tmp_path, second, models["first"])
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-11-01T00:00Z")
    assert deploy(repository, decided, second, propose=True).endswith("is proposed")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-11-02T00:00Z")
    assert "is proposed already, by commit" in deploy(repository, decided, second, propose=True)
    assert len(repository.log()) == 1
    assert repository.log(f"champion-{second.digest[:12]}")[0] == "The champion is second"


def test_work_tree_gets_a_commit_without_a_push(
    repository: Repository, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> None:
    second, tree = models["second"], repository.clone("mine")
    decided = decision(tmp_path, second, models["first"])
    (tree / "note.txt").write_text("")
    with refused(ConfigError, "deploy-uncommitted-changes", path=tree) as caught:
        deploy(repository, decided, second, str(tree))
    assert "?? note.txt" in str(caught.value)
    (tree / "note.txt").unlink()
    with refused(ConfigError, "deploy-wrong-branch") as caught:
        deploy(repository, decided, second, str(tree), branch="other")
    assert "has main checked out, not other" in str(caught.value)
    assert "not pushed" in deploy(repository, decided, second, str(tree))
    assert served(tree) == names(second)
    assert len(repository.log()) == 1


def test_commit_refused_by_a_hook_leaves_the_work_tree(
    repository: Repository, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> None:
    tree = repository.clone("mine")
    hook = tree / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho no commits on fridays >&2\nexit 1\n")
    hook.chmod(0o755)
    decided = decision(tmp_path, models["second"], models["first"])
    with refused(ConfigError, "git-failed") as caught:
        deploy(repository, decided, models["second"], str(tree))
    assert "no commits on fridays" in str(caught.value)
    assert repository.git(tree, "status", "--porcelain") == ""
    assert served(tree) == names(models["first"])


@contextmanager
def read_only(repository: Repository) -> Iterator[str]:
    """Serve the repository by git's own daemon, which refuses pushes."""
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


def test_refused_push_changes_nothing(
    repository: Repository, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> None:
    before = repository.git(repository.bare, "for-each-ref")
    decided = decision(tmp_path, models["second"], models["first"])
    repository.hook("echo main is protected >&2; exit 1")
    for propose in (False, True):
        with refused(ConfigError, "deploy-push-refused") as caught:
            deploy(repository, decided, models["second"], propose=propose)
        assert "main is protected" in str(caught.value)
    with read_only(repository) as url, refused(ConfigError, "deploy-push-refused") as caught:
        deploy(repository, decided, models["second"], url)
    assert str(caught.value).startswith(url)
    assert repository.git(repository.bare, "for-each-ref") == before


# Compared candidate and champion, named candidate, options, and the error.
REFUSED: dict[str, tuple[tuple[str, str, str], dict[str, str], type[Exception], str]] = {
    "another candidate": (
        ("third", "first", "second"),
        {},
        DataError,
        "deploy-candidate-mismatch",
    ),
    "another champion": (("second", "third", "second"), {}, DataError, "deploy-champion-moved"),
    "a pickle": (("pickled", "first", "pickled"), {}, CheckpointError, ""),
    "no such branch": (("second", "first", "second"), {"branch": "x"}, ConfigError, "git-failed"),
    "no such file": (
        ("second", "first", "second"),
        {"file": "a.yaml"},
        ConfigError,
        "deploy-file-missing",
    ),
    "no champion": (
        ("second", "first", "second"),
        {"file": "k8s/base/priorities.yaml"},
        DataError,
        "deploy-champion-invalid",
    ),
    "no server": (
        ("second", "first", "second"),
        {"to": "http://127.0.0.1:9/x.git"},
        ConfigError,
        "git-failed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_deploy_is_refused_with_its_code(
    name: str,
    repository: Repository,
    models: dict[str, PublishedCheckpoint],
    tmp_path: Path,
) -> None:
    (compared, champion, candidate), options, error, code = REFUSED[name]
    decided = decision(tmp_path, models[compared], models[champion])
    with pytest.raises(error) as caught:
        deploy(repository, decided, models[candidate], **options)
    assert caught.value.code == code or not code
    assert len(repository.log()) == 1


def test_kept_champion_and_local_model_are_refused(
    repository: Repository, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> None:
    second, first = models["second"], models["first"]
    with refused(ConfigError, "deploy-decision-keeps") as caught:
        deploy(repository, decision(tmp_path, second, first, "keep"), second)
    assert "40 points better; none worse" in str(caught.value)
    with refused(ConfigError, "deploy-checkpoint-not-s3", field="--checkpoint"):
        deploy(repository, decision(tmp_path, second, first), second._replace(address="runs/rlvr"))
    assert len(repository.log()) == 1


def test_first_champion_is_written_by_hand(
    repository: Repository, models: dict[str, PublishedCheckpoint], tmp_path: Path
) -> None:
    shutil.copy(ROOT / FILE, repository.tree / FILE)
    repository.commit(repository.tree, "none yet")
    repository.git(repository.tree, "push", "--quiet", "origin", "HEAD:main")
    decided = decision(tmp_path, models["second"], models["first"])
    with refused(ConfigError, "deploy-no-champion"):
        deploy(repository, decided, models["second"])


def test_token_goes_only_into_a_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    monkeypatch.setenv(git.TOKEN, "secret")
    with refused(ConfigError, "git-failed") as caught:
        git.git(tmp_path, "ls-remote", url, address=url)
    server.shutdown()
    server.server_close()
    assert seen[0] == f"Basic {base64.b64encode(b'omnicore:secret').decode()}"
    assert "secret" not in str(caught.value)
    assert "403" in str(caught.value)
    assert git.TOKEN not in git._environment()
