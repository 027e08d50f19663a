"""A model card as Markdown with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from omnicore.errors import missing_package
from omnicore.lineage.card_records import CheckpointCard, CheckpointScores, DataSource
from omnicore.schema import Estimate

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

VIEWS = ("raw", "clean")
TASK = "any-to-any"
AGGREGATES = ("macro", "micro", "chance_corrected")


def render_markdown(card: CheckpointCard) -> str:
    """Return the card as Markdown.

    Raises:
        ConfigError: The card has scores and huggingface_hub is not installed.
    """
    profile = {"profile": card.profile.model_dump(mode="json"), card.stage: card.config}
    lines = [
        f"---\n{_yaml(front_matter(card))}---",
        f"# {card.recipe}: {card.stage}",
        "",
        f"{_chain(card)}, by omnicore {card.code.version}. It reads text, pictures, sound and"
        " video, and answers in text.",
        "",
        *_score_lines(card.scores),
        "",
        "## Where it comes from",
        "",
        "| what | which | sha256 |",
        "|---|---|---|",
        *_origin_rows(card),
        "",
        "Prompts were put as this profile says, and the stage ran with these values:",
        "",
        f"```yaml\n{_yaml(profile)}```",
        "",
        "## Licences",
        "",
        *_licence_lines(card),
        "",
        "What is not stated here was not told to omnicore. Licences of data that parents were"
        " trained on stand in their cards.",
        "",
    ]
    return "\n".join(lines)


def front_matter(card: CheckpointCard) -> dict[str, Any]:
    """Return the metadata of the hub; with scores, also the hub's evaluation results."""
    sources = {source.name for source in card.data.sources} - {card.stage}
    fields: dict[str, Any] = {
        **card.base.licence,
        "base_model": card.base.name,
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "tags": ["omnicore", card.stage, *sorted(sources)],
    }
    datasets = [source.place for source in card.data.sources if source.revision]
    if datasets:
        fields["datasets"] = datasets
    if card.scores:
        fields["model-index"] = _model_index(f"{card.recipe}: {card.stage}", card.scores)
    return fields


def _model_index(name: str, scores: CheckpointScores) -> list[dict[str, Any]]:
    """Return the scores in the form in which the hub shows them."""
    try:
        from huggingface_hub import ModelCardData
    except ModuleNotFoundError as error:
        raise missing_package(error.name, "audit", "a model card with scores") from error
    data = ModelCardData(model_name=name, eval_results=list(_eval_results(scores)))
    index: list[dict[str, Any]] = data.to_dict()["model-index"]  # type: ignore[no-untyped-call]
    return index


def _eval_results(scores: CheckpointScores) -> Iterator[EvalResult]:
    """Yield an accuracy in percent for each view: aggregates, then benchmarks."""
    from huggingface_hub import EvalResult

    for view in VIEWS:
        aggregates: dict[str, Estimate] = getattr(scores, view)
        estimates = [("all benchmarks", name, aggregates[name]) for name in AGGREGATES]
        for benchmark, by_view in scores.by_benchmark.items():
            estimate = by_view[view]
            if estimate:
                estimates.append((benchmark, "accuracy", estimate))
        for dataset, metric, estimate in estimates:
            yield EvalResult(
                task_type=TASK,
                dataset_type=dataset,
                dataset_name=f"{dataset}, {view}",
                dataset_config=view,
                metric_type="accuracy",
                metric_name=metric.replace("_", " "),
                metric_value=round(100 * estimate.value, 2),
            )


def _chain(card: CheckpointCard) -> str:
    stages = [f"`{card.base.name}`", *(parent.stage for parent in card.parents)]
    return " → ".join([*stages, f"**{card.stage}**"])


def _origin_rows(card: CheckpointCard) -> Iterator[str]:
    base, data, code = card.base, card.data, card.code
    yield f"| base | {f'{base.name} {base.revision}'.strip()} | `{base.digest}` |"
    for parent in card.parents:
        yield f"| trained from | {parent.stage}, seed {parent.seed} | `{parent.digest}` |"
    yield f"| data | {data.name} of {data.step}, {data.rows} rows | `{data.sha256}` |"
    yield f"| output of {data.step} | | `{data.digest}` |"
    for role, digest in data.inputs.items():
        yield f"| {role} of {data.step} | | `{digest}` |"
    yield f"| recipe | {card.recipe}, seed {card.seed} | `{card.recipe_hash}` |"
    version = " ".join(filter(None, (code.version, code.revision)))
    yield f"| code | omnicore {version} | `{code.digest}` |"
    if card.made:
        yield f"| checkpoint | {card.made.section} | `{card.made.digest}` |"


def _licence_lines(card: CheckpointCard) -> Iterator[str]:
    stated = [f"{name}: {value}" for name, value in card.base.licence.items()]
    yield f"- Base `{card.base.name}`: {', '.join(stated) or 'not stated by its files'}."
    for source in card.data.sources:
        yield f"- {_source_line(source)}"


def _source_line(source: DataSource) -> str:
    place = " ".join(filter(None, (source.place, source.revision)))
    return (
        f"Data `{source.name}` ({place or 'place not recorded'}), {source.rows} rows:"
        f" {source.licence or 'not stated'}."
    )


def _score_lines(scores: CheckpointScores | None) -> list[str]:
    if scores is None:
        return [
            "Not scored yet: step promote, or `omnicore card CHECKPOINT --scores EVALUATION"
            " --output DIR`, tells its scores."
        ]
    return [
        "## Scores",
        "",
        "In percent, with 95 % intervals by cluster and the number of queries. Raw: all queries."
        " Clean: those that the audit's probe does not solve without the sound, by the manifest"
        f" `{scores.manifest_hash}`.",
        "",
        "| | raw | clean |",
        "|---|---|---|",
        *_score_rows(scores),
        "",
        f"Evaluation `{scores.evaluation}`, queries `{scores.queries_hash}`, profile"
        f" `{scores.profile_hash}`.",
    ]


def _score_rows(scores: CheckpointScores) -> Iterator[str]:
    for name in AGGREGATES:
        raw, clean = _percent(scores.raw[name]), _percent(scores.clean[name])
        yield f"| {name.replace('_', ' ')} | {raw} | {clean} |"
    for name, by_view in scores.by_benchmark.items():
        yield f"| {name} | {_percent(by_view['raw'])} | {_percent(by_view['clean'])} |"
    for name, estimate in scores.ablation.items():
        yield f"| clean, {name.replace('_', ' ')} | | {_percent(estimate)} |"


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "none"
    value, low, high = 100 * estimate.value, 100 * estimate.low, 100 * estimate.high
    return f"{value:.1f} [{low:.1f}, {high:.1f}], n {estimate.n}"


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
