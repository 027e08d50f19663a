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
    """Reinforcement learning on verifiable rewards over mixed modalities.

    Args:
        data: Prompts and their verified answers: the output of prepare.
        start: The model that training starts from: the output of sft.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: Model of the run: a directory, embedded:NAME, or its name on a server. Empty for the recipe's. Not used by this step.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        control: Control arm: random_reward, muted_audio or text_only. Empty for the recipe's.
        place: Resources, node placement and environment of this task, for the job that it launches. KFP fills it in.

    Returns:
        checkpoint: Directory with checkpoint/ (the trained model), curves.jsonl and rollouts.jsonl.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks, "rlvr.control": control}
    execute(
        "rlvr",
        recipe,
        overrides,
        settings,
        {"data": data, "model": start},
        checkpoint,
        metrics,
        place=place,
    )
