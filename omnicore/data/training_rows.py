"""Training sources: rows from outside as queries, read like the public benchmarks.

Three formats:

  queries  JSONL in our own schema (`Query` a line), media relative to the file. The field
           `benchmark` becomes the source's name.
  r1       The rows that Video-R1, EchoInk and HumanOmniV2 share: `r1_rows.py`.
  hub      A data set of the Hugging Face hub in Parquet or JSONL, its columns named by `columns`:
           `table_rows.py`.

A null, NaN or blank field is a missing one: without a question or an answer there is no row. A
number may be written as 1,200, $12$, 3/4 or 15%; replies are read in the same notation.

A row that becomes no query is listed with file, line and field (`problems.jsonl`). In `sft.jsonl`
every row has a written reply: the row's own (of r1 the solution as it stands, after its process),
else its answer in the form that the profile reads. A written reply whose answer is not the row's is
a problem, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omnicore.config import Profile, TrainingSource
from omnicore.data.benchmarks.adapter import MediaCheck, read_queries
from omnicore.data.benchmarks.fields import item_id, with_keys
from omnicore.data.benchmarks.hub import download_benchmark
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry, Problem, Refused
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.r1_rows import query_from_r1
from omnicore.data.table_rows import query_from_table
from omnicore.errors import ConfigError, DataError
from omnicore.schema import AnswerKind, Outcome, Query
from omnicore.scoring.verify import judge
from omnicore.storage import store


def open_source(name: str, config: TrainingSource, scratch: Path) -> AnnotationSource:
    """Open a source: a local file or folder, or a download from the hub or S3 at its revision.

    Args:
        name: Name of the source in the recipe.
        config: The source.
        scratch: Folder for downloads from S3 and for media that lie inside tables.

    Raises:
        ConfigError: There is no such place, a place elsewhere is not pinned, or no file matches
            `files`.
        DataError: The hub cannot be reached, or S3 now holds something else. Also what
            `store.fetch` raises.
    """
    field = f"prepare.training.{name}"
    local = Path(config.path)
    files = config.files
    if local.is_file():
        local, files = local.parent, local.name
    elif not files:
        raise ConfigError(
            f"{field}: say which files of {config.path} hold its rows, as in files:"
            " data/train-*.parquet",
            code="training-source-files-missing",
            field=f"{field}.files",
        )
    entry = BenchmarkEntry(
        name=name,
        title=name,
        source=config.path,
        revision=config.revision,
        licence="",
        annotations=(files,),
        cluster="",
        answer_kinds=tuple(AnswerKind),
    )
    if store.is_s3(config.path):
        local = scratch / "published" / name
        _fetch_published(field, config, local)
    elif config.revision:
        alternative = "a local copy as `path`, without `revision`"
        local, _ = download_benchmark(entry, "hub", alternative)
    elif not local.is_dir():
        raise ConfigError(
            f"{field}: there is no {config.path} here; a data set of the hub needs `revision`, the"
            " 40 hex digits of its commit: a branch moves, and with it the data",
            code="training-source-not-found",
            field=f"{field}.path",
            path=local,
        )
    if next(local.glob(files), None) is None:
        raise ConfigError(
            f"{field}: no {files} in {local}",
            code="training-source-files-missing",
            field=f"{field}.files",
            path=local,
        )
    media_root = Path(config.media) if config.media else None
    if media_root and not media_root.is_dir():
        raise ConfigError(
            f"{field}.media: there is no folder {config.media} here",
            code="training-source-media-missing",
            field=f"{field}.media",
            path=media_root,
        )
    return AnnotationSource(entry, local, scratch, media_root)


def _fetch_published(field: str, config: TrainingSource, directory: Path) -> None:
    """Download what is published at an address in S3, if it has the digest of the recipe."""
    if not config.revision:
        raise ConfigError(
            f"{field}: {config.path} needs `revision`, the 64 hex digits of `digest` in its"
            f" {store.PUBLISHED}",
            code="training-source-revision-missing",
            field=f"{field}.revision",
        )
    published = store.require(config.path)
    if published.digest != config.revision:
        raise DataError(
            f"{field}: {config.path} now holds {published.digest}, not {config.revision}, its"
            " revision here: name that one, or publish the other again",
            code="training-source-revision-changed",
            field=f"{field}.revision",
        )
    store.fetch(config.path, directory, published)


def read_training_queries(
    config: TrainingSource,
    source: AnnotationSource,
    profile: Profile,
    check_media: MediaCheck = lambda _: {},
) -> tuple[list[Query], list[Problem], int]:
    """Return all queries of a source, all rows that became none, and the number of rows.

    `check_media` is as in `read_queries`.
    """
    return read_queries(_RowFormat(config, profile), source, check_media)


@dataclass(frozen=True)
class _RowFormat:
    """Reads the rows of a source as an adapter reads those of a benchmark."""

    config: TrainingSource
    profile: Profile

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        id_column = self.config.columns.get("id", "")
        field = {"queries": "id", "r1": "problem_id", "hub": id_column}[self.config.format]
        return with_keys(self._file_rows(source), lambda item: item_id(item, field))

    def _file_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        pattern = source.layout
        if pattern.endswith(".parquet"):
            yield from source.parquet_rows(pattern)
            return
        for path in sorted(source.root.glob(pattern)):
            name = str(path.relative_to(source.root))
            yield from source.json_rows(name) if path.suffix == ".json" else source.jsonl_rows(name)

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        match self.config.format:
            case "queries":
                query = _query_from_schema(source, row)
            case "r1":
                query = query_from_r1(source, row, self.config)
            case "hub":
                query = query_from_table(source, row, self.config)
        # Only supervised training needs a reply, so only it refuses one.
        return with_target(query, self.profile) if "sft" in self.config.stages else query


def _query_from_schema(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return a row in our own schema as a query, its media as files of the source."""
    query = Query.model_validate(row.fields)
    folder = Path(row.file).parent
    media = []
    for place, given in enumerate(query.media):
        field = f"media.{place}"
        medium = source.media.find(
            field, given.kind, str(folder / given.uri), given.start, given.end
        )
        if medium.sha256 != given.sha256:
            raise Refused(
                field,
                f"{given.uri} is another file than the row names: its sha256 is"
                f" {medium.sha256[:12]}..",
            )
        media.append(medium)
    return query.model_copy(update={"benchmark": source.entry.name, "media": tuple(media)})


