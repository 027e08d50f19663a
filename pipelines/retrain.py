"""Retrain: what a commit calls.

A candidate is trained by a pinned recipe and replaces the champion only if it is surely better.
"""

from kfp import dsl

from components.evaluate.component import evaluate
from components.promote.component import promote
from components.rlvr.component import rlvr
from components.sft.component import sft
from pipelines import cleaning_up, place
from pipelines.omniclean import audit


@dsl.pipeline(
    name="retrain",
    description="Audit, train a candidate, and decide whether it replaces the champion",
)
def retrain(
    recipe: str,
    champion: str,
    overrides: str = "",
    model: str = "",
    benchmarks: dict = {},  # noqa: B006
    run_name: str = "",
) -> None:
    """Both models answer the same queries of the same clean view in this run; the decision is an artefact of its own.

    Args:
        recipe: Name of the recipe that comes with the image, or path of a YAML file in it: pinned with the image's digest.
        champion: Where the model to beat lies: the output of an sft or rlvr step, as in s3://models/champion.
        overrides: Single values to change, as a YAML list: [rlvr.steps=400]. Empty for none.
        model: The model that training starts from: a directory or embedded:NAME. Empty for the recipe's own.
        benchmarks: Public ones to judge by, each with its folder or hub@COMMIT: {"daily_omni": "hub@1a2b3c"}. {}: the recipe's.
        run_name: Name that the decision carries in its metadata, as in retrain-1a2b3c4d5e6f.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model, "benchmarks": benchmarks}
    with cleaning_up():
        found = audit(**settings).outputs
        judged = {"queries": found["queries"], "audit": found["audit"], **settings}
        held = dsl.importer(artifact_uri=champion, artifact_class=dsl.Model).set_display_name(
            "champion"
        )
        before = place(
            evaluate(checkpoint=held.outputs["artifact"], **judged), "evaluate champion"
        ).outputs["scores"]
        tuned = place(sft(data=found["queries"], **settings), "sft").outputs["checkpoint"]
        rewarded = place(rlvr(data=found["queries"], start=tuned, **settings), "rlvr").outputs[
            "checkpoint"
        ]
        after = place(evaluate(checkpoint=rewarded, **judged), "evaluate candidate").outputs[
            "scores"
        ]
        place(
            promote(
                champion=before, candidate=after, checkpoint=rewarded, run_name=run_name, **judged
            ),
            "promote",
        )
