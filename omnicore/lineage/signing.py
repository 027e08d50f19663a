"""Signatures of checkpoints: by whom one was made, and that nothing in its directory has changed since.

OpenSSF's model-signing with a key on an elliptic curve: `model.sig` lies in the directory and covers every other file in it. The
environment tells the keys, each as the path of a PEM file or as the PEM text itself; where one is not set, nothing is signed, or
nothing is asked for:

  OMNI_SIGNING_KEY   private: the steps that write a checkpoint sign it
  OMNI_VERIFY_KEY    public: who serves a checkpoint refuses it without a signature by the key's owner
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnicore.errors import CheckpointError, ConfigError
from omnicore.storage.digests import SIGNATURE

SIGNING_KEY, VERIFY_KEY = "OMNI_SIGNING_KEY", "OMNI_VERIFY_KEY"
HOW = (
    f"sign what you trust: model_signing sign key --private_key KEY --signature DIR/{SIGNATURE} DIR"
)


def check_signing_key() -> None:
    """Raises ConfigError when there is a key to sign with that cannot be used: before hours of
    training, not after them."""
    with _key(SIGNING_KEY) as key:
        if key:
            _signer(key)


def sign_checkpoint(directory: Path) -> None:
    """Signs all files of a checkpoint where there is a key.

    Raises ConfigError for one that cannot be used.
    """
    with _key(SIGNING_KEY) as key:
        if key:
            _signer(key).sign(directory, directory / SIGNATURE)


def verify_signature(directory: Path) -> None:
    """Where there is a key to verify with, raises CheckpointError unless the directory's files, and
    no others, are as the owner of the key signed them (but for what the signature itself leaves
    out); ConfigError for a key that cannot be used."""
    with _key(VERIFY_KEY) as key:
        if not key:
            return
        verifier = _verifier(key)
        if not directory.is_dir():
            raise CheckpointError(f"no checkpoint directory at {directory}")
        if not (directory / SIGNATURE).is_file():
            raise CheckpointError(
                f"{directory} is not signed: it has no {SIGNATURE}, and {VERIFY_KEY} is set; {HOW}"
            )
        try:
            verifier.verify(directory, directory / SIGNATURE)
        except Exception as error:  # whatever a strange file makes the library raise: nothing of this directory is to be loaded
            said = str(error) or f"{SIGNATURE} is not by the key of {VERIFY_KEY}, or was altered"
            raise CheckpointError(
                f"{directory} is refused by its {SIGNATURE}: {said}; fetch it again from who signed"
                f" it, or {HOW}"
            ) from error


def _signer(key: Path) -> Any:
    from model_signing.signing import Config

    config = _loaded(
        SIGNING_KEY, "private", lambda: Config().use_elliptic_key_signer(private_key=key)
    )
    return config.set_hashing_config(_all_files())


def _verifier(key: Path) -> Any:
    from model_signing.verifying import Config

    config = _loaded(
        VERIFY_KEY, "public", lambda: Config().use_elliptic_key_verifier(public_key=key)
    )
    return config.set_hashing_config(_all_files())


def _all_files() -> Any:
    from model_signing.hashing import Config

    # By default, files that belong to git may be added to a signed directory.
    return Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _loaded(name: str, kind: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (
        Exception
    ) as error:  # ValueError, TypeError, AttributeError: by what the file holds instead
        raise ConfigError(
            f"{name} is no {kind} key in PEM on the curve P-256, P-384 or P-521, without a password"
            f" ({error}): make a pair with openssl ecparam -name prime256v1 -genkey -noout -out"
            " signing.pem; openssl ec -in signing.pem -pubout -out verify.pem"
        ) from error


@contextmanager
def _key(name: str) -> Iterator[Path | None]:
    """The file with a key: model-signing takes no text."""
    value = os.environ.get(name, "").strip()
    if value:
        _installed(name)
    if "-----BEGIN" in value:
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # readable by nobody else
            file.write(f"{value}\n")
            file.flush()
            yield Path(file.name)
    elif value and not Path(value).is_file():
        raise ConfigError(
            f"{name}={value}: no such file; give the path of a key in PEM, or its text"
        )
    else:
        yield Path(value) if value else None


def _installed(name: str) -> None:
    try:
        import model_signing.signing
        import model_signing.verifying  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} is set and needs {error.name}, which is not installed: pip install"
            " 'omnicore[sign]'"
        ) from error
