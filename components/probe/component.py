from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def probe(
    queries: dsl.Input[dsl.Dataset],
    output: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    section: str = "probe",
) -> None:
    """A probe model's answers with modalities withheld, several draws a query."""
    from components.execute import execute

    execute("probe", recipe, overrides, {"model": model}, {"queries": queries}, output, metrics, section)
