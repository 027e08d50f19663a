"""A benchmark of the user's own: any table whose columns are named, without an adapter.

Read are JSONL and JSON, CSV and TSV (VLMEvalKit's with pictures as base64 and options in columns A,
B, C, ...), Parquet with embedded media, and a folder that `datasets.save_to_disk` wrote. One file
or all that a pattern matches; nested fields by dots, as in `doc.question` of lmms-eval's samples.

A question is made of these columns, by default those of the same name:

  question, answer  required
  options           a list of texts or its JSON; several columns as `A|B|C|D`
  id, type          default: the number of the row; the kind of answer
  cluster           what rows share, as a film's name; default: the first medium
  image, audio      a path, with or without suffix, bytes, the hub's feature, base64, or a list of
                    these; several columns as `a|b`
  video             likewise; its sound track is shown, too, where there is one and no audio column
  start, end        of the clip, in seconds
"""

from __future__ import annotations

import base64
import binascii
import glob
import mimetypes
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omnicore.config import BenchmarkSource
from omnicore.data.benchmarks import has_adapter
from omnicore.data.benchmarks.fields import plain_number
from omnicore.data.benchmarks.formats import media_suffix
from omnicore.data.benchmarks.options import option_by_letter
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, MediaKind, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.table_files import (
    MIN_BASE64,
    TABLE_SUFFIXES,
    file_rows,
    only_pattern,
)
from omnicore.data.benchmarks.tables import cell_text, is_blank, parse_options, parse_value
from omnicore.errors import ConfigError, DataError
from omnicore.media.video import has_sound_track
from omnicore.schema import AnswerKind, Media, Query
from omnicore.scoring.extract import parse_number
from omnicore.storage.digests import STEP_FILE

KINDS: tuple[MediaKind, ...] = ("image", "audio", "video")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAMPLES = 20  # rows whose columns are shown when one is missing
YES_NO = ("Yes", "No")


@dataclass(frozen=True)
class OwnBenchmark:
    """The adapter of one table; see the module's docstring."""

    ENTRY: BenchmarkEntry
    config: BenchmarkSource

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        """Yield the rows of all files in the order of their names.

        Raises:
            ConfigError: A mapped or required column is in none of the first rows.
            DataError: A file is broken, or of no format that is read.
        """
        first: list[AnnotationRow] = []
        checked = False
        for path in sorted(source.root.glob(source.layout)):
            for row in file_rows(source, path):
                if not checked and len(first) < SAMPLES:
                    first.append(row)
                elif not checked:
                    self._check_columns(source, first)
                    checked = True
                yield self._named(row)
        if not checked:
            self._check_columns(source, first)

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        """Build one query; raises Refused naming the column at fault."""
        cells = _Cells(self.config.columns, row)
        question, answer = cells.text("question"), cells.value("answer")
        for name, value in (("question", question), ("answer", answer)):
            if is_blank(value):
                raise Refused(cells.column(name), "is missing")
        options = self._options(cells)
        kind, options, answers, native = _solution(cells, answer, options, self.config.answer_kind)
        media = self._media(source, cells)
        cluster = cells.text("cluster") or (media[0].sha256 if media else "")
        return Query(
            benchmark=source.entry.name,
            id=cells.text("id") or f"{source.next_number('rows'):06d}",
            type=cells.text("type") or str(kind),
            question=question,
            options=tuple(options),
            answer=answers[0],
            also=tuple(answers[1:]),
            answer_kind=kind,
            media=media,
            cluster=cluster or cells.text("id") or row.key or str(row.line),
            native=native,
        )

    def official_score(self, query: Query, reply: str) -> float | None:  # noqa: ARG002
        """Return None: nobody published a rule."""
        return None

    def _named(self, row: AnnotationRow) -> AnnotationRow:
        column = self.config.columns.get("id", "id")
        value = _field(row.fields, column)
        return replace(row, key=row.key if is_blank(value) else cell_text(value))

    def _check_columns(self, source: AnnotationSource, rows: Sequence[AnnotationRow]) -> None:
        found = list(dict.fromkeys(name for row in rows for name in row.fields))
        wanted = {"question": "question", "answer": "answer"} | dict(self.config.columns)
        for name, columns in wanted.items():
            for column in columns.split("|"):
                if rows and not any(_has(row.fields, column) for row in rows):
                    pairs = ",".join(f"{key}={key.upper()}" for key in ("question", "answer"))
                    raise ConfigError(
                        f"{source.root / source.layout} has no column {column!r} for {name}; it has"
                        f" {', '.join(found)}. Name the right ones, as in --columns {pairs}",
                        code="benchmark-column-missing",
                        field=name,
                        path=source.root / source.layout,
                    )

    def _options(self, cells: _Cells) -> list[str]:
        columns = self.config.columns.get("options", "options")
        if "|" not in columns and not cells.has("options"):
            # VLMEvalKit: a column a letter, empty where a question has fewer options.
            columns = "|".join(letter for letter in LETTERS if letter in cells.row.fields)
            if "A" not in columns:
                return []
        if "|" in columns or columns == "A":
            texts = [cells.row.fields.get(column) for column in columns.split("|")]
            given = [cell_text(text) for text in texts if not is_blank(text)]
            return parse_options(columns, given)[1] if given else []
        value = cells.value("options")
        return [] if is_blank(value) else parse_options(columns, value)[1]

    def _media(self, source: AnnotationSource, cells: _Cells) -> tuple[Media, ...]:
        start, end = cells.seconds("start"), cells.seconds("end")
        media: list[Media] = []
        for kind in KINDS:
            for column, value in cells.values(kind):
                medium = _medium(source, column, kind, value)
                media.append(medium.model_copy(update={"start": start, "end": end}))
        if any(medium.kind == "audio" for medium in media):
            return tuple(media)
        films = [medium for medium in media if medium.kind == "video"]
        sounds = [film for film in films if _has_sound(source.media.path(film))]
        return (*media, *(film.model_copy(update={"kind": "audio"}) for film in sounds))


