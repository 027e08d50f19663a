"""The model card of a checkpoint: `card.json`, and `README.md` for people and the Hugging Face hub,
rendered from it.

A card holds what decided the weights and nothing else: no time and no path of a machine, so that
the same seed gives the same checkpoint. A digest of a step's output is what `step.json` calls so:
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

from omnicore import __version__
from omnicore.config import Profile, result_fields
from omnicore.config.recipe import Recipe
from omnicore.errors import DataError
from omnicore.lineage.code_version import code_digest, git_revision
from omnicore.lineage.step_record import read_step
from omnicore.schema import Estimate, Record
from omnicore.storage.digests import model_directory, sha256_file
from omnicore.storage.files import atomic_writer, read_json, write_json

CARD_FILE, README, CHECKPOINT = "card.json", "README.md", "checkpoint"
EMBEDDED = {"license": "apache-2.0"}  # models and data of this repository are under its LICENSE
EMBEDDED_DATA = (
    "omnicore; handwriting of UCI's Optical Recognition of Handwritten Digits, speech synthesised"
    " with espeak-ng"
)
LICENCE = ("license", "license_name", "license_link")  # the hub's fields
VIEWS = ("raw", "clean")


class BaseCheckpoint(Record):
    """The model that all training began from.

    `name` is embedded:NAME, an id of the hub where the directory lies in the hub's cache, or the
    directory's own name; `digest` is of its files; `licence` holds what its own card says, in the
    hub's fields.
    """

    name: str
    revision: str = ""
    digest: str
    licence: dict[str, str]


class DataSource(Record):
    """Where some rows of a data file come from.

    An empty `licence` is one that was not told.
    """

    name: str
    rows: int
    place: str = ""
    revision: str = ""
    licence: str = ""


class TrainingData(Record):
    """A file of training rows.

    `digest` is of the output of `step` that holds it, `inputs` those of what that was made of.
    """

    name: str
    rows: int
    sha256: str
    step: str
    digest: str
    inputs: dict[str, str]
    sources: tuple[DataSource, ...] = ()


class CodeVersion(Record):
    """Omnicore: its version, the digest of the package, and the commit that last changed it, where
    git is at hand."""

    version: str
    digest: str
    revision: str = ""


class ParentCheckpoint(Record):
    """A checkpoint that this one was trained from.

    `digest` is of the output that holds it, or of its own directory where the recipe named one.
    """

    stage: str
    digest: str
    recipe_hash: str
    seed: int
    code: str


class ProducingStep(Record):
    """The step whose checkpoint a released one is."""

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
    """`recipe_hash` covers all of the recipe that can decide an answer, `config` the stage's own
    part of that.

    `parents` begin at the base. `made` and `scores` stand in a released checkpoint alone: they are
    known only after the step that wrote it.
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


def create_card(
    section: str,
    recipe: Recipe,
    config: BaseModel,
    inputs: Mapping[str, Path],
    digests: Mapping[str, str],
    models: Mapping[str, str],
) -> CheckpointCard:
    """The card of what a training step wrote.

    `digests` are those of the inputs' outputs, `models` those of the recipe's models.
    """
    base, parents = _ancestors(recipe, inputs, digests, models)
    return CheckpointCard(
        stage=section,
        base=base,
        parents=parents,
        data=_data(inputs["data"], config.model_dump()["data"], digests["data"]),
        recipe=recipe.name,
        recipe_hash=recipe.identity,
        config=result_fields(config.model_dump(mode="json")),
        profile=recipe.profile,
        seed=recipe.seed,
        code=CodeVersion(version=__version__, digest=code_digest(), revision=git_revision()),
    )


def write_card(directory: Path, card: CheckpointCard) -> None:
    """Both files, into a checkpoint's directory."""
    write_json(directory / CARD_FILE, card)
    with atomic_writer(directory / README) as file:
        file.write(render_markdown(card).encode())


def read_card(directory: Path) -> CheckpointCard:
    """The card of a checkpoint.

    Raises DataError where it has none, or a damaged one.
    """
    path = directory / CARD_FILE
    if not path.is_file():
        raise DataError(
            f"{directory} has no {CARD_FILE}: no step of this omnicore wrote it; train it again"
        )
    try:
        return CheckpointCard.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; train it again"
        ) from error


def _ancestors(
    recipe: Recipe,
    inputs: Mapping[str, Path],
    digests: Mapping[str, str],
    models: Mapping[str, str],
) -> tuple[BaseCheckpoint, tuple[ParentCheckpoint, ...]]:
    """What the training began from: known by the card of the model that it was given; one without a
    card is a base."""
    if "model" in inputs:
        directory, digest = inputs["model"] / CHECKPOINT, digests["model"]
        name, revised = str(read_step(inputs["model"])["section"]), ""
    else:
        directory, digest = model_directory(recipe.model), models[recipe.model]
        name, revised = _named(recipe.model, directory)
    if not (directory / CARD_FILE).is_file():
        licence = (
            EMBEDDED
            if recipe.model.startswith("embedded:") and "model" not in inputs
            else _licence(directory / README)
        )
        return BaseCheckpoint(name=name, revision=revised, digest=digest, licence=licence), ()
    card = read_card(directory)
    known = card.made.digest if card.made else digest
    parent = ParentCheckpoint(
        stage=card.stage,
        digest=known,
        recipe_hash=card.recipe_hash,
        seed=card.seed,
        code=card.code.digest,
    )
    return card.base, (*card.parents, parent)


