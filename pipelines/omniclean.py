"""OmniClean: how much of a benchmark can be solved without its sound, and the clean view that remains."""

from typing import NamedTuple

from kfp import dsl

from components.clean.component import clean
from components.prepare.component import prepare
from components.probe.component import probe
from pipelines import place


class Audit(NamedTuple):
    queries: dsl.Dataset
    draws: dsl.Dataset
    second_draws: dsl.Dataset
    manifest: dsl.Artifact


@dsl.pipeline(name="omniclean", description="Audit a benchmark for visual shortcuts")
def omniclean(recipe: str = "tiny", overrides: str = "", model: str = "") -> Audit:
    """Outputs the prepared queries, the probe's draws and the manifest of the clean view.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        overrides: YAML list of dotted.field=value, or mapping of dotted fields to values.
        model: The model under study: a directory or embedded:NAME; empty: the recipe's.
    """
    settings = {"recipe": recipe, "overrides": overrides, "model": model}
    queries = place(prepare(**settings), "prepare").outputs["output"]
    draws = place(probe(queries=queries, **settings), "probe", gpu=True).outputs["output"]
    second = probe(queries=queries, section="second_probe", **settings)
    second_draws = place(second, "second probe", gpu=True).outputs["output"]
    manifest = place(clean(queries=queries, draws=draws, second_draws=second_draws, **settings), "clean").outputs["output"]
    return Audit(queries, draws, second_draws, manifest)
