from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def sft(
    data: dsl.Input[dsl.Dataset],
    output: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    section: str = "sft",
    checkpoint: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Supervised fine-tuning on written replies."""
    from components.execute import execute

    execute("sft", recipe, overrides, {"model": model}, {"data": data, "model": checkpoint}, output, metrics, section)
