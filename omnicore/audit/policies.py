"""Verdicts from draws by three rules, and the manifest that they make.

`repeated` removes a query at k or more right draws of n, k from `rules`. `single_pass` is the
paper's rule (arXiv 2605.12034): draw 0 right, query removed. `circular` is CircularEval (MMBench,
arXiv 2307.06281): right under every rotation of the options. A query is undecided, kept and
flagged, where a draw that its rule looks at has failed, and where draws that were cut or cannot be
read could change its verdict, were they all right or all wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from omnicore.audit.draws import (
    CUT,
    FAILED,
    NONE,
    UNREAD,
    Audited,
    Bools,
    Floats,
    Hits,
    Ints,
    circles,
    count,
)
from omnicore.audit.files import Drawn
from omnicore.audit.leakage import unread
from omnicore.audit.rules import Rule, rules
from omnicore.config import CleanConfig, digest
from omnicore.errors import DataError
from omnicore.schema import Label, Manifest, Policy, Verdict, View

VERDICTS = TypeAdapter(list[Verdict])


def verdicts(
    audited: Audited, drawn: Drawn, hits: Hits, found: Sequence[Rule], config: CleanConfig
) -> dict[Policy, list[Verdict]]:
    """By every policy that the draws allow.

    Raises DataError where the one that `config` names is not among them, and where more of a
    benchmark's draws are cut or unread than `config` allows.
    """
    _enough_read(drawn.file, unread(audited, hits), config)
    answers = drawn.answers[View.visual_only]
    made: dict[Policy, list[Verdict]] = {
        "single_pass": single_pass(audited, answers, found),
        "repeated": repeated(audited, hits, found, config),
    }
    if by_circles := circular(audited, answers, circles(audited, drawn.orders), config):
        made["circular"] = by_circles
    if config.policy not in made:
        raise DataError(
            f"{drawn.file}: policy {config.policy} needs draws that show a query's options in every"
            " rotation, and none has them: probe again with draws.visual_only at least"
            f" {min(audited.options[audited.filtered], default=2)}"
        )
    return made


def _enough_read(file: Path, lost: Mapping[str, float], config: CleanConfig) -> None:
    """Warn of benchmarks whose draws are lost above `warn_unread`; raise DataError above
    `max_unread`."""
    worst = sorted(
        ((share, name) for name, share in lost.items() if share > config.warn_unread), reverse=True
    )
    if not worst:
        return
    told = ", ".join(f"{name} {share:.1%}" for share, name in worst)
    remedy = (
        "raise profile.max_new_tokens if they were cut, have the probe answer in the form that"
        " profile.instruction asks for, and probe again"
    )
    if worst[0][0] > config.max_unread:
        raise DataError(
            f"{file}: replies that were cut or cannot be read are no evidence, and they are more"
            f" than clean.max_unread ({config.max_unread:.1%}) of the draws with the sound withheld"
            f" ({told}): {remedy}"
        )
    print(
        f"replies that were cut or cannot be read are more than {config.warn_unread:.1%} of the"
        f" draws ({told}); queries whose verdict they could change are undecided and kept; to"
        f" decide them, {remedy}",
        file=sys.stderr,
        flush=True,
    )


def repeated(
    audited: Audited, hits: Hits, found: Sequence[Rule], config: CleanConfig
) -> list[Verdict]:
    """Verdicts by k of n; a query short of k that guessing rarely reaches is undecided, too."""
    null, binomial = np.ones(len(hits.right)), np.ones(len(hits.right))
    solvable, undecided = np.zeros(len(hits.right), dtype=np.bool_), ~hits.complete
    for rule in found:
        rows = rule.rows & hits.complete
        got = hits.right[rows]
        most = got + hits.unread[rows]  # were they all right
        null[rows], binomial[rows] = rule.null[got], rule.binomial[got]
        removed = np.arange(rule.draws + 1) >= (rule.draws + 1 if rule.hits is None else rule.hits)
        solvable[rows] = removed[got]
        undecided[rows] = (removed | rule.rare(config.undecided))[most]
    return _verdicts(audited, solvable, undecided, hits.right, hits.answered, null, binomial)


def single_pass(audited: Audited, answers: Ints, found: Sequence[Rule]) -> list[Verdict]:
    """Verdicts by draw 0 alone.

    Its null is the measured chance that one draw of an unsolvable query is right.
    """
    right, answered = answers[:, 0] == audited.right, ~np.isin(answers[:, 0], (CUT, FAILED, UNREAD))
    null, binomial = np.ones(len(right)), np.ones(len(right))
    for rule in found:
        hit = rule.rows & right
        null[hit] = rule.null[1:].sum() / rule.draws  # the sum of a tail is the mean count
        binomial[hit] = 1 / rule.options
    return _verdicts(
        audited, right, ~answered, right.astype(np.int64), answered.astype(np.int64), null, binomial
    )


def circular(
    audited: Audited, answers: Ints, circles: Ints, config: CleanConfig
) -> list[Verdict] | None:
    """Verdicts by the K draws of a query's first full circle: all right, query removed; no full circle, undecided. None where
    no query that could be removed has one.

    `circles` [N, K] from `draws.circles`. Its null is measured as that of `repeated`, with n = K: unsolvable queries whose wrong
    option is given under every rotation tell of those whose right one is.
    """
    size = len(audited.queries)
    drawn = np.where(
        circles == NONE, FAILED, np.take_along_axis(answers, np.maximum(circles, 0), axis=1)
    )
    hits, draws, unread = (np.zeros(size, dtype=np.int64) for _ in range(3))
    null, binomial = np.ones(size), np.ones(size)
    for options in np.unique(audited.options[audited.options > 0]).tolist():
        whole = (audited.options == options) & (circles[:, options - 1] != NONE)
        if not whole.any():
            continue
        part = audited.part(whole)
        found = count(part, drawn[whole, :options])
        hits[whole], draws[whole], unread[whole] = found.right, found.answered, found.unread
        part_null, part_binomial = np.ones(len(found.right)), np.ones(len(found.right))
        for rule in rules(part, found, config):
            got = found.right[rule.rows]
            part_null[rule.rows], part_binomial[rule.rows] = rule.null[got], rule.binomial[got]
        null[whole], binomial[whole] = part_null, part_binomial
    circled = draws + unread > 0
    if not (audited.filtered & circled).any():
        return None
    undecided = ~circled | (hits + unread >= audited.options)
    return _verdicts(
        audited, circled & (hits == audited.options), undecided, hits, draws, null, binomial
    )


def _verdicts(
    audited: Audited,
    solvable: Bools,
    undecided: Bools,
    hits: Ints,
    draws: Ints,
    null: Floats,
    binomial: Floats,
) -> list[Verdict]:
    """One verdict a query from arrays [N].

    Six digits: the content hash must not hang on the last bit of a machine's
    arithmetic.
    """
    kept = np.where(undecided, Label.undecided, Label.not_solvable)
    labels = np.where(
        audited.filtered, np.where(solvable & (draws > 0), Label.solvable, kept), Label.kept_whole
    )
    columns = (
        labels.tolist(),
        hits.tolist(),
        draws.tolist(),
        null.round(6).tolist(),
        binomial.round(6).tolist(),
    )
    return [
        Verdict(
            benchmark=q.benchmark,
            id=q.id,
            label=Label(label),
            hits=got,
            draws=n,
            null=measured,
            binomial=book,
        )
        for q, label, got, n, measured, book in zip(audited.queries, *columns, strict=True)
    ]


def build_manifest(
    policy: Policy, probe: str, profile_hash: str, verdicts: Sequence[Verdict], seed: int = 0
) -> Manifest:
    """Verdicts in the order of their keys, with the hash of policy and verdicts."""
    ordered = tuple(sorted(verdicts, key=lambda v: (v.benchmark, v.id)))
    content = digest(
        {"policy": policy, "verdicts": VERDICTS.dump_python(list(ordered), mode="json")}
    )
    return Manifest(
        policy=policy,
        probe=probe,
        profile_hash=profile_hash,
        seed=seed,
        verdicts=ordered,
        content_hash=content,
    )