def open_own_benchmark(
    name: str, config: BenchmarkSource, scratch: Path
) -> tuple[OwnBenchmark, AnnotationSource]:
    """Return adapter and files of a table.

    Raises:
        ConfigError: There is no such file, several formats, or none that is read.
    """
    if has_adapter(name):
        raise ConfigError(
            f"prepare.sources.{name}: {name} is a public benchmark with an adapter; give a table of"
            " your own another name",
            code="benchmark-name-taken",
            field=f"prepare.sources.{name}",
        )
    place = Path(config.path)
    root, pattern = (place.parent, place.name) if place.is_file() else (place, config.files)
    if not place.exists():
        raise ConfigError(
            f"prepare.sources.{name}: there is no {place}; give the table's file or its folder",
            code="benchmark-file-missing",
            field=f"prepare.sources.{name}",
            path=place,
        )
    pattern = pattern or only_pattern(name, root)
    entry = BenchmarkEntry(
        name=name,
        title=name,
        source=str(place),
        on_hub=False,
        licence="",
        annotations=(pattern,),
        filter_policy=config.policy,
        reason="" if config.policy == "filtered" else "kept whole, as its source says",
        cluster="cluster",
        answer_kinds=tuple(AnswerKind),
        shares=("type",),
    )
    media = Path(config.media) if config.media else root
    if not media.is_dir():
        raise ConfigError(
            f"prepare.sources.{name}.media: there is no folder {media}",
            code="benchmark-media-missing",
            field=f"prepare.sources.{name}.media",
            path=media,
        )
    return OwnBenchmark(entry, config), AnnotationSource(entry, root, scratch, media)


def source_files(config: BenchmarkSource) -> list[Path]:
    """Return the tables, and the files of media formats beside and below them.

    Outputs of steps are left out: a run may well lie in the folder of the table.
    """
    place = Path(config.path)
    root = place.parent if place.is_file() else place
    tables = {place} if place.is_file() else set(root.glob(config.files or "**/*"))
    found = {path for path in tables if path.suffix in TABLE_SUFFIXES or config.files}
    for folder in {root, Path(config.media) if config.media else root}:
        found |= set(_media_files(folder))
    return sorted(path for path in found if path.is_file())


def _media_files(folder: Path) -> Iterator[Path]:
    for current, folders, names in os.walk(folder):
        here = Path(current)
        folders[:] = [name for name in folders if not (here / name / STEP_FILE).exists()]
        for name in names:
            if _kind_of(here / name) in KINDS:
                yield here / name


class _Cells:
    """The cells of a row by the names of a question's parts."""

    def __init__(self, columns: Mapping[str, str], row: AnnotationRow) -> None:
        self.columns, self.row = columns, row

    def column(self, name: str) -> str:
        return self.columns.get(name, name)

    def has(self, name: str) -> bool:
        return not is_blank(self.value(name))

    def value(self, name: str) -> Any:
        return _field(self.row.fields, self.column(name))

    def text(self, name: str) -> str:
        value = self.value(name)
        return "" if is_blank(value) else cell_text(value).strip()

    def values(self, name: str) -> list[tuple[str, Any]]:
        """Return column and value of every cell, lists taken apart."""
        found = []
        columns = self.column(name)
        if name == "image" and columns == "image" and not self.has("image"):
            columns = "image_path"  # VLMEvalKit's, where a table holds no pictures itself
        for column in columns.split("|"):
            value = _as_list(_field(self.row.fields, column))
            for one in value:
                if not is_blank(one):
                    found.append((column, one))
        return found

    def seconds(self, name: str) -> float | None:
        if not self.has(name):
            return None
        try:
            return float(self.value(name))
        except (TypeError, ValueError) as error:
            value = self.value(name)
            raise Refused(self.column(name), f"{value!r:.40} is not a number of seconds") from error


