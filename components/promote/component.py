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
    """Candidate against champion: the paired difference on the clean view; the candidate's checkpoint with its scores."""
    from components.execute import execute

    settings = {"model": model, "prepare.sources": benchmarks}
    inputs = {"champion": champion, "candidate": candidate, "queries": queries, "manifest": audit, "model": checkpoint}
    execute("promote", recipe, overrides, settings, inputs, decision, metrics)
    decision.metadata["run"] = run_name
    # The folder itself under a name of its own: a copy would lie in the bucket beside it.
    release.uri = f"{decision.uri}/release"
    release.metadata["run"] = run_name
