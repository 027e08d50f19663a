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
    """The model's own rollouts on omni queries; those that pass every rule become training rows.

    Args:
        data: Prompts and their verified answers: the output of prepare.
        checkpoint: The model that writes the rollouts: the output of rlvr.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: Model of the run: a directory, embedded:NAME, or its name on a server. Empty for the recipe's. Not used by this step.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        draws: Answers of a probe to the same prompts. Prompts that it solves without the sound are left out.
        place: Resources, node placement and environment of this task, for the job that it launches. KFP fills it in.

    Returns:
        rows: Directory with the training rows (distilled.jsonl), and the outcome of each rollout (selection.jsonl).
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"data": data, "model": checkpoint, "draws": draws}
    execute("distill", recipe, overrides, settings, inputs, rows, metrics, place=place)
