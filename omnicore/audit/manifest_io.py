"""Show the counts of a manifest, and compare two manifests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from omnicore.schema import Label, Manifest, QueryKey, Verdict

LABELS = {
    Label.solvable: "removed",
    Label.not_solvable: "not solvable",
    Label.undecided: "undecided",
    Label.kept_whole: "whole",
}
EXAMPLES = 5  # queries shown for each kind of change

Verdicts = Mapping[QueryKey, Verdict]


def format_manifest(manifest: Manifest) -> str:
    """Return the origin of a manifest and a table of counts by benchmark, as text."""
    facts = {
        "policy": manifest.policy,
        "probe": manifest.probe,
        "profile": manifest.profile_hash or "none: imported",
        "seed": str(manifest.seed),
        "hash": manifest.content_hash,
    }
    lines = [f"{name:<8} {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *_format_table(_count_table(manifest))])


def _count_table(manifest: Manifest) -> list[list[str]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for v in manifest.verdicts:
        for name in (v.benchmark, "all"):
            counts[name][LABELS[v.label]] += 1
            counts[name]["kept"] += v.kept
    columns = ["kept", *LABELS.values()]
    table = [["benchmark", *columns]]
    for name in (*sorted(counts.keys() - {"all"}), "all"):
        table.append([name, *(str(counts[name][column]) for column in columns)])
    return table


def _format_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])


def diff_manifests(a: Manifest, b: Manifest) -> str:
    """Return what differs between two manifests, as text.

    The text names differing settings, then, by benchmark, the queries whose verdict differs, with
    the first examples and the evidence of both, and last the queries that only one judges.
    """
    first, second = _by_key(a), _by_key(b)
    moves: dict[str, Callable[[Verdict, Verdict], bool]] = {
        "kept -> removed": lambda v, w: v.kept and not w.kept,
        "removed -> kept": lambda v, w: w.kept and not v.kept,
        "kept, other label": lambda v, w: v.kept and w.kept and v.label is not w.label,
    }
    lines = _differing_settings(a, b)
    for name, moved in moves.items():
        lines += _moved_lines(name, moved, first, second)
    lines += _one_sided_lines("first", first.keys() - second.keys())
    lines += _one_sided_lines("second", second.keys() - first.keys())
    return "\n".join(lines)


def _by_key(manifest: Manifest) -> dict[QueryKey, Verdict]:
    return {(v.benchmark, v.id): v for v in manifest.verdicts}


def _differing_settings(a: Manifest, b: Manifest) -> list[str]:
    lines = []
    for field in ("policy", "probe", "profile_hash", "seed"):
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            lines.append(f"  {field}: {ours!r} -> {theirs!r}")
    return ["differs by", *lines] if lines else ["same policy, probe, profile and seed"]


def _moved_lines(
    name: str, moved: Callable[[Verdict, Verdict], bool], first: Verdicts, second: Verdicts
) -> list[str]:
    both = sorted(first.keys() & second.keys())
    keys = [key for key in both if moved(first[key], second[key])]
    lines = ["", f"{name}: {len(keys)} of {len(both)} queries that both judge"]
    for benchmark, count in _count_benchmarks(keys):
        lines.append(f"  {benchmark}: {count}")
        examples = [key for key in keys if key[0] == benchmark][:EXAMPLES]
        for key in examples:
            lines.append(f"    {key[1]}: {_evidence(first[key])} -> {_evidence(second[key])}")
    return lines


def _one_sided_lines(name: str, keys: set[QueryKey]) -> list[str]:
    if not keys:
        return []
    counts = ", ".join(f"{benchmark} {count}" for benchmark, count in _count_benchmarks(keys))
    return ["", f"only the {name} judges {len(keys)}: {counts} ({'/'.join(min(keys))} first)"]


def _count_benchmarks(keys: Iterable[QueryKey]) -> list[tuple[str, int]]:
    return sorted(Counter(benchmark for benchmark, _ in keys).items())


def _evidence(v: Verdict) -> str:
    draws = f" ({v.hits} of {v.draws}, null {v.null:.4f})" if v.draws else ""
    return f"{LABELS[v.label]}{draws}"