def with_target(query: Query, profile: Profile) -> Query:
    """Return the query with a written reply: its own, else its answer as the profile reads it.

    Raises:
        Refused: The reply's answer is not the query's.
    """
    reply = query.target or _bare_answer(query, profile)
    # An open answer cannot be told from other words.
    if query.answer_kind is not AnswerKind.text:
        given, outcome = judge(reply, query, profile.style)
        if outcome is not Outcome.correct:
            form = "letters" if profile.style == "letter" else "options by their text"
            raise Refused(
                "target",
                f"answers {given!r}, not {query.answer!r}, as profile.style={profile.style} reads"
                f" it ({form}): {reply[-60:]!r}",
            )
    return query.model_copy(update={"target": reply})


def _bare_answer(query: Query, profile: Profile) -> str:
    """Return the answer without any words around it, as the profile reads it."""
    right = (query.answer, *query.also)
    members = [option for option in query.options if option in right] or [query.answer]
    if profile.style == "letter" and query.answer_kind in (AnswerKind.choice, AnswerKind.set):
        members = [chr(65 + query.options.index(member)) for member in members]
    return ", ".join(members)


def count_without_sound(rows: Sequence[Query]) -> int:
    """Count the rows that show a video without sound.

    Of a source with `sound`, these are the rows whose video has no sound track.
    """
    count = 0
    for row in rows:
        kinds = {medium.kind for medium in row.media}
        count += "video" in kinds and "audio" not in kinds
    return count
