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
    """A probe model's answers with modalities withheld, several draws a query."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute("probe", recipe, overrides, settings, {"queries": queries}, draws, metrics, section, place)
