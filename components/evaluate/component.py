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
    """One reply per query, scored on the raw and on the clean view.

    Args:
        queries: Queries to ask: the output of prepare.
        audit: Manifest of the clean view: the output of clean.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: The model under study: a directory, embedded:NAME, or its name on a server. Empty for the recipe's.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        checkpoint: The model to evaluate: the output of sft or rlvr. `model` if none is given.
        place: Resources, node placement and environment of this task, for the job that it launches. KFP fills it in.

    Returns:
        scores: Directory with scores.json, the responses, and the results of each query.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"queries": queries, "manifest": audit, "model": checkpoint}
    execute("evaluate", recipe, overrides, settings, inputs, scores, metrics, place=place)
