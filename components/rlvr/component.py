from kfp import dsl

from components.images import CORE
from components.passthroughs import PASSED


@dsl.component(base_image=CORE, install_kfp_package=False, task_config_passthroughs=PASSED)
def rlvr(
    data: dsl.Input[dsl.Dataset],
    start: dsl.Input[dsl.Model],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    control: str = "",
    place: dsl.TaskConfig = None,
) -> None:
    """Reinforcement learning on verifiable rewards over mixed modalities."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks, "rlvr.control": control}
    execute("rlvr", recipe, overrides, settings, {"data": data, "model": start}, checkpoint, metrics, place=place)
