"""Commit the decision to promote: change the file that names the champion, which Argo CD follows.

The branch may move at any time. So each try starts at its newest commit, checks that the champion
there is still the one that the candidate was compared with, and pushes without force: of two
concurrent pushes one wins, and the other then finds a champion that it was not compared with.
`git revert` rolls back.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omnicore.cluster.git import clone_url, committer_options, git, push_error
from omnicore.cluster.inferenceservice import PublishedCheckpoint, publish_checkpoint
from omnicore.errors import ConfigError, DataError
from omnicore.models import safe
from omnicore.schema import Record
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE
from omnicore.storage.files import atomic_writer, read_json

TRIES = 5


class Champion(Record):
    """The served checkpoint, as the file's `data` names it.

    Address of its publication, digest, and the folder of its weights.
    """

    address: str
    digest: str
    uri: str


def deploy(
    decision: Path, address: str, repository: str, branch: str, *, file: str, propose: bool = False
) -> str:
    """Make a file on a branch name the candidate that is published at an address.

    A candidate that serves already is not committed again.

    Args:
        decision: Output of the step promote.
        address: s3:// address of the candidate.
        repository: Address that git can push to, or a work tree that has the branch checked out:
            there the commit is made and nothing is pushed.
        branch: The branch.
        file: Path of the file that names the champion.
        propose: Commit to a new branch, for a pull request.

    Returns:
        What was done, in a line.

    Raises:
        ConfigError: The decision is to keep the champion, or git refuses.
        DataError: The candidate is not the one that was decided on, or the champion is not the one
            that it was compared with.
        CheckpointError: The candidate's files are unsafe.
        StorageError: As `store` raises it.
    """
    decided = read_json(decision / "decision.json")
    candidate = _check_decision(decision / "decision.json", decided, address)
    work_tree = Path(repository)
    if work_tree.is_dir() and git(work_tree, "rev-parse", "--is-bare-repository") == "false":
        return _commit_in_work_tree(work_tree, branch, file, candidate, decided)
    with tempfile.TemporaryDirectory(prefix="omnicore-deploy-") as scratch:
        clone = Path(scratch) / "clone"
        options = ["--quiet", "--depth=1", f"--branch={branch}"]
        source = clone_url(repository)
        git(Path(scratch), "clone", *options, source, str(clone), address=repository)
        target = f"champion-{candidate.digest[:12]}" if propose else branch
        for _ in range(TRIES):
            base = git(clone, "rev-parse", "HEAD")
            if not _commit(clone, branch, file, candidate, decided):
                return f"{candidate.address} serves already on {branch}"
            done = _push(clone, repository, target, base, candidate, propose=propose)
            if done:
                return done
            git(clone, "fetch", "--quiet", "--depth=1", "origin", branch, address=repository)
            git(clone, "reset", "--quiet", "--hard", "FETCH_HEAD")
    raise ConfigError(
        f"{branch} of {repository} moved {TRIES} times during the push, and nothing was changed:"
        " re-run the command",
        code="deploy-branch-moved",
    )


def _check_decision(path: Path, decided: Mapping[str, Any], address: str) -> PublishedCheckpoint:
    """Return the candidate if the decision promotes it and its files are safe."""
    if decided["decision"] != "promote":
        raise ConfigError(
            f"{path} decides to keep the champion: {'; '.join(decided['reasons'])}",
            code="deploy-decision-keeps",
            path=path,
        )
    if not store.is_s3(address):
        raise ConfigError(
            f"--checkpoint {address!r}: a served checkpoint is fetched from S3, as from"
            " s3://omnicore/runs/results/rlvr-KEY",
            code="deploy-checkpoint-not-s3",
            field="--checkpoint",
        )
    candidate = publish_checkpoint(address, "")
    model = _model_digest(candidate.address)
    if model != decided["models"]["candidate"]:
        wanted = decided["models"]["candidate"] or "the recipe's own"
        raise DataError(
            f"{address} holds the model {model[:12]}, and {wanted[:16]} was decided on: name"
            " that one",
            code="deploy-candidate-mismatch",
            path=address,
        )
    _check_files(candidate)
    return candidate


def _push(
    clone: Path,
    repository: str,
    target: str,
    base: str,
    candidate: PublishedCheckpoint,
    *,
    propose: bool,
) -> str:
    """Push the clone's commit to a branch.

    Returns:
        What was done; empty where the branch has moved and the next try may succeed.

    Raises:
        ConfigError: git refuses for another reason.
    """
    commit = git(clone, "rev-parse", "HEAD")
    refusal = push_error(clone, target, repository)
    listed = git(clone, "ls-remote", "origin", f"refs/heads/{target}", address=repository)
    remote = listed.partition("\t")[0]
    # The answer to a push may be lost although the commit has arrived.
    if not refusal or remote == commit:
        state = "proposed" if propose else "the champion"
        return f"commit {commit[:12]} on {target}: {candidate.address} is {state}"
    if propose and remote:
        return f"{target} is proposed already, by commit {remote[:12]}"
    if propose or remote == base:
        raise ConfigError(
            f"{repository} refused the commit on {target}, and nothing was changed: {refusal}",
            code="deploy-push-refused",
        )
    return ""


def _commit_in_work_tree(
    work_tree: Path,
    branch: str,
    file: str,
    candidate: PublishedCheckpoint,
    decided: Mapping[str, Any],
) -> str:
    changes = git(work_tree, "status", "--porcelain")
    if changes:
        raise ConfigError(
            f"{work_tree} has uncommitted changes ({changes.splitlines()[0].strip()}): commit"
            " or stash them",
            code="deploy-uncommitted-changes",
            path=work_tree,
        )
    current = git(work_tree, "rev-parse", "--abbrev-ref", "HEAD")
    if current != branch:
        raise ConfigError(
            f"{work_tree} has {current} checked out, not {branch}",
            code="deploy-wrong-branch",
            path=work_tree,
        )
    if not _commit(work_tree, branch, file, candidate, decided):
        return f"{candidate.address} serves already on {branch}"
    commit = git(work_tree, "rev-parse", "HEAD")
    return (
        f"commit {commit[:12]} on {branch} of {work_tree}, not pushed: {candidate.address} is the"
        " champion"
    )


def _commit(
    tree: Path,
    branch: str,
    file: str,
    candidate: PublishedCheckpoint,
    decided: Mapping[str, Any],
) -> bool:
    """Commit the candidate on top of the checked-out commit; False where it serves already."""
    path = tree / file
    if not path.is_file():
        raise ConfigError(
            f"{branch} has no {file}: name the file that holds the champion with --file",
            code="deploy-file-missing",
            field="--file",
        )
    text = path.read_text()
    champion = read_champion(text, file)
    wanted = Champion(address=candidate.address, digest=candidate.digest, uri=candidate.uri)
    if champion == wanted:
        return False
    _check_champion(champion, file, branch, decided)
    try:
        with atomic_writer(path) as out:
            out.write(replace_data(text, wanted.model_dump()).encode())
        git(tree, "add", file)
        message = _commit_message(candidate, champion, decided)
        options = ["--quiet", f"--message={message}"]
        git(tree, *committer_options(tree), "commit", *options, "--", file)
    except BaseException:
        path.write_text(text)
        git(tree, "reset", "--quiet", "--", file)
        raise
    return True


def _check_champion(champion: Champion, file: str, branch: str, decided: Mapping[str, Any]) -> None:
    """Raise unless the champion is the one that the candidate was compared with."""
    if not champion.digest.strip("0"):
        raise ConfigError(
            f"{file} on {branch} names no champion yet, so the candidate was compared with another:"
            " write the first by hand",
            code="deploy-no-champion",
        )
    model, compared = _model_digest(champion.address), decided["models"]["champion"]
    if model != compared:
        other = f"model {compared[:12]}" if compared else "the recipe's model"
        raise DataError(
            f"the champion has moved: {file} on {branch} serves {champion.address} (model"
            f" {model[:12]}), and the candidate was compared with {other}: evaluate this champion,"
            " and promote again",
            code="deploy-champion-moved",
        )


def read_champion(text: str, file: str) -> Champion:
    """Return the champion that a file names.

    Raises:
        DataError: The file names none.
    """
    try:
        return Champion.model_validate(yaml.safe_load(text)["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file} does not name a champion (a ConfigMap whose data are address, digest and uri):"
            f" {reason}",
            code="deploy-champion-invalid",
            path=file,
        ) from error


def replace_data(text: str, values: Mapping[str, str]) -> str:
    """Return the YAML with other values in its `data`; all else stays, comments included."""
    root: Any = yaml.compose(text, yaml.SafeLoader)
    (data,) = (value for key, value in root.value if key.value == "data")
    for key, value in reversed(data.value):
        if key.value in values:
            start, end = value.start_mark.index, value.end_mark.index
            text = text[:start] + json.dumps(values[key.value]) + text[end:]
    return text


def _commit_message(
    candidate: PublishedCheckpoint, champion: Champion, decided: Mapping[str, Any]
) -> str:
    """Return a commit message with the evidence: decision, figures and queries."""
    trailers = {
        "Champion": candidate.address,
        "Replaces": champion.address,
        "Candidate-Model": decided["models"]["candidate"],
        "Champion-Model": decided["models"]["champion"],
        "Candidate-Scores": decided["candidate"],
        "Champion-Scores": decided["champion"],
        "Manifest": decided["manifest_hash"],
        "Profile": decided["profile_hash"],
    }
    return "\n".join(
        [
            f"The champion is {candidate.address.rpartition('/')[2]}",
            "",
            *(f"- {reason}" for reason in decided["reasons"]),
            "",
            "Difference in points on the clean view, with 95 % intervals:",
            "",
            *_difference_lines(decided),
            "",
            *(f"{name}: {value}" for name, value in trailers.items()),
        ]
    )


def _difference_lines(decided: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, estimate in {"all": decided["difference"], **decided["by_benchmark"]}.items():
        value, low, high = (100 * estimate[field] for field in ("value", "low", "high"))
        lines.append(f"  {name}: {value:+.1f} [{low:+.1f}, {high:+.1f}] over {estimate['n']}")
    return lines


def _model_digest(address: str) -> str:
    """Return the digest of a published step result, by which evaluations name the model."""
    publication = store.require(address)
    if STEP_FILE not in publication.names:
        raise DataError(
            f"{address} is not a finished output: no {STEP_FILE}; publish the output of the"
            " training step",
            code="step-record-missing",
            path=address,
        )
    return str(json.loads(store.read_file(address, publication, STEP_FILE))["digest"])


def _check_files(candidate: PublishedCheckpoint) -> None:
    """Raise CheckpointError for unsafe files."""
    publication = store.require(candidate.address)
    prefix = f"{candidate.inside}/" if candidate.inside else ""
    names = [name.removeprefix(prefix) for name in publication.names if name.startswith(prefix)]

    def read(name: str) -> bytes:
        return store.read_file(candidate.address, publication, f"{prefix}{name}")

    safe.check_files(names, read, candidate.uri)
