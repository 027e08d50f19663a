"""Downloads of benchmarks from the Hugging Face hub, at a revision that is pinned."""

from __future__ import annotations

import re
from pathlib import Path

from omnicore.data.benchmarks.archives import unpack_archives
from omnicore.data.benchmarks.base import BenchmarkEntry
from omnicore.errors import ConfigError, DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_place(place: str) -> bool:
    return place == "hub" or place.startswith("hub@")


def download_benchmark(
    entry: BenchmarkEntry, place: str, otherwise: str = "a local copy with --root"
) -> tuple[Path, str]:
    """The local folder of `hub` or `hub@REVISION`, its archives unpacked, and the revision.

    What has been downloaded is not fetched again. `otherwise` is what a message tells to give where
    the hub cannot be reached.

    Raises ConfigError where the benchmark is not on the hub in the form that is read here, or no
    commit is pinned (a branch moves, and with it the benchmark), DataError where the hub cannot be
    reached or refuses.
    """
    if not entry.on_hub:
        raise ConfigError(
            f"{entry.title} is not read from the Hugging Face hub: get it from {entry.source} and"
            " give its folder with --root"
        )
    revision = place.partition("@")[2] or entry.revision
    if not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{entry.title} has no pinned revision here: name the commit of {entry.source}, 40 hex"
            " digits, as in --hub COMMIT"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise ConfigError("--hub needs huggingface_hub: pip install 'omnicore[audit]'") from error
    try:
        root = Path(snapshot_download(entry.source, repo_type="dataset", revision=revision))
    except GatedRepoError as error:
        raise DataError(
            f"{entry.source} is gated: accept its terms on the hub, then log in (hf auth login)"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{entry.source} at {revision[:12]} could not be downloaded: {error}. Or give"
            f" {otherwise}"
        ) from error
    unpack_archives(root, entry.archives)
    return root, revision
