"""Import and export manifests as tables of other tools: CSV, JSONL or Parquet.

A list of the queries that some other cleaning kept or removed becomes a manifest of policy
`imported`, so that the authors' published list and an own audit can be compared.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from omnicore.audit.files import read_queries
from omnicore.audit.policies import build_manifest
from omnicore.config import digest
from omnicore.errors import ConfigError, DataError, missing_package
from omnicore.lineage.step_record import read_step, verify_step, write_step
from omnicore.schema import Label, Manifest, QueryKey, Verdict
from omnicore.storage.digests import STEP_FILE, sha256_file
from omnicore.storage.files import atomic_writer, write_json

Listed = Literal["kept", "removed"]
TableRow = Mapping[str, Any]

EXAMPLES = 10  # rows shown that name no query
SUFFIXES = (".csv", ".jsonl", ".parquet")


def export_table(manifest: Manifest, path: Path, listed: Listed | None) -> int:
    """Write verdicts as CSV, JSONL or Parquet, by the suffix of `path`.

    Args:
        manifest: The manifest to export.
        path: The file to write.
        listed: Write only (benchmark, id) of the kept or the removed queries; None writes all
            verdicts with their evidence.

    Returns:
        The number of rows.
    """
    if listed:
        names = ["benchmark", "id"]
        chosen = [v for v in manifest.verdicts if v.kept is (listed == "kept")]
        rows = [{"benchmark": v.benchmark, "id": v.id} for v in chosen]
    else:
        names = [*Verdict.model_fields, "kept"]
        rows = [v.model_dump(mode="json") | {"kept": v.kept} for v in manifest.verdicts]
    suffix = _table_suffix(path)
    with atomic_writer(path) as file:
        if suffix == ".parquet":
            arrow, parquet = _import_pyarrow()
            columns: dict[str, list[Any]] = {name: [] for name in names}
            for row in rows:
                for name in names:
                    columns[name].append(row[name])
            parquet.write_table(arrow.table(columns), file)
        elif suffix == ".csv":
            file.write(_csv_text(names, rows).encode())
        else:
            for row in rows:
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return len(rows)


def _csv_text(names: Sequence[str], rows: Iterable[TableRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def import_table(
    path: Path, columns: tuple[str, str], listed: Listed, queries: Path
) -> tuple[Manifest, dict[str, int]]:
    """Make a manifest from a table that lists the queries kept, or those removed.

    Benchmarks are matched by name, whatever their case and punctuation (Daily-Omni is daily_omni).
    Benchmarks that the table does not name were not its subject: they are kept whole.

    Args:
        path: The table.
        columns: Names of its columns of benchmark and native id.
        listed: Whether the table lists the kept or the removed queries.
        queries: Output of prepare; every row must name one of its queries.

    Returns:
        The manifest, and the counts `rows` of the table, `repeated` rows among them, `queries` of
        prepare, and `kept_whole` of these.

    Raises:
        DataError: The table is empty or broken, or a row names no query. The message lists these
            rows by line.
    """
    keys = {q.key for q in read_queries(queries).queries}
    named, total = _read_keys(path, columns, listed, queries, keys)
    benchmarks = {benchmark for benchmark, _ in named}
    verdicts = []
    for key in keys:
        label = Label.kept_whole
        if key[0] in benchmarks:
            kept = (key in named) is (listed == "kept")
            label = Label.not_solvable if kept else Label.solvable
        verdicts.append(_imported_verdict(key, label))
    counts = {
        "rows": total,
        "repeated": total - len(named),
        "queries": len(keys),
        "kept_whole": sum(v.label is Label.kept_whole for v in verdicts),
    }
    return build_manifest("imported", path.name, "", verdicts), counts


def _imported_verdict(key: QueryKey, label: Label) -> Verdict:
    benchmark, name = key
    return Verdict(
        benchmark=benchmark, id=name, label=label, hits=0, draws=0, null=1.0, binomial=1.0
    )


def _read_keys(
    path: Path, columns: tuple[str, str], listed: Listed, queries: Path, keys: set[QueryKey]
) -> tuple[set[QueryKey], int]:
    """Return the keys of the queries that a table names, and its number of rows."""
    benchmarks = {_plain_name(benchmark): benchmark for benchmark, _ in keys}
    named: set[QueryKey] = set()
    unknown: list[str] = []
    total = 0
    for line, row in _read_rows(path):
        total += 1
        _check_row(path, line, row, columns, listed)
        benchmark, name = (str(row[column]).strip() for column in columns)
        key = benchmarks.get(_plain_name(benchmark), benchmark), name
        if key not in keys:
            unknown.append(f"  {path}:{line}: {benchmark}/{name}")
        named.add(key)
    if not total:
        raise DataError(f"{path} lists nothing", code="table-empty", path=path)
    if unknown:
        lines = [f"{path}: {len(unknown)} of {total} rows name no query of {queries}:"]
        lines += unknown[:EXAMPLES]
        if len(unknown) > EXAMPLES:
            lines.append(f"  and {len(unknown) - EXAMPLES} more")
        raise DataError("\n".join(lines), code="table-unknown-query", path=path)
    return named, total


def _check_row(
    path: Path, line: int, row: TableRow, columns: tuple[str, str], listed: Listed
) -> None:
    missing = [column for column in columns if row.get(column) in (None, "")]
    if missing:
        raise DataError(
            f"{path}:{line}: no value in column {missing[0]!r}; it has {', '.join(map(str, row))};"
            " name its two columns: --columns benchmark,id",
            code="table-missing-value",
            path=path,
            line=line,
            field=missing[0],
        )
    if {"label", "kept", "hits"} <= row.keys():
        raise DataError(
            f"{path} holds all verdicts, kept and removed alike: export it with --listed {listed}"
            " first",
            code="table-holds-verdicts",
            path=path,
        )


def save_imported(
    manifest: Manifest, counts: Mapping[str, int], sources: Sequence[Path], output: Path
) -> None:
    """Write an imported manifest as an output of clean, for `evaluate --input manifest=DIR`.

    Args:
        manifest: The imported manifest.
        counts: Counts of `import_table`, which enter the summary.
        sources: The table and the output of prepare.
        output: The directory to fill.

    Raises:
        ConfigError: The directory holds anything but an earlier import.
    """
    table, queries = sources
    if output.is_dir() and any(output.iterdir()) and not _holds_import(output):
        raise ConfigError(
            f"output {output} is not empty and holds no imported manifest; give a new or empty"
            " directory",
            code="manifest-output-not-empty",
            path=output,
            field="--output",
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
    record = {
        "step": "clean",
        "section": "clean",
        "key": digest(inputs),
        "profile_hash": "",
        "seed": 0,
        "inputs": inputs,
        "seconds": 0.0,
        "summary": summary,
    }
    write_step(output, record)


def _holds_import(output: Path) -> bool:
    try:
        return bool(read_step(output)["summary"].get("policy") == "imported")
    except DataError:
        return False


def _plain_name(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _read_rows(path: Path) -> Iterator[tuple[int, TableRow]]:
    """Yield the rows of a table with their line in the file; of Parquet, with their number.

    Raises:
        DataError: The file is missing, or a line of it is broken.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", code="table-missing", path=path)
    suffix = _table_suffix(path)
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from _read_csv(file) if suffix == ".csv" else _read_jsonl_rows(path, file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: {error}; save it as UTF-8", code="table-not-utf8", path=path
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{path} is not CSV: {error}", code="table-invalid-csv", path=path
        ) from error


def _read_parquet(path: Path) -> Iterator[tuple[int, TableRow]]:
    _, parquet = _import_pyarrow()
    try:
        yield from enumerate(parquet.read_table(path).to_pylist(), 1)
    except (OSError, ValueError) as error:  # base classes of pyarrow's own errors
        raise DataError(
            f"{path} is not Parquet: {error}", code="table-invalid-parquet", path=path
        ) from error


def _read_csv(file: Iterable[str]) -> Iterator[tuple[int, TableRow]]:
    reader = csv.DictReader(file)
    for row in reader:
        yield reader.line_num, row


def _read_jsonl_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, TableRow]]:
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}:{number}: not JSON: {error}",
                code="table-invalid-json",
                path=path,
                line=number,
            ) from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: a row is an object with named columns, not {line.strip():.40}",
                code="table-invalid-row",
                path=path,
                line=number,
            )
        yield number, row


def _table_suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: a table is .csv, .jsonl or .parquet", code="table-unknown-suffix", path=path
        )
    return path.suffix


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise missing_package("pyarrow", "audit", "a Parquet table") from error
