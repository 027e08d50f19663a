"""Records of a model card: base, parents, training data, code, scores."""

from __future__ import annotations

from typing import Any

from omnicore.config import Profile
from omnicore.schema import Estimate, Record


class BaseCheckpoint(Record):
    """The model that all training began from.

    Attributes:
        name: embedded:NAME, a hub id where the directory lies in the hub's cache, or the
            directory's own name.
        revision: Commit on the hub.
        digest: Digest of its files.
        licence: Licence fields of its own card, under the hub's names.
    """

    name: str
    revision: str = ""
    digest: str
    licence: dict[str, str]


class DataSource(Record):
    """Origin of some rows of a data file; an empty `licence` was not stated."""

    name: str
    rows: int
    place: str = ""
    revision: str = ""
    licence: str = ""


class TrainingData(Record):
    """A file of training rows.

    `digest` is of the output of `step` that holds the file, `inputs` are the digests of its inputs.
    """

    name: str
    rows: int
    sha256: str
    step: str
    digest: str
    inputs: dict[str, str]
    sources: tuple[DataSource, ...] = ()


class CodeVersion(Record):
    """Version of omnicore, digest of the package, and the commit that last changed it, if known."""

    version: str
    digest: str
    revision: str = ""


class ParentCheckpoint(Record):
    """A checkpoint that this one was trained from.

    `digest` is of the output that holds it, or of its directory where the recipe names one.
    """

    stage: str
    digest: str
    recipe_hash: str
    seed: int
    code: str


class ProducingStep(Record):
    """The step that wrote the checkpoint of a release."""

    section: str
    key: str
    digest: str


class CheckpointScores(Record):
    """One evaluation: raw over all queries, clean over those that the audit's manifest keeps.

    `evaluation` is its digest.
    """

    evaluation: str
    profile_hash: str
    manifest_hash: str
    queries_hash: str
    raw: dict[str, Estimate]
    clean: dict[str, Estimate]
    by_benchmark: dict[str, dict[str, Estimate | None]]
    ablation: dict[str, Estimate]


class CheckpointCard(Record):
    """All that decided a checkpoint.

    Attributes:
        stage: Section of the recipe that trained it.
        parents: Checkpoints from the base to this one.
        recipe_hash: Digest of all recipe values that can decide an answer.
        config: The stage's own part of them.
        made: The step that wrote it; only in a release, since it is known after the step.
        scores: Its evaluation; only in a release.
    """

    stage: str
    base: BaseCheckpoint
    parents: tuple[ParentCheckpoint, ...] = ()
    data: TrainingData
    recipe: str
    recipe_hash: str
    config: dict[str, Any]
    profile: Profile
    seed: int
    code: CodeVersion
    made: ProducingStep | None = None
    scores: CheckpointScores | None = None
