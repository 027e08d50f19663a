from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def clean(
    queries: dsl.Input[dsl.Dataset],
    draws: dsl.Input[dsl.Dataset],
    output: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    second_draws: dsl.Input[dsl.Dataset] | None = None,
) -> None:
    """From draws to verdicts, the manifest of the clean view, and the audit."""
    from components.execute import execute

    execute(
        "clean",
        recipe,
        overrides,
        {"model": model},
        {"queries": queries, "draws": draws, "second_draws": second_draws},
        output,
        metrics,
    )
