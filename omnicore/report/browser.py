"""Build the data of the query browser: one JSON block in the page, with every medium once."""

from __future__ import annotations

import base64
import mimetypes
from collections import Counter
from typing import Any

from omnicore.errors import DataError
from omnicore.media.read import locate_media, verify_media
from omnicore.report.evidence import STAGES, Evidence
from omnicore.report.words import NAMES
from omnicore.schema import Query, Response, Verdict

MEDIA_BYTES = 10_000_000  # of data URLs; with text and plots the page stays below 12 MB


def embedded_media(evidence: Evidence, limit: int = MEDIA_BYTES) -> tuple[dict[str, str], int]:
    """Return data URLs of the media by sha256, and how many distinct media were left out.

    A medium is left out once `limit` bytes are used, and where its file is missing or changed.
    """
    urls: dict[str, str] = {}
    seen: set[str] = set()
    used = 0
    for query in evidence.queries:
        for medium in query.media:
            if medium.sha256 in seen:
                continue
            seen.add(medium.sha256)
            try:
                size = locate_media(medium, evidence.folder).stat().st_size
                if used + size * 4 / 3 > limit:
                    continue
                path = verify_media(medium, evidence.folder)
            except DataError:
                continue
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            content = base64.b64encode(path.read_bytes()).decode()
            urls[medium.sha256] = f"data:{kind};base64,{content}"
            used += len(urls[medium.sha256])
    return urls, len(seen) - len(urls)


def _reply_record(response: Response | None) -> list[str | bool | None]:
    """Return outcome, answer and reply.

    A request that failed has the answer False; null is a reply that names none of the options.
    """
    if response is None:
        return ["failed", False, ""]
    return [response.outcome.value, response.answer, response.reply]


def browser_data(evidence: Evidence) -> dict[str, Any]:
    """Return the data of the page's script: media, names and one record per query, in order."""
    verdicts = {(v.benchmark, v.id): v for v in evidence.manifest.verdicts}
    media, left_out = embedded_media(evidence)
    arms = [arm for arm in (*STAGES, "control") if arm in evidence.responses]
    records = []
    for query in evidence.queries:
        record = _query_record(query, verdicts[query.key], evidence)
        replies = [_reply_record(evidence.responses[arm].get(query.key)) for arm in arms]
        records.append(record | {"said": replies})
    return {
        "media": media,
        "left_out": left_out,
        "stages": [NAMES[arm] for arm in arms],
        "queries": records,
    }


def _query_record(query: Query, verdict: Verdict, evidence: Evidence) -> dict[str, Any]:
    hits = evidence.hits.get(query.key, Counter())
    planted = None
    if evidence.planted is not None:
        planted = evidence.planted[query.benchmark][query.id]
    return {
        "benchmark": query.benchmark,
        "id": query.id,
        "type": query.type.replace("_", " "),
        "question": query.question,
        "options": query.options,
        "answer": query.answer,
        "media": [{"kind": m.kind, "sha": m.sha256, "uri": m.uri} for m in query.media],
        "verdict": verdict.label.value,
        "hits": verdict.hits,
        "draws": verdict.draws,
        "null": verdict.null,
        "binomial": verdict.binomial,
        "drawn": [hits.get(option, 0) for option in query.options],
        "unparsed": hits.get(None, 0),
        "planted": planted,
    }
