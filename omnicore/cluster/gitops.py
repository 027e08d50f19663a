"""The decision to promote as a commit: the file that names the champion, changed in git, which Argo
CD follows.

The branch may move at any time. So each try begins at its newest commit, looks whether the champion
there is still the one that the candidate was compared with, and is pushed without force: of two who
push at once one wins, and the other finds a champion that it was never compared with. A roll-back
is `git revert`.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omnicore.cluster.inferenceservice import PublishedCheckpoint, publish_checkpoint
from omnicore.errors import ConfigError, DataError
from omnicore.models import safe
from omnicore.schema import Record
from omnicore.storage import store
from omnicore.storage.digests import STEP_FILE
from omnicore.storage.files import atomic_writer, read_json

TOKEN = "OMNI_GIT_TOKEN"  # of whoever may push over https; any user name goes with it
TRIES = 5
# In a hook they name the repository that is being changed, whatever the directory.
OWN = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_COMMON_DIR",
        "GIT_PREFIX",
    }
)
SECONDS = 300  # for one git command


class Champion(Record):
    """What serves, as the file's `data` has it: where it is published, its digest, and the folder
    of its weights."""

    address: str
    digest: str
    uri: str


def deploy(
    decision: Path, address: str, repository: str, branch: str, *, file: str, propose: bool = False
) -> str:
    """Makes `file` on a branch of a repository name the candidate that is published at `address`;
    returns what was done, in a line.

    `repository` is an address that git can push to, or a work tree that has the branch checked out:
    there the commit is made and nothing is pushed. With `propose` the commit goes to a branch of
    its own, for a pull request. A candidate that serves already is left alone.

    Raises ConfigError for a decision to keep, and what git refuses; DataError where the candidate
    is not the one that was decided on, or the champion is not the one that it was compared with;
    CheckpointError for unsafe files; what `store` raises.
    """
    decided = read_json(decision / "decision.json")
    if decided["decision"] != "promote":
        raise ConfigError(
            f"{decision / 'decision.json'} decides to keep the champion:"
            f" {'; '.join(decided['reasons'])}"
        )
    if not store.is_s3(address):
        raise ConfigError(
            f"--checkpoint {address!r}: what serves is fetched from S3, as from"
            " s3://omnicore/runs/results/rlvr-KEY"
        )
    found = publish_checkpoint(address, "")
    if (model := _model(found.address)) != decided["models"]["candidate"]:
        wanted = decided["models"]["candidate"] or "the recipe's own"
        raise DataError(
            f"{address} holds the model {model[:12]}, and {wanted[:16]} was decided on: name"
            " that one"
        )
    _check_files(found)
    work = Path(repository)
    if work.is_dir() and _git(work, "rev-parse", "--is-bare-repository") == "false":
        return _in_work_tree(work, branch, file, found, decided)
    with tempfile.TemporaryDirectory(prefix="omnicore-deploy-") as scratch:
        clone = Path(scratch) / "clone"
        _git(
            Path(scratch),
            "clone",
            "--quiet",
            "--depth=1",
            f"--branch={branch}",
            _url(repository),
            str(clone),
            address=repository,
        )
        target = f"champion-{found.digest[:12]}" if propose else branch
        for _ in range(TRIES):
            base = _git(clone, "rev-parse", "HEAD")
            if not _change(clone, branch, file, found, decided):
                return f"{found.address} serves already on {branch}"
            made = _git(clone, "rev-parse", "HEAD")
            refused = _push(clone, target, repository)
            now = _git(
                clone, "ls-remote", "origin", f"refs/heads/{target}", address=repository
            ).partition("\t")[0]
            if (
                not refused or now == made
            ):  # the latter where the answer was lost, and the commit was not
                return (
                    f"commit {made[:12]} on {target}: {found.address} is"
                    f" {'proposed' if propose else 'the champion'}"
                )
            if propose and now:
                return f"{target} is proposed already, by commit {now[:12]}"
            if propose or now == base:
                raise ConfigError(
                    f"{repository} takes no commit on {target}, and nothing was changed: {refused}"
                )
            _git(clone, "fetch", "--quiet", "--depth=1", "origin", branch, address=repository)
            _git(clone, "reset", "--quiet", "--hard", "FETCH_HEAD")
    raise ConfigError(
        f"{branch} of {repository} has moved {TRIES} times meanwhile, and nothing was changed: give"
        " the command again"
    )


def _in_work_tree(
    work: Path, branch: str, file: str, found: PublishedCheckpoint, decided: Mapping[str, Any]
) -> str:
    if changed := _git(work, "status", "--porcelain"):
        raise ConfigError(
            f"{work} has changes that are not committed ({changed.splitlines()[0].strip()}): commit"
            " or stash them"
        )
    if (current := _git(work, "rev-parse", "--abbrev-ref", "HEAD")) != branch:
        raise ConfigError(f"{work} has {current} checked out, not {branch}")
    if not _change(work, branch, file, found, decided):
        return f"{found.address} serves already on {branch}"
    return (
        f"commit {_git(work, 'rev-parse', 'HEAD')[:12]} on {branch} of {work}, not pushed:"
        f" {found.address} is the champion"
    )


def _change(
    tree: Path, branch: str, file: str, found: PublishedCheckpoint, decided: Mapping[str, Any]
) -> bool:
    """Commits the candidate on top of what is checked out; False where it serves already."""
    path = tree / file
    if not path.is_file():
        raise ConfigError(
            f"{branch} has no {file}: name the file that holds the champion with --file"
        )
    text = path.read_text()
    serves = read_champion(text, file)
    wanted = Champion(address=found.address, digest=found.digest, uri=found.uri)
    if serves == wanted:
        return False
    if not serves.digest.strip("0"):
        raise ConfigError(
            f"{file} on {branch} names no champion yet, so the candidate was compared with another:"
            " write the first by hand"
        )
    if (model := _model(serves.address)) != (compared := decided["models"]["champion"]):
        other = f"model {compared[:12]}" if compared else "the recipe's model"
        raise DataError(
            f"the champion has moved: {file} on {branch} serves {serves.address} (model"
            f" {model[:12]}), and the candidate was compared with {other}: evaluate this champion,"
            " and promote again"
        )
    try:
        with atomic_writer(path) as out:
            out.write(replaced(text, wanted.model_dump()).encode())
        _git(tree, "add", file)
        _git(
            tree,
            *_identity(tree),
            "commit",
            "--quiet",
            f"--message={_message(found, serves, decided)}",
            "--",
            file,
        )
    except BaseException:
        path.write_text(text)
        _git(tree, "reset", "--quiet", "--", file)
        raise
    return True


def read_champion(text: str, file: str) -> Champion:
    """Raises DataError naming the file and what it lacks."""
    try:
        return Champion.model_validate(yaml.safe_load(text)["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise DataError(
            f"{file} does not name a champion (a ConfigMap whose data are address, digest and uri):"
            f" {told}"
        ) from error


def replaced(text: str, values: Mapping[str, str]) -> str:
    """The YAML with other values in its `data`; every other character stays, comments too."""
    root: Any = yaml.compose(text, yaml.SafeLoader)
    (data,) = (value for key, value in root.value if key.value == "data")
    for key, value in reversed(data.value):
        if key.value in values:
            text = (
                text[: value.start_mark.index]
                + json.dumps(values[key.value])
                + text[value.end_mark.index :]
            )
    return text


def _message(found: PublishedCheckpoint, serves: Champion, decided: Mapping[str, Any]) -> str:
    """A commit's message with the evidence: what was decided, by which figures, over which
    queries."""
    figures = {"all": decided["difference"], **decided["by_benchmark"]}
    rows = [
        f"  {name}: {100 * e['value']:+.1f} [{100 * e['low']:+.1f}, {100 * e['high']:+.1f}] over"
        f" {e['n']}"
        for name, e in figures.items()
    ]
    facts = {
        "Champion": found.address,
        "Replaces": serves.address,
        "Candidate-Model": decided["models"]["candidate"],
        "Champion-Model": decided["models"]["champion"],
        "Candidate-Scores": decided["candidate"],
        "Champion-Scores": decided["champion"],
        "Manifest": decided["manifest_hash"],
        "Profile": decided["profile_hash"],
    }
    reasons = [f"- {reason}" for reason in decided["reasons"]]
    head = f"The champion is {found.address.rpartition('/')[2]}"
    points = "Difference in points on the clean view, with 95 % intervals:"
    return "\n".join(
        [
            head,
            "",
            *reasons,
            "",
            points,
            "",
            *rows,
            "",
            *(f"{name}: {value}" for name, value in facts.items()),
        ]
    )


def _model(address: str) -> str:
    """Digest of the model that is published as a step's result, as evaluations of it name it."""
    published = store.require(address)
    if STEP_FILE not in {file.name for file in published.files}:
        raise DataError(
            f"{address} is not a finished output: no {STEP_FILE}; publish the output of the"
            " training step"
        )
    return str(json.loads(store.read_file(address, published, STEP_FILE))["digest"])


