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
    """Supervised fine-tuning on written replies.

    Args:
        data: Training rows: the output of prepare or distill.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: The model that training starts from without `start`: a directory or embedded:NAME. Empty for the recipe's.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        section: Section of the recipe with the settings of this training: sft or sft_distilled.
        start: The model that training starts from: the output of sft or rlvr. `model` if none is given.
        place: Resources, node placement and environment of this task, for the job that it launches. KFP fills it in.

    Returns:
        checkpoint: Directory with checkpoint/ (the trained model) and curves.jsonl.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    execute(
        "sft",
        recipe,
        overrides,
        settings,
        {"data": data, "model": start},
        checkpoint,
        metrics,
        section,
        place,
    )
