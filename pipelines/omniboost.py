"""OmniBoost: the audit, three training stages with an evaluation each, report and promotion."""

from kfp import dsl

from components.distill.component import distill
from components.evaluate.component import evaluate
from components.probe.component import probe
from components.promote.component import promote
from components.report.component import report
from components.rlvr.component import rlvr
from components.sft.component import sft
from pipelines import cleaning_up, place
from pipelines.omniclean import audit


@dsl.pipeline(
    name="omniboost",
    description="Audit, bi-modal SFT, RLVR, self-distillation, report and promotion",
)
def omniboost(
    recipe: str = "tiny",
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    run_name: str = "",
    control: bool = False,
) -> None:
    """The audit first; then a line of stages, each evaluated beside the next one's training.

    Args:
        recipe: Name of a recipe that comes with the image, as in tiny, or path of a YAML file in it.
        overrides: Single values to change, as a YAML list: [rlvr.steps=40, seed=1]. Empty for none.
        model: The model to audit with and to train: a directory or embedded:NAME. Empty for the recipe's own.
        benchmarks: Public benchmarks to study, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {}: the recipe's.
        run_name: Name that the page and the decision carry in their metadata, as in boost-2026-11.
        control: Also train with a random reward in place of the verified one, and show it on the page.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model, "benchmarks": benchmarks}
    with cleaning_up():
        found = audit(**settings).outputs
        queries, clean_view = found["queries"], found["audit"]

        def scores(stage: str, trained: dsl.PipelineTask | None = None) -> dsl.Artifact:
            model_under_test = {"checkpoint": trained.outputs["checkpoint"]} if trained else {}
            task = evaluate(queries=queries, audit=clean_view, **model_under_test, **settings)
            return place(task, f"evaluate {stage}").outputs["scores"]

        base = scores("base")
        tuned = place(sft(data=queries, **settings), "sft")
        after_sft = scores("sft", tuned)
        rewarded = place(rlvr(data=queries, start=tuned.outputs["checkpoint"], **settings), "rlvr")
        after_rlvr = scores("rlvr", rewarded)
        solved = place(
            probe(queries=queries, section="distill_probe", **settings), "probe distill"
        ).outputs["draws"]
        own = place(
            distill(
                data=queries, checkpoint=rewarded.outputs["checkpoint"], draws=solved, **settings
            ),
            "distill",
        )
        final = sft(
            data=own.outputs["rows"],
            start=rewarded.outputs["checkpoint"],
            section="sft_distilled",
            **settings,
        )
        after_distilled = scores("distilled", place(final, "sft distilled"))

        everything = {
            **found,
            "base": base,
            "sft": after_sft,
            "rlvr": after_rlvr,
            "distilled": after_distilled,
            "sft_curves": tuned.outputs["checkpoint"],
            "rlvr_curves": rewarded.outputs["checkpoint"],
            "distilled_curves": final.outputs["checkpoint"],
            "distill": own.outputs["rows"],
            "distill_draws": solved,
            "run_name": run_name,
            **settings,
        }
        # An output of one branch cannot be an optional input outside it: each has its own report.
        with dsl.If(control == True, "with-control"):  # noqa: E712
            lucky = rlvr(
                data=queries, start=tuned.outputs["checkpoint"], control="random_reward", **settings
            )
            place(lucky, "rlvr control")
            place(report(control=scores("control", lucky), **everything), "report")
        with dsl.Else("without-control"):
            place(report(**everything), "report")
        compared = {
            "champion": base,
            "candidate": after_distilled,
            "checkpoint": final.outputs["checkpoint"],
        }
        decided = promote(
            queries=queries, audit=clean_view, run_name=run_name, **compared, **settings
        )
        place(decided, "promote")
