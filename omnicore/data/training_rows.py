"""Training sources: rows from outside as queries, through the same reading that the public benchmarks go through.

Three formats:

  queries  JSONL in our own schema (`Query` a line), media relative to the file. The field `benchmark` becomes the source's name.
  r1       The rows that Video-R1, EchoInk and HumanOmniV2 share, as JSON list or JSONL. Fields read at: r1_data_eg.json and
           src/r1-v/src/open_r1/sft_video.py of copies of Video-R1 (github.com/hexuan21/Video-R1 at b554698, HarryHsing/Video-R1 at
           3585689), src/make_omniInstruct_r1_dataset.py and src/r1-v/src/open_r1/grpo.py of github.com/HarryHsing/EchoInk (72cffda,
           de49843), src/open-r1-multimodal/src/open_r1/grpo_qwenomni.py of a copy of HumanOmniV2 (github.com/vhzy/HumanOmniV2 at
           3c931e6):
             problem       the question
             problem_type  multiple choice, emer_ov_mc (several letters), judge (yes or no), numerical, regression, counting, OCR,
                           free-form, temporal retrieval (EchoInk's: `problem` is what happens in the video, `duration` the video's,
                           the answer all spans of it in seconds, "[12.0, 19.0]; [24.0, 29.0]"; rows with several are left out)
             options       texts with or without labels ("A. ..", "A) .."), or objects {label, text}
             solution      "<answer>B</answer>", with the thinking before it in sets for supervised training, or the thinking in
                           `process`
             data_type     image, video, audio, text, or several as in image_audio
             path          a file, or one for each medium: {"image": .., "audio": ..}; `audio_path` beside it (HumanOmniV2); below
                           the source's `media`, which Video-R1's trainer calls its data root, or else below its `path`. With
                           `sound`, a video without a sound track is shown alone (check_if_video_has_audio of HumanOmniV2)
             problem_id, data_source
  hub      A data set of the Hugging Face hub in Parquet or JSONL, its columns named by `columns`. Media are what the hub's features
           Image and Audio hold, or paths inside the data set.

A null, NaN or blank field is a missing one: without a question or an answer there is no row. A number may be written as 1,200,
$12$, 3/4 or 15%; replies are read in the same notation (`answers.number`).

A row that becomes no query is listed with file, line and field (`problems.jsonl`). In `sft.jsonl` every row has a written reply:
the row's own (of r1 the solution as it stands, after its process), else its answer in the form that the profile reads. A written
reply whose answer is not the row's is a problem, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from omnicore.config import Profile, TrainingSource
from omnicore.data.benchmarks.base import (
    AnnotationRow,
    AnnotationSource,
    BenchmarkEntry,
    Excluded,
    MediaCheck,
    MediaKind,
    Problem,
    Refused,
    item_id,
    option_by_letter,
    parse_list,
    parse_solution,
    plain_number,
    read_queries,
    with_keys,
)
from omnicore.data.benchmarks.hub import download_benchmark
from omnicore.data.benchmarks.tables import cell_text, is_blank, parse_options
from omnicore.errors import ConfigError, DataError
from omnicore.media.video import has_sound_track
from omnicore.schema import AnswerKind, Media, Outcome, Query
from omnicore.scoring.extract import parse_number
from omnicore.scoring.verify import judge
from omnicore.storage import store

R1_KINDS = {
    "multiple choice": AnswerKind.choice,
    "emer_ov_mc": AnswerKind.set,
    "judge": AnswerKind.yes_no,
    "numerical": AnswerKind.number,
    "regression": AnswerKind.number,
    "counting": AnswerKind.number,
    "OCR": AnswerKind.text,
    "free-form": AnswerKind.text,
    "temporal retrieval": AnswerKind.interval,
}
# Types whose answers Video-R1 grades, and by what: keys of `training.rewards.GRADES`.
GRADED = {"OCR": "word error rate", "free-form": "rouge", "regression": "relative error"}
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def open_source(name: str, config: TrainingSource, scratch: Path) -> AnnotationSource:
    """The files of a source: a local file or folder, or what is downloaded from the hub at its
    revision.

    Raises ConfigError when there is no such place, what lies elsewhere is not pinned, or no file is
    where `files` says; DataError when the hub cannot be reached, or something else is published in
    S3 by now; and what `store.fetch` raises.
    """
    where = f"prepare.training.{name}"
    local = Path(config.path)
    files = config.files
    if local.is_file():
        local, files = local.parent, local.name
    elif not files:
        raise ConfigError(
            f"{where}: say which files of {config.path} hold its rows, as in files:"
            " data/train-*.parquet"
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
        _fetch_published(where, config, local)
    elif config.revision:
        local, _ = download_benchmark(
            entry, "hub", otherwise="a local copy as `path`, without `revision`"
        )
    elif not local.is_dir():
        raise ConfigError(
            f"{where}: there is no {config.path} here; a data set of the hub needs `revision`, the"
            " 40 hex digits of its commit: a branch moves, and with it the data"
        )
    if next(local.glob(files), None) is None:
        raise ConfigError(f"{where}: no {files} in {local}")
    if config.media and not Path(config.media).is_dir():
        raise ConfigError(f"{where}.media: there is no folder {config.media} here")
    return AnnotationSource(entry, local, scratch, Path(config.media) if config.media else None)


def _fetch_published(where: str, config: TrainingSource, directory: Path) -> None:
    if not config.revision:
        raise ConfigError(
            f"{where}: {config.path} needs `revision`, the 64 hex digits of `digest` in its"
            f" {store.PUBLISHED}"
        )
    published = store.require(config.path)
    if published.digest != config.revision:
        raise DataError(
            f"{where}: {config.path} holds {published.digest} by now, not {config.revision}, its"
            " revision here: name that one, or publish the other again"
        )
    store.fetch(config.path, directory, published)


def read_training_queries(
    config: TrainingSource,
    source: AnnotationSource,
    profile: Profile,
    faults: MediaCheck = lambda _: {},
) -> tuple[list[Query], list[Problem], int]:
    """All queries of a source, all rows that became none, and the number of rows.

    `faults` as in `benchmarks.base.read`.
    """
    return read_queries(cast(Any, _SourceFormat(config, profile)), source, faults)


def with_target(query: Query, profile: Profile) -> Query:
    """The query with a written reply.

    Raises Refused for one whose answer is not the query's.
    """
    reply = query.target or _bare_answer(query, profile)
    if query.answer_kind is not AnswerKind.text:  # an open answer cannot be told from other words
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
    """The bare answer as the profile reads it."""
    members = [option for option in query.options if option in (query.answer, *query.also)] or [
        query.answer
    ]
    if profile.style == "letter" and query.answer_kind in (AnswerKind.choice, AnswerKind.set):
        members = [chr(65 + query.options.index(member)) for member in members]
    return ", ".join(members)


@dataclass(frozen=True)
class _SourceFormat:
    """What `benchmarks.base.read` asks of a benchmark, of a source's rows."""

    config: TrainingSource
    profile: Profile

    def read_rows(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        field = {"queries": "id", "r1": "problem_id", "hub": self.config.columns.get("id", "")}[
            self.config.format
        ]
        return with_keys(self._items(source), lambda item: item_id(item, field))

    def _items(self, source: AnnotationSource) -> Iterator[AnnotationRow]:
        pattern = source.layout
        if pattern.endswith(".parquet"):
            yield from source.parquet_rows(pattern)
            return
        for path in sorted(source.root.glob(pattern)):
            name = str(path.relative_to(source.root))
            yield from source.json_rows(name) if path.suffix == ".json" else source.jsonl_rows(name)

    def build_query(self, source: AnnotationSource, row: AnnotationRow) -> Query:
        made = {"queries": _query_from_schema, "r1": _query_from_r1, "hub": _query_from_table}[
            self.config.format
        ](source, row, self.config)
        # Supervised training alone needs a reply, so it alone refuses one.
        return with_target(made, self.profile) if "sft" in self.config.stages else made


def _query_from_schema(
    source: AnnotationSource,
    row: AnnotationRow,
    config: TrainingSource,  # noqa: ARG001
) -> Query:
    given = Query.model_validate(row.fields)
    media = []
    for place, medium in enumerate(given.media):
        found = source.find_media(
            f"media.{place}",
            medium.kind,
            str(Path(row.file).parent / medium.uri),
            medium.start,
            medium.end,
        )
        if found.sha256 != medium.sha256:
            raise Refused(
                f"media.{place}",
                f"{medium.uri} is another file than the row names: its sha256 is"
                f" {found.sha256[:12]}..",
            )
        media.append(found)
    return given.model_copy(update={"benchmark": source.entry.name, "media": tuple(media)})


def _query_from_r1(source: AnnotationSource, row: AnnotationRow, config: TrainingSource) -> Query:
    item = row.fields
    if missing := [
        field for field in ("problem_type", "solution", "data_type") if is_blank(item[field])
    ]:
        raise Refused(missing[0], "is missing")
    kind = R1_KINDS.get(item["problem_type"])
    if kind is None:
        raise Excluded(
            "problem_type",
            f"{item['problem_type']!r} has no answer that is judged here: {', '.join(R1_KINDS)}"
            " have",
        )
    gold = _ANSWER.search(item["solution"])
    if not gold or not (answer := gold[1].strip()):
        raise Refused("solution", "holds no <answer>")
    options = ["Yes", "No"] if kind is AnswerKind.yes_no else []
    if kind in (AnswerKind.choice, AnswerKind.set):
        _, options = parse_options("options", item["options"])
    question = item["problem"]
    if kind is AnswerKind.interval:
        question, answer = _interval_question(question, item.get("duration")), _parse_span(answer)
    answers = parse_solution(
        kind, answer.rstrip(".") if kind is AnswerKind.choice else answer, options
    )
    native = {"data_source": str(item.get("data_source") or "")}
    if kind is AnswerKind.number and answers[0] != answer:
        native["answer"] = answer  # replies are read in its notation
    if item["problem_type"] in GRADED:
        native["graded"] = GRADED[item["problem_type"]]
    media = _r1_media(source, item, config)
    return Query(
        benchmark=source.entry.name,
        id=str(item["problem_id"] if "problem_id" in item else source.next_number("rows")),
        type=item["problem_type"],
        question=question,
        options=tuple(options),
        answer=answers[0],
        also=tuple(answers[1:]),
        answer_kind=kind,
        media=media,
        cluster=media[0].uri if media else "",
        native=native,
        target="\n".join(filter(None, [item.get("process"), item["solution"]])),
    )


def _interval_question(event: str, duration: float | None) -> str:
    """A question after an event, which the row only names."""
    lasts = f" The video lasts {duration:.2f} seconds." if duration else ""
    return (
        f'During which span of time does this happen: "{event}"?{lasts} Give its start and end in'
        " seconds, as [start, end]."
    )


def _parse_span(answer: str) -> str:
    """The one span of an answer as `Query.answer` holds it, to the millisecond.

    Raises Excluded for several, Refused for none.
    """
    spans = answer.split(";")
    if len(spans) > 1:
        raise Excluded(
            "solution", f"holds {len(spans)} spans of time, and an answer is judged here by one"
        )
    try:
        start, end = (round(time, 3) for time in parse_list("solution", answer))
        if not 0 <= start < end:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise Refused("solution", f"{answer!r} is no span of time, as [12.0, 19.0] is") from error
    return f"{start}-{end}"


def _r1_media(
    source: AnnotationSource, item: Mapping[str, Any], config: TrainingSource
) -> tuple[Media, ...]:
    kinds, place = item["data_type"].split("_"), item.get("path")
    if kinds == ["text"]:
        return ()
    if unknown := [kind for kind in kinds if kind not in ("image", "audio", "video")]:
        raise Refused(
            "data_type",
            f"{item['data_type']!r}: {unknown[0]!r} is none of image, audio, video, text",
        )
    if not isinstance(place, str | Mapping):
        raise Refused("path", f"is neither a path nor one for each medium: {place!r:.60}")
    given = dict.fromkeys(kinds, place) if isinstance(place, str) else dict(place)
    if item.get("audio_path"):
        given["audio"] = item["audio_path"]
    elif config.sound and "audio" in kinds:
        given.setdefault("audio", given.get("video"))
    if missing := [kind for kind in kinds if not given.get(kind)]:
        raise Refused("path", f"names no {missing[0]}")
    # Video-R1's paths start at the folder of the data, some with a slash.
    media = {
        kind: source.find_media("path", kind, uri.lstrip("/")) for kind, uri in given.items() if uri
    }
    if config.sound and "video" in media and "audio" not in media:
        film = media["video"]
        if _has_sound(source.media_path(film), film.sha256):
            media["audio"] = film.model_copy(update={"kind": "audio"})
    return tuple(media.values())


@lru_cache(4096)
def _has_sound(path: Path, sha256: str) -> bool:  # noqa: ARG001 - another file may take its place
    try:
        return has_sound_track(path)
    except DataError:  # what is wrong with the video is said where its picture is checked
        return False


def count_without_sound(rows: Sequence[Query]) -> int:
    """Count the rows that show a video without sound: of a source with `sound`, those whose video
    has no sound track."""
    kinds = [{medium.kind for medium in row.media} for row in rows]
    return sum("video" in shown and "audio" not in shown for shown in kinds)


def _query_from_table(
    source: AnnotationSource, row: AnnotationRow, config: TrainingSource
) -> Query:
    def cell(name: str) -> Any:
        column = config.columns.get(name)
        value = None if column is None or column in row.null else row.fields[column]
        return None if is_blank(value) else value

    if missing := [name for name in ("question", "answer") if cell(name) is None]:
        raise Refused(config.columns[missing[0]], "is missing")
    kinds: tuple[MediaKind, ...] = ("image", "audio", "video")
    media = tuple(
        source.embedded_media(config.columns[kind], kind, cell(kind))
        for kind in kinds
        if cell(kind) is not None
    )
    names, options = (
        parse_options(config.columns["options"], cell("options")) if cell("options") else ([], [])
    )
    written = answer = cell_text(cell("answer")).strip()
    target, native = cell("target"), {}
    kind = AnswerKind.text
    if options:
        kind = AnswerKind.choice
        # The text of an option, its name or its letter; an option may well be "A".
        if answer not in options:
            named = options[names.index(answer)] if answer in names else None
            answer = named or option_by_letter(
                config.columns["answer"], answer.strip("().:"), options
            )
    elif any(map(str.isdigit, written)) and parse_number(written, written) is not None:
        kind, answer = AnswerKind.number, plain_number(written)
        if answer != written:
            target, native = target or written, {"answer": written}
    return Query(
        benchmark=source.entry.name,
        id=str(source.next_number("rows")) if cell("id") is None else cell_text(cell("id")),
        type=str(cell("type") or kind),
        question=str(cell("question")),
        options=tuple(options),
        answer=answer,
        answer_kind=kind,
        media=media,
        cluster=media[0].sha256 if media else "",
        native=native,
        target=str(target) if target else None,
    )
