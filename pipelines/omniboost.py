"""OmniBoost: the audit, three training stages with an evaluation after each, the report and the promotion."""

from kfp import dsl

from components.distill.component import distill
from components.evaluate.component import evaluate
from components.promote.component import promote
from components.report.component import report
from components.rlvr.component import rlvr
from components.sft.component import sft
from pipelines import place
from pipelines.omniclean import omniclean


@dsl.pipeline(name="omniboost", description="Audit, bi-modal SFT, RLVR, self-distillation, report and promotion")
def omniboost(recipe: str = "tiny", overrides: str = "", model: str = "", run_name: str = "", control: bool = False) -> None:
    """The nested omniclean first; then a line of stages, each evaluated beside the next one's training.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        overrides: YAML list of dotted.field=value, or mapping of dotted fields to values.
        model: The model under study: a directory or embedded:NAME; empty: the recipe's.
        run_name: Name that the report and the decision carry in their metadata.
        control: Also train with a random reward in place of the verified one, and show it in the report.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model}
    audit = omniclean(**settings).set_display_name("audit").outputs
    queries, draws, manifest = audit["queries"], audit["draws"], audit["manifest"]

    def scores(stage: str, trained: dsl.PipelineTask | None = None) -> dsl.Artifact:
        model_under_test = {"checkpoint": trained.outputs["output"]} if trained else {}
        task = evaluate(queries=queries, manifest=manifest, **model_under_test, **settings)
        return place(task, f"evaluate {stage}", gpu=True).outputs["output"]

    base = scores("base")
    tuned = place(sft(data=queries, **settings), "sft", gpu=True)
    after_sft = scores("sft", tuned)
    rewarded = place(rlvr(data=queries, checkpoint=tuned.outputs["output"], **settings), "rlvr", gpu=True)
    after_rlvr = scores("rlvr", rewarded)
    own = place(distill(data=queries, checkpoint=rewarded.outputs["output"], **settings), "distill", gpu=True)
    final = sft(data=own.outputs["output"], checkpoint=rewarded.outputs["output"], section="sft_distilled", **settings)
    place(final, "sft distilled", gpu=True)
    after_distilled = scores("distilled", final)

    everything = {
        "queries": queries,
        "audit": manifest,
        "draws": draws,
        "second_draws": audit["second_draws"],
        "base": base,
        "sft": after_sft,
        "rlvr": after_rlvr,
        "distilled": after_distilled,
        "sft_curves": tuned.outputs["output"],
        "rlvr_curves": rewarded.outputs["output"],
        "distill": own.outputs["output"],
        "distilled_curves": final.outputs["output"],
        "run_name": run_name,
        **settings,
    }
    # An output of one branch cannot be an optional input outside it: each branch has its own report.
    with dsl.If(control == True, "with-control"):  # noqa: E712
        lucky = rlvr(data=queries, checkpoint=tuned.outputs["output"], control="random_reward", **settings)
        place(lucky, "rlvr control", gpu=True)
        place(report(control=scores("control", lucky), **everything), "report")
    with dsl.Else("without-control"):
        place(report(**everything), "report")
    decision = promote(champion=base, candidate=after_distilled, queries=queries, manifest=manifest, run_name=run_name, **settings)
    place(decision, "promote")
