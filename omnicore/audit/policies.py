"""Make verdicts from draws by three policies, and the manifest of one policy.

`repeated` removes a query at k or more right draws of n, with k from `rules`. `single_pass` is the
paper's rule (arXiv 2605.12034): remove a query when draw 0 is right. `circular` is CircularEval
(MMBench, arXiv 2307.06281): remove it when the answer is right under every rotation of its options.
A query is undecided, which means kept and flagged, where a draw that its policy uses has failed,
and where truncated or unreadable draws could change its verdict, had they all been right or all
wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from omnicore.audit.draws import (
    FAILED,
    NONE,
    TRUNCATED,
    UNREADABLE,
    Bools,
    Floats,
    HitCounts,
    Ints,
    QueryArrays,
    count_hits,
    full_rotations,
)
from omnicore.audit.files import ProbeDraws
from omnicore.audit.leakage import unreadable_shares
from omnicore.audit.rules import ThresholdRule, fit_rules
from omnicore.config import CleanConfig, digest
from omnicore.errors import DataError
from omnicore.schema import Label, Manifest, Policy, Verdict, View

logger = logging.getLogger(__name__)

VERDICTS = TypeAdapter(list[Verdict])


def verdicts_by_policy(
    arrays: QueryArrays,
    draws: ProbeDraws,
    hits: HitCounts,
    rules: Sequence[ThresholdRule],
    config: CleanConfig,
) -> dict[Policy, list[Verdict]]:
    """Make verdicts by every policy that the draws allow.

    Raises:
        DataError: The policy of `config` is not among them, or more of a benchmark's draws are
            truncated or unreadable than `config` allows.
    """
    _check_readable(draws.file, unreadable_shares(arrays, hits), config)
    answers = draws.answers[View.visual_only]
    verdicts: dict[Policy, list[Verdict]] = {
        "single_pass": single_pass_verdicts(arrays, answers, rules),
        "repeated": repeated_verdicts(arrays, hits, rules, config),
    }
    rotations = full_rotations(arrays, draws.orders)
    circular = circular_verdicts(arrays, answers, rotations, config)
    if circular:
        verdicts["circular"] = circular
    if config.policy not in verdicts:
        needed = min(arrays.options[arrays.filtered], default=2)
        raise DataError(
            f"{draws.file}: policy {config.policy} needs draws that show a query's options in every"
            " rotation, and no query has them; probe again with draws.visual_only at least"
            f" {needed}",
            code="clean-policy-unavailable",
            path=draws.file,
            field="clean.policy",
        )
    return verdicts


def _check_readable(file: Path, shares: Mapping[str, float], config: CleanConfig) -> None:
    """Warn of shares of unreadable draws above `warn_unread`; refuse those above `max_unread`.

    Args:
        file: The file of draws.
        shares: Share of unreadable draws by benchmark.
        config: The two bounds.

    Raises:
        DataError: A share is above `max_unread`.
    """
    worst = [(share, name) for name, share in shares.items() if share > config.warn_unread]
    worst.sort(reverse=True)
    if not worst:
        return
    by_benchmark = ", ".join(f"{name} {share:.1%}" for share, name in worst)
    remedy = (
        "raise profile.max_new_tokens if they were truncated, have the probe answer in the form"
        " that profile.instruction asks for, and probe again"
    )
    if worst[0][0] > config.max_unread:
        raise DataError(
            f"{file}: truncated and unreadable replies are no evidence, and they are more than"
            f" clean.max_unread ({config.max_unread:.1%}) of the draws with the sound withheld"
            f" ({by_benchmark}): {remedy}",
            code="clean-too-many-unreadable",
            path=file,
            field="clean.max_unread",
        )
    logger.warning(
        "truncated and unreadable replies are more than %s of the draws (%s); queries whose verdict"
        " they could change are undecided and kept; to decide them, %s",
        f"{config.warn_unread:.1%}",
        by_benchmark,
        remedy,
    )


def repeated_verdicts(
    arrays: QueryArrays, hits: HitCounts, rules: Sequence[ThresholdRule], config: CleanConfig
) -> list[Verdict]:
    """Make verdicts by k right draws of n.

    A query with fewer than k right draws, but more than guessing often gives, is undecided.
    """
    size = len(hits.right)
    null, binomial = np.ones(size), np.ones(size)
    solvable, undecided = np.zeros(size, dtype=np.bool_), ~hits.complete
    for rule in rules:
        rows = rule.rows & hits.complete
        counted = hits.right[rows]
        possible = counted + hits.unreadable[rows]  # had all unreadable draws been right
        null[rows], binomial[rows] = rule.null[counted], rule.binomial[counted]
        threshold = rule.draws + 1 if rule.hits is None else rule.hits
        removed = np.arange(rule.draws + 1) >= threshold
        solvable[rows] = removed[counted]
        undecided[rows] = (removed | rule.too_rare(config.undecided))[possible]
    return _verdicts(arrays, solvable, undecided, hits.right, hits.answered, null, binomial)


def single_pass_verdicts(
    arrays: QueryArrays, answers: Ints, rules: Sequence[ThresholdRule]
) -> list[Verdict]:
    """Make verdicts by draw 0 only.

    Their null is the measured chance that one draw of an unsolvable query is right.
    """
    first = answers[:, 0]
    right = first == arrays.right
    answered = ~np.isin(first, (TRUNCATED, FAILED, UNREADABLE))
    null, binomial = np.ones(len(right)), np.ones(len(right))
    for rule in rules:
        hit = rule.rows & right
        null[hit] = rule.null[1:].sum() / rule.draws  # the sum of a tail is the mean count
        binomial[hit] = 1 / rule.options
    hits, draws = right.astype(np.int64), answered.astype(np.int64)
    return _verdicts(arrays, right, ~answered, hits, draws, null, binomial)


def circular_verdicts(
    arrays: QueryArrays, answers: Ints, rotations: Ints, config: CleanConfig
) -> list[Verdict] | None:
    """Make verdicts by the K draws of a query's first full set of rotations.

    A query is removed where all K are right, and undecided without a full set. The null is measured
    as for `repeated_verdicts`, with n = K: unsolvable queries whose wrong option is given under
    every rotation show how often the right one is.

    Args:
        arrays: The N queries.
        answers: Answers [N, n] under visual_only.
        rotations: Indices [N, K] of the draws, from `full_rotations`.
        config: Bounds on false removals.

    Returns:
        None where no query that could be removed has a full set.
    """
    size = len(arrays.queries)
    taken = np.take_along_axis(answers, np.maximum(rotations, 0), axis=1)
    taken = np.where(rotations == NONE, FAILED, taken)
    hits, draws, unreadable = (np.zeros(size, dtype=np.int64) for _ in range(3))
    null, binomial = np.ones(size), np.ones(size)
    for options in np.unique(arrays.options[arrays.options > 0]).tolist():
        full = (arrays.options == options) & (rotations[:, options - 1] != NONE)
        if not full.any():
            continue
        group = arrays.select(full)
        counts = count_hits(group, taken[full, :options])
        hits[full], draws[full], unreadable[full] = counts.right, counts.answered, counts.unreadable
        group_null, group_binomial = np.ones(len(counts.right)), np.ones(len(counts.right))
        for rule in fit_rules(group, counts, config):
            counted = counts.right[rule.rows]
            group_null[rule.rows] = rule.null[counted]
            group_binomial[rule.rows] = rule.binomial[counted]
        null[full], binomial[full] = group_null, group_binomial
    has_full = draws + unreadable > 0
    if not (arrays.filtered & has_full).any():
        return None
    undecided = ~has_full | (hits + unreadable >= arrays.options)
    solvable = has_full & (hits == arrays.options)
    return _verdicts(arrays, solvable, undecided, hits, draws, null, binomial)


def _verdicts(
    arrays: QueryArrays,
    solvable: Bools,
    undecided: Bools,
    hits: Ints,
    draws: Ints,
    null: Floats,
    binomial: Floats,
) -> list[Verdict]:
    """Make one verdict per query from arrays [N].

    Chances are rounded to six digits: the content hash must not depend on the last bit of a
    machine's arithmetic.
    """
    kept = np.where(undecided, Label.undecided, Label.not_solvable)
    judged = np.where(solvable & (draws > 0), Label.solvable, kept)
    labels = np.where(arrays.filtered, judged, Label.kept_whole).tolist()
    nulls, binomials = null.round(6).tolist(), binomial.round(6).tolist()
    counts = zip(hits.tolist(), draws.tolist(), strict=True)
    verdicts = []
    for row, (right, drawn) in enumerate(counts):
        query = arrays.queries[row]
        verdicts.append(
            Verdict(
                benchmark=query.benchmark,
                id=query.id,
                label=Label(labels[row]),
                hits=right,
                draws=drawn,
                null=nulls[row],
                binomial=binomials[row],
            )
        )
    return verdicts


def build_manifest(
    policy: Policy, probe: str, profile_hash: str, verdicts: Sequence[Verdict], seed: int = 0
) -> Manifest:
    """Build the manifest of one policy.

    Args:
        policy: The policy that made the verdicts.
        probe: Name of the probe model.
        profile_hash: Hash of the profile under which it was probed.
        verdicts: One verdict per query, in any order.
        seed: Seed of the probe.

    Returns:
        The verdicts in the order of their keys, with the hash of policy and verdicts.
    """
    ordered = tuple(sorted(verdicts, key=lambda v: (v.benchmark, v.id)))
    content = {"policy": policy, "verdicts": VERDICTS.dump_python(list(ordered), mode="json")}
    return Manifest(
        policy=policy,
        probe=probe,
        profile_hash=profile_hash,
        seed=seed,
        verdicts=ordered,
        content_hash=digest(content),
    )
