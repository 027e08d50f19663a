from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def prepare(
    queries: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
) -> None:
    """Native annotations and media to queries and training sets.

    Args:
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: Model of the run: a directory, embedded:NAME, or its name on a server. Empty for the recipe's. Not used by this step.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.

    Returns:
        queries: Directory with queries.jsonl, the training sets of the later steps, and their media.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute("prepare", recipe, overrides, settings, {}, queries, metrics)
