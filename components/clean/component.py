from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def clean(
    queries: dsl.Input[dsl.Dataset],
    draws: dsl.Input[dsl.Dataset],
    audit: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    second_draws: dsl.Input[dsl.Dataset] | None = None,
) -> None:
    """From draws to verdicts, the manifest of the clean view, and the audit."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"queries": queries, "draws": draws, "second_draws": second_draws}
    execute("clean", recipe, overrides, settings, inputs, audit, metrics)
