from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def clean(
    queries: dsl.Input[dsl.Dataset],
    draws: dsl.Input[dsl.Dataset],
    audit: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    second_draws: dsl.Input[dsl.Dataset] | None = None,
) -> None:
    """From draws to verdicts, the manifest of the clean view, and the audit.

    Args:
        queries: Queries to judge: the output of prepare.
        draws: Answers with modalities withheld: the output of probe.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: Model of the run: a directory, embedded:NAME, or its name on a server. Empty for the recipe's. Not used by this step.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        second_draws: Output of a second, independent probe. It measures the leakage that the clean view still has.

    Returns:
        audit: Directory with the manifest of the clean view, one manifest per policy, and audit.json.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"queries": queries, "draws": draws, "second_draws": second_draws}
    execute("clean", recipe, overrides, settings, inputs, audit, metrics)
