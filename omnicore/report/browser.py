"""The query browser's data: one JSON block in the page, with every distinct medium once, keyed by
sha256."""

from __future__ import annotations

import base64
import mimetypes
from collections import Counter
from typing import Any

from omnicore.errors import DataError
from omnicore.media.read import locate_media, verify_media
from omnicore.report.evidence import STAGES, Evidence
from omnicore.report.words import NAMES
from omnicore.schema import Response

MEDIA_BYTES = 10_000_000  # of data URLs; with text and plots the page stays below 12 MB


def embedded_media(evidence: Evidence, limit: int = MEDIA_BYTES) -> tuple[dict[str, str], int]:
    """Data URLs by sha256, and how many distinct media were left out: `limit` bytes were spent, or
    a file is missing or changed."""
    urls: dict[str, str] = {}
    seen: set[str] = set()
    spent = 0
    for medium in (m for q in evidence.queries for m in q.media):
        if medium.sha256 in seen:
            continue
        seen.add(medium.sha256)
        try:
            if spent + locate_media(medium, evidence.folder).stat().st_size * 4 / 3 > limit:
                continue
            path = verify_media(medium, evidence.folder)
        except DataError:
            continue
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        urls[medium.sha256] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        spent += len(urls[medium.sha256])
    return urls, len(seen) - len(urls)


def _said(response: Response | None) -> list[str | bool | None]:
    """Outcome, answer and reply.

    A request that failed has no answer, which is another thing than null, none of the options.
    """
    return (
        ["failed", False, ""]
        if response is None
        else [response.outcome.value, response.answer, response.reply]
    )


def browser_data(evidence: Evidence) -> dict[str, Any]:
    """What the page's script reads: media, names and one record a query, in the order of
    `queries.jsonl`."""
    verdicts = {(v.benchmark, v.id): v for v in evidence.manifest.verdicts}
    media, left_out = embedded_media(evidence)
    arms = [arm for arm in (*STAGES, "control") if arm in evidence.responses]
    queries = []
    for q in evidence.queries:
        v, hits = verdicts[q.key], evidence.hits.get(q.key, Counter())
        queries.append(
            {
                "benchmark": q.benchmark,
                "id": q.id,
                "type": q.type.replace("_", " "),
                "question": q.question,
                "options": q.options,
                "answer": q.answer,
                "media": [{"kind": m.kind, "sha": m.sha256, "uri": m.uri} for m in q.media],
                "verdict": v.label.value,
                "hits": v.hits,
                "draws": v.draws,
                "null": v.null,
                "binomial": v.binomial,
                "drawn": [hits.get(option, 0) for option in q.options],
                "unparsed": hits.get(None, 0),
                "planted": (
                    None if evidence.planted is None else evidence.planted[q.benchmark][q.id]
                ),
                "said": [_said(evidence.responses[arm].get(q.key)) for arm in arms],
            }
        )
    return {
        "media": media,
        "left_out": left_out,
        "stages": [NAMES[arm] for arm in arms],
        "queries": queries,
    }
