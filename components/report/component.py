from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def report(
    queries: dsl.Input[dsl.Dataset],
    audit: dsl.Input[dsl.Artifact],
    draws: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    figures: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    run_name: str = "",
    second_draws: dsl.Input[dsl.Dataset] | None = None,
    base: dsl.Input[dsl.Artifact] | None = None,
    sft: dsl.Input[dsl.Artifact] | None = None,
    rlvr: dsl.Input[dsl.Artifact] | None = None,
    distilled: dsl.Input[dsl.Artifact] | None = None,
    sft_curves: dsl.Input[dsl.Model] | None = None,
    rlvr_curves: dsl.Input[dsl.Model] | None = None,
    distilled_curves: dsl.Input[dsl.Model] | None = None,
    distill: dsl.Input[dsl.Dataset] | None = None,
    distill_draws: dsl.Input[dsl.Dataset] | None = None,
    control: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """The self-contained HTML page, and the same figures as JSON; of an audit alone, or of a whole run.

    Args:
        queries: Queries of the audit: the output of prepare.
        audit: Verdicts and the manifest of the clean view: the output of clean.
        draws: Answers with modalities withheld: the output of probe.
        recipe: Name of a recipe that ships with the image, as in tiny, or the path of a YAML file in the image.
        overrides: Recipe values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: The model under study: a directory, embedded:NAME, or its name on a server. Empty for the recipe's.
        benchmarks: Public benchmarks, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {} for the recipe's.
        run_name: Name of the run in the metadata of the figures, as in boost-2026-11.
        second_draws: Output of the second probe.
        base: Scores of the model before training. Given together with the other stages, or not at all.
        sft: Scores after supervised fine-tuning.
        rlvr: Scores after reinforcement learning.
        distilled: Scores after self-distillation.
        sft_curves: Output of sft, for its training curves.
        rlvr_curves: Output of rlvr, for its training curves and rollouts.
        distilled_curves: Output of the sft on distilled rows, for its training curves.
        distill: Output of distill, for the outcome of each rollout.
        distill_draws: Output of the probe that distill used.
        control: Scores of the control arm, which was trained with a random reward.

    Returns:
        report: The self-contained HTML page.
        figures: Directory with report.json, the figures of the page.
        metrics: The numbers of the step's summary.
    """
    import shutil

    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {
        "queries": queries,
        "audit": audit,
        "draws": draws,
        "second_draws": second_draws,
        "base": base,
        "sft": sft,
        "rlvr": rlvr,
        "distilled": distilled,
        "sft_curves": sft_curves,
        "rlvr_curves": rlvr_curves,
        "distilled_curves": distilled_curves,
        "distill": distill,
        "distill_draws": distill_draws,
        "control": control,
    }
    execute("report", recipe, overrides, settings, inputs, figures, metrics)
    figures.metadata["run"] = run_name
    shutil.copyfile(f"{figures.path}/report.html", report.path)
