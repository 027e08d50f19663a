"""A tiny benchmark written by hand, and evaluations of it by an engine that says what a table tells
it to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from omnicore.audit import build_manifest
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.data.prompts import profile_hash
from omnicore.engines import task
from omnicore.engines.base import Batch, FinishedBatches, Reply, Sampling
from omnicore.lineage.step_record import write_step
from omnicore.runtime.run import run_step
from omnicore.schema import Label, Media, Query, Verdict
from omnicore.storage.files import write_json, write_jsonl

PICTURE = Media(kind="image", uri="media/a.png", sha256="a" * 64)
OPTIONS = ("cat", "dog", "fox", "owl")


def query(
    benchmark: str,
    number: int,
    type_: str,
    answer: str,
    *,
    options: tuple[str, ...] = OPTIONS,
    **fields: object,
) -> Query:
    given = {"media": (PICTURE,), "cluster": f"{benchmark}-{number // 2}", **fields}
    name = f"{number:02d}"
    return Query.model_validate(
        {
            "benchmark": benchmark,
            "id": name,
            "type": type_,
            "question": f"{benchmark} {name}?",
            "options": options,
            "answer": answer,
        }
        | given
    )


# daily_omni has a publisher's rule; elm, made up, has none, and has answers of every kind.
QUERIES = [
    *(query("daily_omni", i, "Event" if i < 4 else "Inference", "dog") for i in range(8)),
    query("elm", 0, "pick", "cat"),
    query("elm", 1, "both", "cat", also=("owl",), answer_kind="set"),
    query("elm", 2, "count", "12", options=(), answer_kind="number"),
    query("elm", 3, "open", "violin", options=(), answer_kind="text"),
    query("elm", 4, "heard", "yes", options=("yes", "no"), answer_kind="yes_no"),
]
REMOVED = {("daily_omni", "00"), ("daily_omni", "01"), ("elm", "00")}
FLAGS = [
    "profile.style=letter",
    "profile.max_new_tokens=20",
    "engine.kind=http",
    "engine.url=http://127.0.0.1:9/v1",
]
RECIPE = load_recipe(
    "tiny", [*FLAGS, "evaluate.ablations=[visual_only]", "engine.max_error_rate=0.5", "model=stub"]
)


class Stub:
    """Says what a table has for a query ("daily_omni 03"), else `usual`.

    Another engine takes its place in evaluate alone.
    """

    name = "stub"

    def __init__(self, said: Mapping[str, str | Reply], usual: str = "B") -> None:
        self._said, self._usual = said, usual

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        for index, batch in enumerate(batches):
            yield [(index, [self._reply(str(request.parts[-1])) for request in batch.requests])]

    def _reply(self, text: str) -> Reply:
        said = self._said.get(text.partition("?")[0], self._usual)
        return said if isinstance(said, Reply) else Reply(said)


def inputs(
    root: Path, queries: Sequence[Query] = QUERIES, removed: set[tuple[str, str]] = REMOVED
) -> dict[str, Path]:
    """Finished outputs of prepare and clean under `root`; no controls, as native benchmarks have
    none."""
    hashed = profile_hash(RECIPE.profile)
    labels = {q.key: Label.solvable if q.key in removed else Label.not_solvable for q in queries}
    verdicts = [
        Verdict(benchmark=b, id=i, label=v, hits=0, draws=8, null=1, binomial=1)
        for (b, i), v in labels.items()
    ]
    files = {
        "prepare": ("queries", queries),
        "clean": ("manifest", build_manifest("repeated", "p", hashed, verdicts)),
    }
    found = {}
    for step, (role, content) in files.items():
        folder = found[role] = root / step
        folder.mkdir(parents=True)
        if isinstance(content, Sequence):
            write_jsonl(folder / "queries.jsonl", content)
        else:
            write_json(folder / "manifest.json", content)
        write_step(
            folder, {"step": step, "section": step, "key": step, "seconds": 0, "summary": {}}
        )
    return found


def evaluated(
    root: Path,
    said: Mapping[str, str | Reply],
    given: Mapping[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    usual: str = "B",
    recipe: Recipe = RECIPE,
) -> Path:
    """The output of evaluate, through the door."""
    monkeypatch.setattr(task, "open_engine", lambda *args, **how: Stub(said, usual))
    monkeypatch.setattr(task.canary, "verify_engine", lambda *args: {})  # the stub looks at nothing
    run_step("evaluate", recipe, given, root)
    return root
