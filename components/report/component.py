from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def report(
    queries: dsl.Input[dsl.Dataset],
    audit: dsl.Input[dsl.Artifact],
    draws: dsl.Input[dsl.Dataset],
    second_draws: dsl.Input[dsl.Dataset],
    base: dsl.Input[dsl.Artifact],
    sft: dsl.Input[dsl.Artifact],
    rlvr: dsl.Input[dsl.Artifact],
    distilled: dsl.Input[dsl.Artifact],
    sft_curves: dsl.Input[dsl.Model],
    rlvr_curves: dsl.Input[dsl.Model],
    distill: dsl.Input[dsl.Dataset],
    distilled_curves: dsl.Input[dsl.Model],
    output: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    run_name: str = "",
    control: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """The self-contained HTML page, and the same figures as JSON."""
    import shutil

    from components.execute import execute

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
        "distill": distill,
        "distilled_curves": distilled_curves,
        "control": control,
    }
    execute("report", recipe, overrides, {"model": model}, inputs, output, metrics)
    output.metadata["run"] = run_name
    shutil.copyfile(f"{output.path}/report.html", page.path)
