from kfp import dsl

from components.images import CORE
from components.passthroughs import PASSED


@dsl.component(base_image=CORE, install_kfp_package=False, task_config_passthroughs=PASSED)
def distill(
    data: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Input[dsl.Model],
    rows: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    draws: dsl.Input[dsl.Dataset] | None = None,
    place: dsl.TaskConfig = None,
) -> None:
    """The model's own rollouts on omni queries; those that pass every rule become training rows."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"data": data, "model": checkpoint, "draws": draws}
    execute("distill", recipe, overrides, settings, inputs, rows, metrics, place=place)
