"""What an InferenceService's init container runs: a published checkpoint into the volume that the
server reads.

KServe's own storage-initializer has one size for all models (kserve#5162) and no checksums; a container of its name that the
object brings along is left in its place (pkg/webhook/admission/pod/storage_initializer_injector.go).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omnicore.errors import DataError, OmniError
from omnicore.lineage import signing
from omnicore.storage import store


def fetch(uri: str, digest: str, directory: Path) -> None:
    """Makes `directory` hold what is published at `uri`, every file checked, and the checkpoint's
    signature where there is a key to verify it with.

    Raises DataError when that is no longer `digest`, and what `store.fetch` and `signing.verify_signature`
    raise.
    """
    published = store.require(uri)
    if published.digest != digest:
        raise DataError(
            f"{uri} holds {published.digest[:12]} by now, and {digest[:12]} is to be served: run"
            " the step again"
        )
    store.fetch(uri, directory, published)
    # Were both there, the upper one's signature would have to cover the other: neither can be slipped in beside what is served.
    signing.verify_signature(
        directory if (directory / "config.json").is_file() else directory / "checkpoint"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m omnicore.cluster.fetch", description="Fetches a published checkpoint."
    )
    parser.add_argument("uri", help="s3:// address of a publication")
    parser.add_argument("digest", help="its digest, in hexadecimal")
    parser.add_argument("directory", type=Path, help="new, or an earlier run's")
    options = parser.parse_args(argv)
    try:
        fetch(options.uri, options.digest, options.directory)
    except OmniError as error:
        print(f"omnicore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
