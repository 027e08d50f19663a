from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def evaluate(
    queries: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Artifact],
    output: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    checkpoint: dsl.Input[dsl.Model] | None = None,
) -> None:
    """One reply per query, scored on the raw and on the clean view."""
    from components.execute import execute

    execute(
        "evaluate",
        recipe,
        overrides,
        {"model": model},
        {"queries": queries, "manifest": manifest, "model": checkpoint},
        output,
        metrics,
    )
