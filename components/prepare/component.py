from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def prepare(
    output: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
) -> None:
    """Native annotations and media to queries and training sets."""
    from components.execute import execute

    execute("prepare", recipe, overrides, {"model": model}, {}, output, metrics)
