from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def distill(
    data: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    output: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
) -> None:
    """The model's own rollouts on omni queries; those with the right answer become training rows."""
    from components.execute import execute

    execute("distill", recipe, overrides, {"model": model}, {"data": data, "model": checkpoint}, output, metrics)
