from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def promote(
    champion: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Artifact],
    queries: dsl.Input[dsl.Dataset],
    audit: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    release: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    run_name: str = "",
    checkpoint: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Candidate against champion: the paired difference on the clean view; the candidate's checkpoint with its scores.

    Args:
        champion: Scores of the model to beat: the output of evaluate.
        candidate: Scores of the new model: the output of evaluate.
        queries: Queries that both models answered: the output of prepare.
        audit: Manifest of the clean view on which they are compared: the output of clean.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: Model of the run: a directory, embedded:NAME, or its name on a server. Empty for the recipe's. Not used by this step.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        run_name: Name of the run in the metadata of the decision and the release, as in retrain-1a2b3c4d5e6f.
        checkpoint: The candidate itself: the output of sft or rlvr. It is released with its scores.

    Returns:
        decision: Directory with decision.json: whether the candidate replaces the champion, and why.
        release: The candidate's checkpoint with its scores and model card, signed where a key is given.
        metrics: The numbers of the step's summary.
    """
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {
        "champion": champion,
        "candidate": candidate,
        "queries": queries,
        "manifest": audit,
        "model": checkpoint,
    }
    execute("promote", recipe, overrides, settings, inputs, decision, metrics)
    decision.metadata["run"] = run_name
    # The folder itself under a name of its own: a copy would lie in the bucket beside it.
    release.uri = f"{decision.uri}/release"
    release.metadata["run"] = run_name
