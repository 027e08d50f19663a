from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def rlvr(
    data: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    output: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    control: str = "",
) -> None:
    """Reinforcement learning on verifiable rewards over mixed modalities."""
    from components.execute import execute

    execute(
        "rlvr", recipe, overrides, {"model": model, "rlvr.control": control}, {"data": data, "model": checkpoint}, output, metrics
    )
