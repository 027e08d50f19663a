"""OmniClean: how much of a benchmark can be solved without its sound, and its clean view."""

from typing import NamedTuple

from kfp import dsl

from components.clean.component import clean
from components.prepare.component import prepare
from components.probe.component import probe
from components.report.component import report
from pipelines import cleaning_up, place


class Audit(NamedTuple):
    """Outputs of the audit."""

    queries: dsl.Dataset
    draws: dsl.Dataset
    second_draws: dsl.Dataset
    audit: dsl.Artifact


@dsl.pipeline(
    name="audit",
    description="Prepare a benchmark, probe it twice with modalities withheld, judge every query",
)
def audit(recipe: str, overrides: str = "", model: str = "", benchmarks: dict = {}) -> Audit:  # noqa: B006
    """The part that every pipeline begins with: the queries, the draws of both probes, and the clean view with its audit.

    Args:
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [probe.draws.visual_only=8, seed=1]. Empty for none.
        model: The model under study: a directory, embedded:NAME, or its name on a server. Empty for the recipe's.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.

    Returns:
        queries: Directory with queries.jsonl, the training sets of the later steps, and their media.
        draws: Answers of the first probe with modalities withheld.
        second_draws: Answers of the second, independent probe.
        audit: Directory with the manifest of the clean view, one manifest per policy, and audit.json.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model, "benchmarks": benchmarks}
    queries = place(prepare(**settings), "prepare").outputs["queries"]
    draws = place(probe(queries=queries, **settings), "probe").outputs["draws"]
    second = place(
        probe(queries=queries, section="second_probe", **settings), "second probe"
    ).outputs["draws"]
    cleaned = place(clean(queries=queries, draws=draws, second_draws=second, **settings), "clean")
    return Audit(queries, draws, second, cleaned.outputs["audit"])


@dsl.pipeline(
    name="omniclean",
    description="Audit benchmarks for visual shortcuts: which queries need no sound, on one page",
)
def omniclean(
    recipe: str = "tiny",
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    run_name: str = "",
) -> None:
    """The audit with its page.

    Args:
        recipe: Name of a recipe that comes with the image (tiny, qwen3-vl-audit), or path of a YAML file in it.
        overrides: Single values to change, as a YAML list: [probe.draws.visual_only=8, seed=1]. Empty for none.
        model: The model under study: a directory, embedded:NAME, or its name on a server. Empty for the recipe's own.
        benchmarks: Public benchmarks to audit, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {}: the recipe's.
        run_name: Name that the page carries in its metadata, as in audit-2026-11.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model, "benchmarks": benchmarks}
    with cleaning_up():
        found = audit(**settings).outputs
        place(report(**found, run_name=run_name, **settings), "report")
