"""The results of a run as pandas data frames, for a notebook.

    run = omnicore.load_run("runs/demo")
    run.scores().query("view == 'clean' and level == 'macro'")

pandas is optional: `pip install pandas`. Every frame has documented columns and one row a thing;
the column `step` is the name that `omnicore runs` shows, `stage` the trained stage of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnicore.config import flat_fields
from omnicore.errors import ConfigError, DataError
from omnicore.lineage.runs import StepOutput, find_steps
from omnicore.schema import Draw, Manifest, Query, Response
from omnicore.storage.files import read_json, read_jsonl

if TYPE_CHECKING:
    import pandas

VIEWS = ("raw", "clean")


class Run:
    """The finished steps below a directory; every method reads the files anew."""

    def __init__(self, path: Path | str) -> None:
        """Open a run, or a single output of a step.

        Raises:
            DataError: The directory is missing or holds no finished step.
        """
        self.path = Path(path)
        self.steps: dict[str, StepOutput] = {
            step.name: step for step in find_steps(self.path) if step.state == "finished"
        }
        if not self.steps:
            raise DataError(
                f"{path} holds no finished step; give a run, as in runs/demo, or one step's output",
                code="runs-no-finished-step",
                path=path,
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {', '.join(self.steps)})"

    def scores(self) -> pandas.DataFrame:
        """Return the scores of all evaluations, one row a figure.

        Columns:
            step, stage: The evaluation, and the stage of its model.
            view: `raw` or `clean`.
            level: `macro`, `micro`, `chance_corrected`, `benchmark`, `type` or `ablation`.
            name: The benchmark, type or ablation; empty for an overall figure.
            value, low, high: Accuracy in 0..1 with its clustered 95 % interval.
            n: Queries behind it.
        """
        rows = []
        for step in self._of("evaluate"):
            scores = read_json(step.path / "scores.json")
            named = {"step": step.name, "stage": step.stage}
            rows += [{**named, **figure} for figure in _figures(scores)]
        return _frame(rows, "step stage view level name value low high n")

    def items(self) -> pandas.DataFrame:
        """Return the queries with the reply of every evaluation, one row a reply.

        Columns:
            step, stage: The evaluation, and the stage of its model.
            benchmark, id, type, cluster: The query, its type, and the medium it shares with others.
            kept: Whether the clean view has the query; None for controls.
            view: The modalities shown: `omni`, `visual_only`, ...
            reply, answer, outcome, truncated, official: As in `responses.jsonl`.
            correct: Whether the outcome is `correct`.
        """
        rows = []
        for step in self._of("evaluate"):
            asked = {
                (item["benchmark"], item["id"]): item
                for item in read_jsonl(step.path / "items.jsonl", dict)
            }
            for response in read_jsonl(step.path / "responses.jsonl", Response):
                item = asked.get((response.benchmark, response.id), {})
                row = {"step": step.name, "stage": step.stage, **response.model_dump(mode="json")}
                row |= {name: item.get(name) for name in ("type", "cluster", "kept")}
                row["correct"] = response.outcome == "correct"
                rows.append(row)
        columns = "step stage benchmark id type cluster kept view reply answer outcome correct"
        return _frame(rows, f"{columns} truncated official")

    def queries(self) -> pandas.DataFrame:
        """Return the prepared queries, one row a query; columns as in `queries.jsonl`."""
        rows = []
        for step in self._of("prepare"):
            if (step.path / "queries.jsonl").is_file():
                queries = read_jsonl(step.path / "queries.jsonl", Query)
                rows += [query.model_dump(mode="json") for query in queries]
        return _frame(rows, " ".join(Query.model_fields))

    def verdicts(self) -> pandas.DataFrame:
        """Return the audit's verdicts, one row a query.

        Columns:
            step, policy: The clean step and the policy of its clean view.
            benchmark, id, label, hits, draws, null, binomial: As in `manifest.json`.
            kept: Whether the clean view has the query.
        """
        rows = []
        for step in self._of("clean"):
            manifest = Manifest.model_validate(read_json(step.path / "manifest.json"))
            for verdict in manifest.verdicts:
                row = {"step": step.name, "policy": manifest.policy, "kept": verdict.kept}
                rows.append({**row, **verdict.model_dump(mode="json")})
        return _frame(rows, "step policy benchmark id label kept hits draws null binomial")

    def draws(self) -> pandas.DataFrame:
        """Return the replies of all probes, one row a draw.

        Columns:
            step: `probe`, `second_probe` or `distill_probe`.
            benchmark, id, view, draw, permutation, reply, answer, ...: As in `draws.jsonl`.
            correct: Whether the outcome is `correct`.
        """
        rows = []
        for step in self._of("probe"):
            for draw in read_jsonl(step.path / "draws.jsonl", Draw):
                row = {"step": step.name, **draw.model_dump(mode="json")}
                row["correct"] = draw.outcome == "correct"
                rows.append(row)
        return _frame(rows, f"step {' '.join(Draw.model_fields)} correct")

    def curves(self) -> pandas.DataFrame:
        """Return the training curves, one row a logged step.

        Columns:
            training: The training step's name, as in `rlvr`.
            step, loss, ...: As in `curves.jsonl`; figures by type and modality become
                `by_modality.omni.reward` and the like.
        """
        rows = []
        for step in self.steps.values():
            if (step.path / "curves.jsonl").is_file():
                for record in read_jsonl(step.path / "curves.jsonl", dict):
                    rows.append({"training": step.name, **dict(flat_fields(record))})
        return _frame(rows, "training step loss")

    def _of(self, step: str) -> list[StepOutput]:
        return [output for output in self.steps.values() if output.step == step]


def load_run(path: Path | str) -> Run:
    """Open a run directory, as in `runs/demo`, or one step's output; see `Run`."""
    return Run(path)


def _figures(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the estimates of a `scores.json` with view, level and name."""
    for view in VIEWS:
        for level, estimate in (scores[view] or {}).items():
            yield {"view": view, "level": level, "name": "", **estimate}
        for benchmark, block in scores["by_benchmark"].items():
            if block.get(view):
                yield {"view": view, "level": "benchmark", "name": benchmark, **block[view]}
    for kind, estimate in scores["by_type"].items():
        yield {"view": "raw", "level": "type", "name": kind, **estimate}
    for hidden, estimate in scores["ablation"].items():
        yield {"view": "clean", "level": "ablation", "name": hidden, **estimate}


def _frame(rows: list[dict[str, Any]], columns: str) -> pandas.DataFrame:
    """Build a frame with the named columns first; an empty one has them, too."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ConfigError(
            "data frames need pandas: pip install pandas", code="pandas-missing"
        ) from error
    frame = pandas.DataFrame(rows, columns=None if rows else columns.split())
    first = [name for name in columns.split() if name in frame.columns]
    return frame[first + [name for name in frame.columns if name not in first]]