def _named(model: str, directory: Path) -> tuple[str, str]:
    """Name and revision of a base.

    The hub's cache has both in its folders: models--ORG--NAME/snapshots/COMMIT.
    """
    if model.startswith("embedded:"):
        return model, ""
    *_, cached, snapshots, commit = ("", "", *directory.resolve().parts)
    if snapshots == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/"), commit
    return commit, ""


def _licence(readme: Path) -> dict[str, str]:
    """What the front matter of a model's own card says of its licence; nothing where it says
    none."""
    head, begins, rest = (
        readme.read_text(errors="replace").partition("---\n") if readme.is_file() else ("", "", "")
    )
    try:
        fields = yaml.safe_load(rest.partition("\n---")[0]) if begins and not head.strip() else {}
    except yaml.YAMLError:
        return {}
    return (
        {name: str(fields[name]) for name in LICENCE if fields.get(name)}
        if isinstance(fields, dict)
        else {}
    )


def _data(folder: Path, name: str, digest: str) -> TrainingData:
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
            place, revised = given[name]["path"], given[name]["revision"]
            yield DataSource(
                name=name,
                rows=count,
                place=place if revised else Path(place).name,
                revision=revised,
            )
        else:
            yield DataSource(
                name=name, rows=count, place=EMBEDDED_DATA, licence="apache-2.0, as omnicore"
            )


def render_markdown(card: CheckpointCard) -> str:
    """The card as Markdown, with the front matter that the hub reads."""
    tags = [
        "omnicore",
        card.stage,
        *sorted({source.name for source in card.data.sources} - {card.stage}),
    ]
    datasets = [source.place for source in card.data.sources if source.revision]
    head = {
        **card.base.licence,
        "base_model": card.base.name,
        "library_name": "transformers",
        "pipeline_tag": "any-to-any",
        "tags": tags,
        **({"datasets": datasets} if datasets else {}),
    }
    licence = (
        ", ".join(f"{name}: {value}" for name, value in card.base.licence.items())
        or "not stated by its files"
    )
    chain = " → ".join(
        [f"`{card.base.name}`", *(parent.stage for parent in card.parents), f"**{card.stage}**"]
    )
    return "\n".join(
        [
            f"---\n{_yaml(head)}---",
            f"# {card.recipe}: {card.stage}",
            "",
            (
                f"{chain}, by omnicore {card.code.version}. It reads text, pictures, sound and"
                " video, and answers in text."
            ),
            "",
            *_scores(card.scores),
            "",
            "## Where it comes from",
            "",
            "| what | which | sha256 |",
            "|---|---|---|",
            (
                f"| base | {' '.join(filter(None, (card.base.name, card.base.revision)))} |"
                f" `{card.base.digest}` |"
            ),
            *(
                f"| trained from | {parent.stage}, seed {parent.seed} | `{parent.digest}` |"
                for parent in card.parents
            ),
            (
                f"| data | {card.data.name} of {card.data.step}, {card.data.rows} rows |"
                f" `{card.data.sha256}` |"
            ),
            f"| output of {card.data.step} | | `{card.data.digest}` |",
            *(
                f"| {role} of {card.data.step} | | `{digest}` |"
                for role, digest in card.data.inputs.items()
            ),
            f"| recipe | {card.recipe}, seed {card.seed} | `{card.recipe_hash}` |",
            (
                "| code | omnicore"
                f" {' '.join(filter(None, (card.code.version, card.code.revision)))} |"
                f" `{card.code.digest}` |"
            ),
            *(
                [f"| checkpoint | {card.made.section} | `{card.made.digest}` |"]
                if card.made
                else []
            ),
            "",
            "Prompts were put as this profile says, and the stage ran with these values:",
            "",
            (
                f"```yaml\n{_yaml({'profile': card.profile.model_dump(mode='json'), card.stage: card.config})}```"
            ),
            "",
            "## Licences",
            "",
            f"- Base `{card.base.name}`: {licence}.",
            *(f"- {_told(source)}" for source in card.data.sources),
            "",
            (
                "What is not stated here was not told to omnicore. Licences of data that parents"
                " were trained on stand in their cards."
            ),
            "",
        ]
    )


def _told(source: DataSource) -> str:
    where = " ".join(part for part in (source.place, source.revision) if part)
    return (
        f"Data `{source.name}` ({where or 'place not recorded'}), {source.rows} rows:"
        f" {source.licence or 'not stated'}."
    )


def _scores(scores: CheckpointScores | None) -> list[str]:
    if scores is None:
        return [
            "Not scored yet: step promote, or `omnicore card CHECKPOINT --scores EVALUATION"
            " --output DIR`, tells its scores."
        ]
    rows = [
        f"| {name.replace('_', ' ')} | {_percent(scores.raw[name])} |"
        f" {_percent(scores.clean[name])} |"
        for name in ("macro", "micro", "chance_corrected")
    ]
    rows += [
        f"| {name} | {_percent(of['raw'])} | {_percent(of['clean'])} |"
        for name, of in scores.by_benchmark.items()
    ]
    return [
        "## Scores",
        "",
        (
            "In percent, with 95 % intervals by cluster and the number of queries. Raw: all"
            " queries. Clean: those that the audit's probe does not solve without the sound, by"
            f" the manifest `{scores.manifest_hash}`."
        ),
        "",
        "| | raw | clean |",
        "|---|---|---|",
        *rows,
        *(
            f"| clean, {name.replace('_', ' ')} | | {_percent(found)} |"
            for name, found in scores.ablation.items()
        ),
        "",
        (
            f"Evaluation `{scores.evaluation}`, queries `{scores.queries_hash}`, profile"
            f" `{scores.profile_hash}`."
        ),
    ]


def _percent(e: Estimate | None) -> str:
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}], n {e.n}" if e else "none"


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
