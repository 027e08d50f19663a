"""Fetch a published checkpoint into the volume of a server: an InferenceService's init container.

KServe's own storage-initializer has one size for all models (kserve#5162) and no checksums; KServe
keeps a container of that name that the object brings along
(pkg/webhook/admission/pod/storage_initializer_injector.go).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omnicore.errors import DataError, OmniError
from omnicore.lineage import signing
from omnicore.storage import store


def fetch_checkpoint(uri: str, digest: str, directory: Path) -> None:
    """Fetch a publication, check every file, and verify the signature where a key is set.

    Args:
        uri: s3:// address of the publication.
        digest: Its expected digest.
        directory: New, or filled by an earlier call.

    Raises:
        DataError: The address holds another digest, or nothing.
        StorageError: As `store.fetch` raises it.
        CheckpointError: As `signing.verify_signature` raises it.
    """
    publication = store.require(uri)
    if publication.digest != digest:
        raise DataError(
            f"{uri} now holds {publication.digest[:12]} and not {digest[:12]}, which is to be"
            " served: re-run the step",
            code="checkpoint-digest-changed",
            path=uri,
        )
    store.fetch(uri, directory, publication)
    # A signature at the root also covers `checkpoint/`: with files in both places, nothing can be
    # slipped in beside the served ones.
    at_root = (directory / "config.json").is_file()
    signing.verify_signature(directory if at_root else directory / "checkpoint")


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch a checkpoint from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m omnicore.cluster.fetch", description="Fetch a published checkpoint."
    )
    parser.add_argument("uri", help="s3:// address of a publication")
    parser.add_argument("digest", help="its digest, in hexadecimal")
    parser.add_argument("directory", type=Path, help="new, or of an earlier run")
    options = parser.parse_args(argv)
    try:
        fetch_checkpoint(options.uri, options.digest, options.directory)
    except OmniError as error:
        print(f"omnicore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