def _has(fields: Mapping[str, Any], column: str) -> bool:
    if column in fields:
        return True
    outer, _, inner = column.partition(".")
    nested = fields.get(outer)
    return bool(inner) and isinstance(nested, Mapping) and _has(nested, inner)


def _field(fields: Mapping[str, Any], column: str) -> Any:
    """Return a cell by its column, a nested one by dots; None where there is none."""
    if column in fields:
        return fields[column]
    outer, _, inner = column.partition(".")
    nested = fields.get(outer)
    return _field(nested, inner) if inner and isinstance(nested, Mapping) else None


def _solution(
    cells: _Cells, answer: Any, options: list[str], wanted: AnswerKind | None
) -> tuple[AnswerKind, list[str], list[str], dict[str, str]]:
    """Return the kind of answer, the options, the right answers, and native fields."""
    column = cells.column("answer")
    if options:
        members = answer if isinstance(answer, list) else _letters(answer, options)
        answers = [_option(column, member, options) for member in members]
        kind = wanted or (AnswerKind.set if len(answers) > 1 else AnswerKind.choice)
        return kind, options, list(dict.fromkeys(answers)), {}
    if isinstance(answer, list):
        raise Refused(column, "is a list, and the row has no options")
    written = cell_text(answer).strip()
    if wanted is AnswerKind.yes_no or (wanted is None and written.lower() in ("yes", "no")):
        if written.lower() not in ("yes", "no"):
            raise Refused(column, f"{written!r:.40} is neither yes nor no")
        return AnswerKind.yes_no, list(YES_NO), [written.capitalize()], {}
    if wanted in (AnswerKind.choice, AnswerKind.set):
        raise Refused(cells.column("options"), "is missing")
    numeric = any(map(str.isdigit, written)) and parse_number(written, written) is not None
    if wanted is AnswerKind.number and not numeric:
        raise Refused(column, f"{written!r:.40} is not a number")
    if numeric and wanted in (None, AnswerKind.number):
        plain = plain_number(written)
        return AnswerKind.number, [], [plain], {} if plain == written else {"answer": written}
    return wanted or AnswerKind.text, [], [written], {}


def _letters(answer: Any, options: Sequence[str]) -> list[Any]:
    """Take `A,C` or `AC` apart where it is not an option's text and names several options."""
    if not isinstance(answer, str) or answer.strip() in options:
        return [answer]
    letters = list(answer.replace(" ", "").replace(",", "").upper())
    known = LETTERS[: len(options)]
    several = len(letters) > 1 and set(letters) <= set(known) and len(set(letters)) == len(letters)
    return letters if several else [answer]


def _option(column: str, answer: Any, options: Sequence[str]) -> str:
    if not isinstance(answer, str):
        raise Refused(
            column, f"{answer!r:.40}: a number may count options from 0 or 1; write letter or text"
        )
    text = answer.strip()
    if text in options:
        return text
    return option_by_letter(column, text.strip("().: "), options)


def _as_list(value: Any) -> list[Any]:
    """Return the members of a list, also of one that a text table holds as `['a.png', 'b.png']`."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        parsed = parse_value(value)
        value = parsed if isinstance(parsed, list) else value
    return value if isinstance(value, list) else [value]


def _medium(source: AnnotationSource, column: str, kind: MediaKind, value: Any) -> Media:
    if isinstance(value, str):
        data = _decoded(value) if len(value) >= MIN_BASE64 else None
        if data is not None:
            return source.media.embedded(column, kind, data)
        value = _with_suffix(source.media.root, kind, value)
    if not isinstance(value, str | bytes | Mapping):
        raise Refused(column, f"{value!r:.40} is not a {kind}")
    return source.media.embedded(column, kind, value)


def _with_suffix(root: Path, kind: MediaKind, name: str) -> str:
    """Return the path of a medium that a table names without its suffix, as Video-MME does."""
    if Path(name).suffix or (root / name).is_file():
        return name
    beside = sorted((root / name).parent.glob(f"{glob.escape(Path(name).name)}.*"))
    fitting = [path for path in beside if _kind_of(path) == kind]
    return str(fitting[0].relative_to(root)) if len(fitting) == 1 else name


def _kind_of(path: Path) -> str:
    return (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]


def _decoded(text: str) -> bytes | None:
    """Return the bytes of a base64 text of a known format, as VLMEvalKit writes; else None."""
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if media_suffix(data) else None


def _has_sound(path: Path) -> bool:
    try:
        return has_sound_track(path)
    except DataError:  # the check of the picture says what is wrong with the file
        return False