def _check_files(found: PublishedCheckpoint) -> None:
    published = store.require(found.address)
    inside = f"{found.inside}/" if found.inside else ""
    names = [
        file.name.removeprefix(inside) for file in published.files if file.name.startswith(inside)
    ]
    safe.check_files(
        names, lambda name: store.read_file(found.address, published, f"{inside}{name}"), found.uri
    )


def _push(clone: Path, target: str, repository: str) -> str:
    """What git said where it refused; empty where it did not."""
    try:
        _git(clone, "push", "--quiet", "origin", f"HEAD:refs/heads/{target}", address=repository)
    except ConfigError as error:
        return str(error)
    return ""


def _identity(tree: Path) -> list[str]:
    """Who commits, where git knows nobody."""
    asked = subprocess.run(
        ["git", "config", "user.email"],
        cwd=tree,
        env=_environment(),
        capture_output=True,
        check=False,
    )
    return (
        []
        if asked.returncode == 0
        else ["-c", "user.name=omnicore", "-c", "user.email=omnicore@localhost"]
    )


def _url(repository: str) -> str:
    """A local path as a file:// address: a plain path would be linked, and a shallow clone of it refused."""
    return Path(repository).resolve().as_uri() if Path(repository).is_dir() else repository


def _git(tree: Path, *arguments: str, address: str = "") -> str:
    """Output of a git command.

    Raises ConfigError with git's own words.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=tree,
            env=_environment(address),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except FileNotFoundError as error:
        raise ConfigError("git is not installed here: omnicore deploy needs it") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"git {arguments[0]} of {address or tree} did not end within {SECONDS} s; give the"
            " command again"
        ) from error
    if done.returncode:
        said = " ".join(f"{done.stderr} {done.stdout}".split())
        raise ConfigError(
            f"git {next(a for a in arguments if not a.startswith('-'))} of {address or tree}:"
            f" {said[-500:]}"
        )
    return done.stdout.strip()


def _environment(address: str = "") -> dict[str, str]:
    """The token is in no command line and no file, and goes to this address alone."""
    found = {name: value for name, value in os.environ.items() if name not in OWN and name != TOKEN}
    found |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if TOKEN in os.environ and address.startswith(("http://", "https://")):
        basic = base64.b64encode(f"omnicore:{os.environ[TOKEN]}".encode()).decode()
        settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{address}.extraHeader"}
        found |= {**settings, "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}"}
    return found
