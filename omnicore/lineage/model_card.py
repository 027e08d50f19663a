"""The model card of a checkpoint: `card.json`, and `README.md` rendered from it.

A card holds what decided the weights and nothing else: no time and no machine path, so the same
seed gives the same checkpoint. A digest of a step's output is the `digest` of its `step.json`:
`omnicore trace` finds the directory that has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from omnicore.config import result_fields
from omnicore.config.recipe import Recipe
from omnicore.errors import DataError
from omnicore.lineage.card_markdown import VIEWS, render_markdown
from omnicore.lineage.card_records import (
    BaseCheckpoint,
    CheckpointCard,
    CheckpointScores,
    CodeVersion,
    DataSource,
    ParentCheckpoint,
    ProducingStep,
    TrainingData,
)
from omnicore.lineage.code_version import code_digest, git_revision
from omnicore.lineage.step_record import read_step
from omnicore.storage.digests import model_directory, sha256_file
from omnicore.storage.files import atomic_writer, read_json, write_json
from omnicore.version import __version__

__all__ = [
    "CARD_FILE",
    "CHECKPOINT",
    "README",
    "VIEWS",
    "BaseCheckpoint",
    "CheckpointCard",
    "CheckpointScores",
    "CodeVersion",
    "ProducingStep",
    "create_card",
    "read_card",
    "render_markdown",
    "write_card",
]

CARD_FILE, README, CHECKPOINT = "card.json", "README.md", "checkpoint"
# Models and data of this repository are under its LICENSE.
EMBEDDED_LICENCE = {"license": "apache-2.0"}
EMBEDDED_DATA = (
    "omnicore; handwriting of UCI's Optical Recognition of Handwritten Digits, speech synthesised"
    " with espeak-ng"
)
LICENCE_FIELDS = ("license", "license_name", "license_link")  # the hub's names


def create_card(
    section: str,
    recipe: Recipe,
    config: BaseModel,
    inputs: Mapping[str, Path],
    digests: Mapping[str, str],
    models: Mapping[str, str],
) -> CheckpointCard:
    """Return the card of a training step's checkpoint.

    Args:
        section: Section of the recipe.
        recipe: The recipe.
        config: The section's values.
        inputs: Directories of the inputs by role.
        digests: Digests of the inputs by role.
        models: Digests of the recipe's models by name.
    """
    base, parents = _ancestors(recipe, inputs, digests, models)
    return CheckpointCard(
        stage=section,
        base=base,
        parents=parents,
        data=_training_data(inputs["data"], config.model_dump()["data"], digests["data"]),
        recipe=recipe.name,
        recipe_hash=recipe.identity,
        config=result_fields(config.model_dump(mode="json")),
        profile=recipe.profile,
        seed=recipe.seed,
        code=CodeVersion(version=__version__, digest=code_digest(), revision=git_revision()),
    )


def write_card(directory: Path, card: CheckpointCard) -> None:
    """Write `card.json` and `README.md` into a checkpoint's directory."""
    write_json(directory / CARD_FILE, card)
    with atomic_writer(directory / README) as file:
        file.write(render_markdown(card).encode())


def read_card(directory: Path) -> CheckpointCard:
    """Return the card of a checkpoint.

    Raises:
        DataError: The card is missing or damaged.
    """
    path = directory / CARD_FILE
    if not path.is_file():
        raise DataError(
            f"{directory} has no {CARD_FILE}: no step of this omnicore wrote it; train it again",
            code="card-missing",
            path=path,
        )
    try:
        return CheckpointCard.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: {field}: {first['msg']}; train it again",
            code="card-invalid",
            path=path,
            field=field,
        ) from error


def _ancestors(
    recipe: Recipe,
    inputs: Mapping[str, Path],
    digests: Mapping[str, str],
    models: Mapping[str, str],
) -> tuple[BaseCheckpoint, tuple[ParentCheckpoint, ...]]:
    """Return what the training began from, by the card of its model.

    A model without a card is a base.
    """
    if "model" in inputs:
        directory, digest = inputs["model"] / CHECKPOINT, digests["model"]
        name, revision = str(read_step(inputs["model"])["section"]), ""
        embedded = False
    else:
        directory, digest = model_directory(recipe.model), models[recipe.model]
        name, revision = _model_name(recipe.model, directory)
        embedded = recipe.model.startswith("embedded:")
    if not (directory / CARD_FILE).is_file():
        licence = EMBEDDED_LICENCE if embedded else _licence(directory / README)
        return BaseCheckpoint(name=name, revision=revision, digest=digest, licence=licence), ()
    card = read_card(directory)
    parent = ParentCheckpoint(
        stage=card.stage,
        digest=card.made.digest if card.made else digest,
        recipe_hash=card.recipe_hash,
        seed=card.seed,
        code=card.code.digest,
    )
    return card.base, (*card.parents, parent)


def _model_name(model: str, directory: Path) -> tuple[str, str]:
    """Return name and revision of a base.

    The hub's cache has both in its folders: models--ORG--NAME/snapshots/COMMIT.
    """
    if model.startswith("embedded:"):
        return model, ""
    *_, cached, snapshots, last = ("", "", *directory.resolve().parts)
    if snapshots == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/"), last
    return last, ""


def _licence(readme: Path) -> dict[str, str]:
    """Return the licence fields in the front matter of a model's own card; empty without any."""
    if not readme.is_file():
        return {}
    head, start, rest = readme.read_text(errors="replace").partition("---\n")
    if not start or head.strip():
        return {}
    try:
        fields = yaml.safe_load(rest.partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    if not isinstance(fields, dict):
        return {}
    return {name: str(fields[name]) for name in LICENCE_FIELDS if fields.get(name)}


def _training_data(folder: Path, name: str, digest: str) -> TrainingData:
    record = read_step(folder)
    with (folder / name).open("rb") as file:
        rows = Counter(str(json.loads(line)["benchmark"]) for line in file)
    return TrainingData(
        name=name,
        rows=rows.total(),
        sha256=sha256_file(folder / name),
        step=record["section"],
        digest=digest,
        inputs=record.get("inputs", {}),
        sources=tuple(_sources(record, rows)),
    )


def _sources(record: Mapping[str, Any], rows: Mapping[str, int]) -> Iterator[DataSource]:
    given = record.get("config", {}).get("training", {})
    for name, count in sorted(rows.items()):
        if record["step"] == "distill":
            yield DataSource(name=name, rows=count, place="replies of the model itself")
        elif name in given:
            path, revision = given[name]["path"], given[name]["revision"]
            # Without a revision it is a local file, whose folder is a fact of the machine.
            place = path if revision else Path(path).name
            yield DataSource(name=name, rows=count, place=place, revision=revision)
        else:
            licence = "apache-2.0, as omnicore"
            yield DataSource(name=name, rows=count, place=EMBEDDED_DATA, licence=licence)
