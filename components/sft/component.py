from kfp import dsl

from components.images import CORE
from components.passthroughs import PASSED


@dsl.component(base_image=CORE, install_kfp_package=False, task_config_passthroughs=PASSED)
def sft(
    data: dsl.Input[dsl.Dataset],
    checkpoint: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    section: str = "sft",
    start: dsl.Input[dsl.Model] | None = None,
    place: dsl.TaskConfig = None,
) -> None:
    """Supervised fine-tuning on written replies."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute("sft", recipe, overrides, settings, {"data": data, "model": start}, checkpoint, metrics, section, place)
