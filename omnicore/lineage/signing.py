"""Signatures of checkpoints: who made one, and that its directory has not changed since.

OpenSSF's model-signing with an elliptic-curve key: `model.sig` lies in the directory and covers
every other file in it. The environment holds the keys, each as the path of a PEM file or as the PEM
text; without a key nothing is signed, or no signature is required:

  OMNI_SIGNING_KEY   private: steps that write a checkpoint sign it
  OMNI_VERIFY_KEY    public: a server refuses a checkpoint without a signature by the key's owner
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnicore.errors import CheckpointError, ConfigError, missing_package
from omnicore.storage.digests import SIGNATURE

SIGNING_KEY, VERIFY_KEY = "OMNI_SIGNING_KEY", "OMNI_VERIFY_KEY"
HOW_TO_SIGN = (
    f"sign what you trust: model_signing sign key --private_key KEY --signature DIR/{SIGNATURE} DIR"
)


def check_signing_key() -> None:
    """Check the signing key before hours of training.

    Raises:
        ConfigError: There is a key and it cannot be used.
    """
    with _key_file(SIGNING_KEY) as key:
        if key:
            _signer(key)


def sign_checkpoint(directory: Path) -> None:
    """Sign all files of a checkpoint if there is a key.

    Raises:
        ConfigError: The key cannot be used.
    """
    with _key_file(SIGNING_KEY) as key:
        if key:
            _signer(key).sign(directory, directory / SIGNATURE)


def verify_signature(directory: Path) -> None:
    """Check, if there is a key, that a checkpoint's files are exactly those that its owner signed.

    Raises:
        CheckpointError: The signature is missing or does not match (except for the files that the
            signature itself leaves out).
        ConfigError: The key cannot be used.
    """
    with _key_file(VERIFY_KEY) as key:
        if not key:
            return
        verifier = _verifier(key)
        if not directory.is_dir():
            raise CheckpointError(
                f"no checkpoint directory at {directory}", code="checkpoint-missing", path=directory
            )
        if not (directory / SIGNATURE).is_file():
            raise CheckpointError(
                f"{directory} is not signed: it has no {SIGNATURE}, and {VERIFY_KEY} is set;"
                f" {HOW_TO_SIGN}",
                code="checkpoint-unsigned",
                path=directory,
            )
        try:
            verifier.verify(directory, directory / SIGNATURE)
        except Exception as error:
            # Any exception that a strange file causes in the library: load nothing of it.
            reason = str(error) or f"{SIGNATURE} is not by the key of {VERIFY_KEY}, or was altered"
            raise CheckpointError(
                f"{directory} is refused by its {SIGNATURE}: {reason}; fetch it again from its"
                f" signer, or {HOW_TO_SIGN}",
                code="checkpoint-signature-invalid",
                path=directory,
            ) from error


def _signer(key: Path) -> Any:
    from model_signing.signing import Config

    config = _load_key(
        SIGNING_KEY, "private", lambda: Config().use_elliptic_key_signer(private_key=key)
    )
    return config.set_hashing_config(_hash_all_files())


def _verifier(key: Path) -> Any:
    from model_signing.verifying import Config

    config = _load_key(
        VERIFY_KEY, "public", lambda: Config().use_elliptic_key_verifier(public_key=key)
    )
    return config.set_hashing_config(_hash_all_files())


def _hash_all_files() -> Any:
    from model_signing.hashing import Config

    # By default, files that belong to git may be added to a signed directory.
    return Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _load_key(name: str, kind: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        # ValueError, TypeError or AttributeError, depending on the file's content.
        raise ConfigError(
            f"{name} is not a {kind} key in PEM on the curve P-256, P-384 or P-521, without a"
            f" password ({error}): make a pair with openssl ecparam -name prime256v1 -genkey -noout"
            " -out signing.pem; openssl ec -in signing.pem -pubout -out verify.pem",
            code="signing-key-invalid",
            field=name,
        ) from error


@contextmanager
def _key_file(name: str) -> Iterator[Path | None]:
    """Yield the file with a key, since model-signing takes no text; None without a key."""
    value = os.environ.get(name, "").strip()
    if not value:
        yield None
        return
    _require_model_signing(name)
    if "-----BEGIN" in value:
        # Only its owner can read a NamedTemporaryFile.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{value}\n")
            file.flush()
            yield Path(file.name)
    elif Path(value).is_file():
        yield Path(value)
    else:
        raise ConfigError(
            f"{name}={value}: no such file; set it to the path of a key in PEM, or to its text",
            code="signing-key-missing",
            field=name,
            path=value,
        )


def _require_model_signing(name: str) -> None:
    try:
        import model_signing.signing
        import model_signing.verifying  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(error.name, "sign", name) from error
