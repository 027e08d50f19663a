from kfp import dsl

from components.images import CORE
from components.passthroughs import PASSED


@dsl.component(base_image=CORE, install_kfp_package=False, task_config_passthroughs=PASSED)
def probe(
    queries: dsl.Input[dsl.Dataset],
    draws: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    section: str = "probe",
    place: dsl.TaskConfig = None,
) -> None:
    """A probe model's answers with modalities withheld, several draws a query.

    Args:
        queries: Queries to ask: the output of prepare.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: The model under study: a directory, embedded:NAME, or its name on a server. Empty for the recipe's.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        section: Section of the recipe with the probe's settings: probe, second_probe or distill_probe.
        place: Resources, node placement and environment of this task, for the job that it launches. KFP fills it in.

    Returns:
        draws: Directory with draws.jsonl, one line per query, view and draw, and the failed requests.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute(
        "probe", recipe, overrides, settings, {"queries": queries}, draws, metrics, section, place
    )
