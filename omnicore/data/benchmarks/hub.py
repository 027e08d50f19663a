"""Download benchmarks and training sets from the Hugging Face hub, at a pinned revision."""

from __future__ import annotations

import re
from pathlib import Path

from omnicore.data.benchmarks.archives import unpack_archives
from omnicore.data.benchmarks.records import BenchmarkEntry
from omnicore.errors import ConfigError, DataError, missing_package

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_place(place: str) -> bool:
    """Return whether a benchmark's place is `hub` or `hub@REVISION`."""
    return place == "hub" or place.startswith("hub@")


def download_benchmark(
    entry: BenchmarkEntry, place: str, alternative: str = "a local copy with --root"
) -> tuple[Path, str]:
    """Download a data set and unpack its archives; downloaded files are not fetched again.

    Args:
        entry: The data set.
        place: `hub` for the revision of `entry`, or `hub@REVISION`.
        alternative: What an error advises to give where the hub cannot be reached.

    Returns:
        The local folder and the revision.

    Raises:
        ConfigError: The data set is not on the hub in the form that is read here, or no commit is
            pinned: a branch moves, and with it the data.
        DataError: The hub cannot be reached or refuses.
    """
    if not entry.on_hub:
        raise ConfigError(
            f"{entry.title} is not read from the Hugging Face hub: get it from {entry.source} and"
            " give its folder with --root",
            code="hub-not-available",
        )
    revision = place.partition("@")[2] or entry.revision
    if not _COMMIT.fullmatch(revision):
        raise ConfigError(
            f"{entry.title} has no pinned revision here: name the commit of {entry.source}, 40 hex"
            " digits, as in --hub COMMIT",
            code="hub-revision-missing",
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_package("huggingface_hub", "audit", "--hub") from error
    try:
        root = Path(snapshot_download(entry.source, repo_type="dataset", revision=revision))
    except GatedRepoError as error:
        raise DataError(
            f"{entry.source} is gated: accept its terms on the hub, then log in (hf auth login)",
            code="hub-gated",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{entry.source} at {revision[:12]} could not be downloaded: {error}. Or give"
            f" {alternative}",
            code="hub-download-failed",
        ) from error
    unpack_archives(root, entry.archives)
    return root, revision
