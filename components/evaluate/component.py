from kfp import dsl

from components.images import CORE
from components.passthroughs import PASSED


@dsl.component(base_image=CORE, install_kfp_package=False, task_config_passthroughs=PASSED)
def evaluate(
    queries: dsl.Input[dsl.Dataset],
    audit: dsl.Input[dsl.Artifact],
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    checkpoint: dsl.Input[dsl.Model] | None = None,
    place: dsl.TaskConfig = None,
) -> None:
    """One reply per query, scored on the raw and on the clean view."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"queries": queries, "manifest": audit, "model": checkpoint}
    execute("evaluate", recipe, overrides, settings, inputs, scores, metrics, place=place)
