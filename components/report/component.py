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
    """The self-contained HTML page, and the same figures as JSON; of an audit alone, or of a whole run."""
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
