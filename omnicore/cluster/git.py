"""Git commands with a token for one address, and errors in git's own words."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

from omnicore.errors import ConfigError

TOKEN = "OMNI_GIT_TOKEN"  # may push over https; any user name goes with it
TIMEOUT = 300  # seconds for one git command
# In a hook these name the repository that is being changed, whatever the directory.
HOOK_VARIABLES = frozenset(
    {
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_COMMON_DIR",
        "GIT_PREFIX",
    }
)
MESSAGE_LENGTH = 500


def git(tree: Path, *arguments: str, address: str = "") -> str:
    """Run a git command; return its output.

    Args:
        tree: Working directory.
        arguments: The command without `git`.
        address: Repository that the command talks to; it gets the token.

    Raises:
        ConfigError: git is missing, fails or takes longer than TIMEOUT, with git's own words.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=tree,
            env=_environment(address),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            "git is not installed here: omnicore cluster deploy needs it", code="git-not-installed"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"git {arguments[0]} of {address or tree} did not end within {TIMEOUT} s; re-run the"
            " command",
            code="git-timeout",
        ) from error
    if done.returncode:
        command = next(argument for argument in arguments if not argument.startswith("-"))
        message = " ".join(f"{done.stderr} {done.stdout}".split())
        raise ConfigError(
            f"git {command} of {address or tree}: {message[-MESSAGE_LENGTH:]}", code="git-failed"
        )
    return done.stdout.strip()


def push_error(clone: Path, branch: str, repository: str) -> str:
    """Push HEAD to a branch; return git's refusal, empty where it accepted."""
    try:
        git(clone, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}", address=repository)
    except ConfigError as error:
        return str(error)
    return ""


def committer_options(tree: Path) -> list[str]:
    """Return git options that name a committer, where git knows none."""
    configured = subprocess.run(
        ["git", "config", "user.email"],
        cwd=tree,
        env=_environment(),
        capture_output=True,
        check=False,
    )
    if configured.returncode == 0:
        return []
    return ["-c", "user.name=omnicore", "-c", "user.email=omnicore@localhost"]


def clone_url(repository: str) -> str:
    """Return a repository's address, a local path as file://.

    Git links a plain path, and refuses a shallow clone of it.
    """
    path = Path(repository)
    return path.resolve().as_uri() if path.is_dir() else repository


def _environment(address: str = "") -> dict[str, str]:
    """Return the environment of a git command.

    The token appears neither in a command line nor in a file, and is sent to this address only.
    """
    dropped = HOOK_VARIABLES | {TOKEN}
    values = {name: value for name, value in os.environ.items() if name not in dropped}
    values |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if TOKEN in os.environ and address.startswith(("http://", "https://")):
        basic = base64.b64encode(f"omnicore:{os.environ[TOKEN]}".encode()).decode()
        values["GIT_CONFIG_COUNT"] = "1"
        values["GIT_CONFIG_KEY_0"] = f"http.{address}.extraHeader"
        values["GIT_CONFIG_VALUE_0"] = f"Authorization: Basic {basic}"
    return values
