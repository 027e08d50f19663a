"""Push a checkpoint or a clean manifest to the Hugging Face hub, in the hub's layout.

A checkpoint is a model repository whose card has its scores; a manifest is a dataset repository:
`manifest.json`, the verdicts as `data/verdicts.jsonl` for the hub's viewer, the ids of the kept
queries as `data/kept.csv` for `omnicore manifest import`, and a card that describes their
making. A push is one commit.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import yaml

from omnicore.audit.manifest_table import export_table
from omnicore.errors import ConfigError, DataError, EngineError, missing_package
from omnicore.lineage.card_records import CheckpointCard
from omnicore.lineage.model_card import CARD_FILE, CHECKPOINT, README
from omnicore.lineage.step_record import verify_step
from omnicore.schema import Manifest
from omnicore.storage.files import read_json

MANIFEST = "manifest.json"


class PushPlan(NamedTuple):
    """What a push would send: repository, kind, commit message, and files with their bytes."""

    repository: str
    kind: Literal["model", "dataset"]
    message: str
    files: dict[str, int]


@contextmanager
def planned_push(output: Path, repository: str) -> Iterator[tuple[PushPlan, Path]]:
    """Lay out a push in a temporary folder.

    Args:
        output: Output of clean, sft, rlvr or promote, or a released checkpoint.
        repository: Name on the hub, as in `team/omniclean-daily-omni`.

    Yields:
        The plan and the folder.

    Raises:
        ConfigError: The repository has no `owner/name`.
        DataError: `output` holds neither a manifest nor a checkpoint with its card.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(
            f"{repository!r} is not the name of a hub repository; write owner/name",
            code="push-repository-invalid",
            field="--repo",
        )
    with TemporaryDirectory(prefix="omni-") as scratch:
        folder = Path(scratch)
        kind: Literal["model", "dataset"] = "model"
        if (output / MANIFEST).is_file():
            kind, message = "dataset", _lay_out_manifest(output, folder)
        else:
            message = _lay_out_checkpoint(output, folder)
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        yield PushPlan(repository, kind, message, files), folder


def push(plan: PushPlan, folder: Path, *, private: bool) -> str:
    """Create the repository where it is missing, and commit the files.

    The token is that of `hf auth login` or HF_TOKEN, the address that of HF_ENDPOINT.

    Returns:
        The address of the commit.

    Raises:
        EngineError: The hub refused or could not be reached.
    """
    try:
        from huggingface_hub import HfApi

        # HTTPError is that of the hub's HTTP client, whichever it is: a lost connection.
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HFValidationError,
            HTTPError,
        )
    except ModuleNotFoundError as error:
        raise missing_package(error.name, "audit", "omnicore push") from error
    api = HfApi()
    try:
        api.create_repo(plan.repository, repo_type=plan.kind, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=plan.repository,
            repo_type=plan.kind,
            folder_path=folder,
            commit_message=plan.message,
        )
    except (HTTPError, HFValidationError, OSError) as error:
        raise EngineError(
            f"{plan.repository} was not pushed: {error}; check HF_TOKEN and your rights on it",
            code="push-failed",
            field="--repo",
        ) from error
    return str(commit.commit_url)


def _lay_out_manifest(output: Path, folder: Path) -> str:
    record = verify_step(output)
    manifest = Manifest.model_validate(read_json(output / MANIFEST))
    shutil.copyfile(output / MANIFEST, folder / MANIFEST)
    (folder / "data").mkdir()
    export_table(manifest, folder / "data" / "verdicts.jsonl", None)
    export_table(manifest, folder / "data" / "kept.csv", "kept")
    (folder / README).write_text(_dataset_card(manifest, str(record["key"])))
    return f"omnicore: {manifest.policy} manifest {manifest.content_hash[:12]}"


def _dataset_card(manifest: Manifest, key: str) -> str:
    """Return the card of a manifest: what it is, how it was made, and counts by benchmark."""
    kept = Counter(verdict.benchmark for verdict in manifest.verdicts if verdict.kept)
    total = Counter(verdict.benchmark for verdict in manifest.verdicts)
    metadata = {
        "tags": ["omnicore", "omni-modal", "audit"],
        "configs": [{"config_name": "default", "data_files": "data/verdicts.jsonl"}],
    }
    rows = "\n".join(f"| {name} | {total[name]} | {kept[name]} |" for name in sorted(total))
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False)}---
# Clean view of {", ".join(sorted(total))}

Verdicts of an audit that asked a vision model each query with the sound withheld. Queries that it
solves without the sound are not `kept`. No question, answer or medium is in this repository.

| | |
|---|---|
| policy | {manifest.policy} |
| probe | {manifest.probe} |
| profile | {manifest.profile_hash} |
| manifest | {manifest.content_hash} |
| step | {key} |

| benchmark | queries | kept |
|---|---|---|
{rows}

To score a model on the kept queries:

    omnicore manifest import data/kept.csv --listed kept --queries PREPARED --output clean
    omnicore evaluate --input queries=PREPARED --input manifest=clean --output evaluate
"""


def _lay_out_checkpoint(output: Path, folder: Path) -> str:
    source = next(
        (place for place in (output, output / CHECKPOINT, output / "release") if _is_card(place)),
        None,
    )
    if source is None:
        raise DataError(
            f"{output} holds neither {MANIFEST} nor a checkpoint with {CARD_FILE}; give an output"
            " of clean, sft, rlvr or promote",
            code="push-nothing",
            path=output,
        )
    card = CheckpointCard.model_validate(read_json(source / CARD_FILE))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    scored = "with its scores" if card.scores else "without scores"
    return f"omnicore: {card.stage} checkpoint of recipe {card.recipe}, {scored}"


def _is_card(folder: Path) -> bool:
    return (folder / CARD_FILE).is_file()
