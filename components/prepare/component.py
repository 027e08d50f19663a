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
    """Native annotations and media to queries and training sets."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute("prepare", recipe, overrides, settings, {}, queries, metrics)
