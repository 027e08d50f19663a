from kfp import dsl

from components.images import CORE


@dsl.component(base_image=CORE, install_kfp_package=False)
def promote(
    champion: dsl.Input[dsl.Artifact],
    candidate: dsl.Input[dsl.Artifact],
    queries: dsl.Input[dsl.Dataset],
    manifest: dsl.Input[dsl.Artifact],
    output: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    recipe: str,
    overrides: str = "",
    model: str = "",
    run_name: str = "",
) -> None:
    """Candidate against champion: the paired difference on the clean view."""
    from components.execute import execute

    inputs = {"champion": champion, "candidate": candidate, "queries": queries, "manifest": manifest}
    execute("promote", recipe, overrides, {"model": model}, inputs, output, metrics)
    output.metadata["run"] = run_name
