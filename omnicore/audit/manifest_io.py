"""Manifests as files: shown, compared, taken from and given to other tools.

Anybody's list of what a cleaning kept or removed becomes a manifest like our own (policy
`imported`), so the authors' published list and an audit of one's own can stand beside one another.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from omnicore.audit import build_manifest
from omnicore.audit.files import read_queries
from omnicore.config import digest
from omnicore.errors import ConfigError, DataError
from omnicore.lineage.step_record import read_step, verify_step, write_step
from omnicore.schema import Label, Manifest, Verdict
from omnicore.storage.digests import STEP_FILE, sha256_file
from omnicore.storage.files import atomic_writer, read_json, write_json

Listed = Literal["kept", "removed"]
Row = Mapping[str, Any]

LABELS = {
    Label.solvable: "removed",
    Label.not_solvable: "not solvable",
    Label.undecided: "undecided",
    Label.kept_whole: "whole",
}
EXAMPLES = 5  # shown of each kind of change, and of rows that fit no query twice as many


def read(path: Path) -> Manifest:
    """A manifest by its file, or by the output of clean that holds it.

    Raises DataError naming the first wrong field.
    """
    path = path / "manifest.json" if path.is_dir() else path
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise DataError(
            f"{path} is not a manifest: {where}: {first['msg']}; give manifest.json of a clean step"
        ) from error


def show(manifest: Manifest) -> str:
    """Who judged and how, and a table of counts by benchmark."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for v in manifest.verdicts:
        for name in (v.benchmark, "all"):
            counts[name].update([LABELS[v.label], "kept" if v.kept else ""])
    columns = ("kept", *LABELS.values())
    rows = [
        [name, *(str(counts[name][column]) for column in columns)]
        for name in (*sorted(counts.keys() - {"all"}), "all")
    ]
    facts = {
        "policy": manifest.policy,
        "probe": manifest.probe,
        "profile": manifest.profile_hash or "none: imported",
        "seed": str(manifest.seed),
        "hash": manifest.content_hash,
    }
    return "\n".join(
        [
            *(f"{name:<8} {value}" for name, value in facts.items()),
            "",
            *_table([["benchmark", *columns], *rows]),
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join([row[0].ljust(widths[0]), *cells])


def diff(a: Manifest, b: Manifest) -> str:
    """What moved between two manifests, by benchmark with the first examples and the evidence of
    both, and what may be why."""
    ours, theirs = ({(v.benchmark, v.id): v for v in m.verdicts} for m in (a, b))
    fields = ("policy", "probe", "profile_hash", "seed")
    unlike = [
        f"  {f}: {getattr(a, f)!r} -> {getattr(b, f)!r}"
        for f in fields
        if getattr(a, f) != getattr(b, f)
    ]
    lines = ["differs by", *unlike] if unlike else ["same policy, probe, profile and seed"]
    both = sorted(ours.keys() & theirs.keys())
    moves: dict[str, Callable[[Verdict, Verdict], bool]] = {
        "kept -> removed": lambda v, w: v.kept and not w.kept,
        "removed -> kept": lambda v, w: w.kept and not v.kept,
        "kept, other label": lambda v, w: v.kept and w.kept and v.label is not w.label,
    }
    for name, moved in moves.items():
        keys = [key for key in both if moved(ours[key], theirs[key])]
        lines += ["", f"{name}: {len(keys)} of {len(both)} queries that both judge"]
        for benchmark, count in sorted(Counter(key[0] for key in keys).items()):
            lines.append(f"  {benchmark}: {count}")
            chosen = [key for key in keys if key[0] == benchmark][:EXAMPLES]
            lines += [
                f"    {key[1]}: {_evidence(ours[key])} -> {_evidence(theirs[key])}"
                for key in chosen
            ]
    for name, alone in (
        ("first", ours.keys() - theirs.keys()),
        ("second", theirs.keys() - ours.keys()),
    ):
        if alone:
            told = ", ".join(
                f"{benchmark} {count}"
                for benchmark, count in sorted(Counter(key[0] for key in alone).items())
            )
            lines += [
                "",
                f"only the {name} judges {len(alone)}: {told} ({'/'.join(min(alone))} first)",
            ]
    return "\n".join(lines)


def _evidence(v: Verdict) -> str:
    drawn = f" ({v.hits} of {v.draws}, null {v.null:.4f})" if v.draws else ""
    return f"{LABELS[v.label]}{drawn}"


def write_table(manifest: Manifest, path: Path, listed: Listed | None) -> int:
    """All verdicts with their evidence, or (benchmark, id) of the kept or the removed, as CSV,
    JSONL or Parquet by suffix.

    Returns the number of rows.
    """
    rows: list[dict[str, Any]]
    if listed:
        rows = [
            {"benchmark": v.benchmark, "id": v.id}
            for v in manifest.verdicts
            if v.kept is (listed == "kept")
        ]
    else:
        rows = [{**v.model_dump(mode="json"), "kept": v.kept} for v in manifest.verdicts]
    names = ["benchmark", "id"] if listed else [*Verdict.model_fields, "kept"]
    kind = _kind(path)
    with atomic_writer(path) as file:
        if kind == ".parquet":
            arrow, parquet = _pyarrow()
            parquet.write_table(
                arrow.table({name: [row[name] for row in rows] for name in names}), file
            )
        elif kind == ".csv":
            lines = _Lines()
            writer = csv.DictWriter(lines, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            file.write("".join(lines).encode())
        else:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return len(rows)


class _Lines(list[str]):
    """Where csv may write text."""

    write = list[str].append


def read_table(
    path: Path, columns: tuple[str, str], listed: Listed, queries: Path
) -> tuple[Manifest, dict[str, int]]:
    """A manifest from a table of (benchmark, native id), `columns` naming the two, that lists what
    was kept or what was removed; and how many rows it had, how many of them said the same twice,
    and how many queries it says nothing of.

    Every row must name a query of prepare's output `queries`; benchmarks are matched by name,
    whatever the case and marks (Daily-Omni is daily_omni). Benchmarks that the table does not name
    were not its subject: they are kept whole.

    Raises DataError listing the rows that name no query, by line.
    """
    audited = read_queries(queries).queries
    keys = {q.key for q in audited}
    names = {_plain(q.benchmark): q.benchmark for q in audited}
    found: set[tuple[str, str]] = set()
    unknown: list[str] = []
    total = 0
    for line, row in _rows(path):
        total += 1
        if gone := [c for c in columns if row.get(c) in (None, "")]:
            told = (
                f"it has {', '.join(map(str, row))}; name its two columns: --columns benchmark,id"
            )
            raise DataError(f"{path}:{line}: no value in column {gone[0]!r}; {told}")
        if {"label", "kept", "hits"} <= row.keys():
            raise DataError(
                f"{path} holds all verdicts, kept and removed alike: export it with --listed"
                f" {listed} first"
            )
        benchmark, name = (str(row[c]).strip() for c in columns)
        key = names.get(_plain(benchmark), benchmark), name
        if key not in keys:
            unknown.append(f"  {path}:{line}: {benchmark}/{name}")
        found.add(key)
    if unknown or not total:
        shown = unknown[: 2 * EXAMPLES]
        more = [f"  and {len(unknown) - len(shown)} more"] if len(unknown) > len(shown) else []
        head = (
            f"{path}: {len(unknown)} of {total} rows name no query of {queries}:"
            if total
            else f"{path} lists nothing"
        )
        raise DataError("\n".join([head, *shown, *more]))
    named = {benchmark for benchmark, _ in found}

    def label(key: tuple[str, str]) -> Label:
        if key[0] not in named:
            return Label.kept_whole
        return Label.not_solvable if (key in found) is (listed == "kept") else Label.solvable

    evidence = {"hits": 0, "draws": 0, "null": 1.0, "binomial": 1.0}
    verdicts = [Verdict(benchmark=b, id=i, label=label((b, i)), **evidence) for b, i in keys]
    whole = sum(v.label is Label.kept_whole for v in verdicts)
    counts = {
        "rows": total,
        "repeated": total - len(found),
        "queries": len(keys),
        "kept_whole": whole,
    }
    return build_manifest("imported", path.name, "", verdicts), counts


def save(
    manifest: Manifest, counts: Mapping[str, int], sources: Sequence[Path], output: Path
) -> None:
    """The imported manifest as an output of clean, which `evaluate --input manifest=DIR` takes.

    `sources` are the table and prepare's output. Raises ConfigError for a directory that holds
    anything but an earlier import.
    """
    table, queries = sources
    if output.is_dir() and any(output.iterdir()) and not _imported(output):
        raise ConfigError(
            f"output {output} is not empty and holds no imported manifest; give a new or empty"
            " directory"
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / STEP_FILE).unlink(missing_ok=True)
    write_json(output / "manifest.json", manifest)
    kept = len(manifest.kept())
    inputs = {"table": sha256_file(table), "queries": verify_step(queries)["digest"]}
    summary = {
        **counts,
        "policy": "imported",
        "kept_imported": kept,
        "removed_imported": len(manifest.verdicts) - kept,
    }
    facts = {
        "step": "clean",
        "section": "clean",
        "key": digest(inputs),
        "profile_hash": "",
        "seed": 0,
        "inputs": inputs,
    }
    write_step(output, {**facts, "seconds": 0.0, "summary": summary})


def _imported(output: Path) -> bool:
    try:
        return bool(read_step(output)["summary"].get("policy") == "imported")
    except DataError:
        return False


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a table with their line in the file; of Parquet, with their number.

    Raises DataError naming a broken line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    kind = _kind(path)
    if kind == ".parquet":
        _, parquet = _pyarrow()
        try:
            yield from enumerate(parquet.read_table(path).to_pylist(), 1)
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            raise DataError(f"{path} is not Parquet: {error}") from error
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from _csv(file) if kind == ".csv" else _jsonl(path, file)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is not CSV: {error}") from error


def _csv(file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(file)
    for row in reader:
        yield reader.line_num, row


def _jsonl(path: Path, file: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: a row is an object with named columns, not {line.strip():.40}"
            )
        yield number, row


def _kind(path: Path) -> str:
    if path.suffix not in (".csv", ".jsonl", ".parquet"):
        raise ConfigError(f"{path}: a table is .csv, .jsonl or .parquet")
    return path.suffix


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed: pip install pyarrow, or use .csv or"
            " .jsonl"
        ) from error
